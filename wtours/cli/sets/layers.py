"""The commands on layers, the side data of a shard set: layer make, list, verify, drop."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wtours.cli import console
from wtours.cli.command import offer_layers
from wtours.cli.options import (
    ROOT,
    AsJson,
    Root,
    existing_run,
    finish,
    refuse_unused,
    require_training,
    set_option,
)
from wtours.cli.sets.places import shard_set
from wtours.errors import UsageError
from wtours.text import bytes_text, counted
from wtours.workspace.layout import Layout

if TYPE_CHECKING:
    from wtours.layers.source import LayerSource
    from wtours.shards.index import ShardIndex

LayerName = Annotated[
    str,
    typer.Argument(metavar="LAYER", autocompletion=offer_layers, help="The layer's name."),
]
SetOption = Annotated[str, set_option("NAME|DIR|URL", "The shard set that it is beside.")]
Origin = Annotated[
    str,
    typer.Option(
        "--from",
        metavar="ORIGIN",
        help="What it is made from: flow, detections, objects:RUN or external:PATH.",
    ),
]
Interval = Annotated[float, typer.Option(help="flow: seconds from a frame to the one it leads to.")]
ShortSide = Annotated[
    int, typer.Option(metavar="PIXELS", help="flow: the short side that frames are scaled to.")
]
Weights = Annotated[
    Path | None,
    typer.Option(
        help="flow: a state dict of raft_small.",
        show_default="torchvision's, downloaded",
        dir_okay=False,
    ),
]
Start = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="Tracks: the moment at the video's first frame, in seconds or as an ISO time.",
        show_default="a GPX's first point; second 0 of a CSV",
    ),
]
MaxGap = Annotated[float, typer.Option(help="Tracks: longest time between two points, in seconds.")]
AllowMissing = Annotated[
    bool, typer.Option("--allow-missing", help="external: frames without a value are allowed.")
]


_INTERVAL, _SHORT_SIDE, _MAX_GAP = 1.0, 256, 5.0


def make_of_layer(
    name: LayerName,
    origin: Origin,
    shards: SetOption = "default",
    interval: Interval = _INTERVAL,
    short_side: ShortSide = _SHORT_SIDE,
    weights: Weights = None,
    start: Start = None,
    max_gap: MaxGap = _MAX_GAP,
    allow_missing: AllowMissing = False,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Make side data of each frame, beside a shard set; rerun the command to resume.

    flow: optical flow by RAFT. detections: the boxes of `wtours analyze`. objects:RUN: what a run
    tracks. external:PATH: a table .parquet with pts_us or time; the masks of a COCO .json; a track
    .gpx or .csv; a .npy a video; or a folder with a .npy or .png a frame. Examples:

    wtours layer make flow --from flow --interval 0.5

    wtours layer make depth --from external:depth-folder

    wtours layer make gps --from external:walk.gpx --start 2024-05-01T10:00:00Z
    """
    from wtours.layers.make import make_layer
    from wtours.shards.index import ShardIndex

    layout, index = Layout(root), ShardIndex.open(shard_set(shards, root))
    source = _source(
        index, layout, origin, interval, short_side, weights, start, max_gap, allow_missing
    )
    with console.progress_bars("layer", "steps") as on_progress:
        report = make_layer(index, name, source, origin=origin, on_progress=on_progress)
    held, size = report.file, sum(shard.bytes for shard in report.file.shards)
    content = {
        "directory": str(report.directory),
        **held.model_dump(mode="json", exclude={"shards", "index"}),
        "bytes": size,
        "shards_written": report.num_written,
        "shards_kept": report.num_kept,
    }
    text = (
        f"{report.directory}: {counted(held.values, 'value')} for "
        f"{counted(held.frames, 'frame')}, {bytes_text(size)} "
        f"({counted(report.num_written, 'shard')} written, {report.num_kept} kept)\n{held.about}"
    )
    console.show(text, content, as_json=as_json)


def list_of_layers(
    shards: SetOption = "default", as_json: AsJson = False, root: Root = ROOT
) -> None:
    """Show the layers of a shard set: what they are, of how many frames, and their size.

    Example: wtours layer list --shards venice_30
    """
    from wtours.shards.layers.schema import layer_files
    from wtours.shards.range_reads.remote import dataset_at
    from wtours.storage.object_store import open_store

    place = shard_set(shards, root)
    dataset_at(place)  # else a set that is not there would have no layers
    store = open_store(place)
    directory, files = store.url, layer_files(store)
    if as_json:
        console.print_json([file.model_dump(mode="json", exclude={"shards"}) for file in files])
        return
    console.print_table(
        f"{directory}: {counted(len(files), 'layer')}",
        ("layer", "values", "frames", "bytes", "what"),
        [
            (
                file.name,
                f"{file.values:,}",
                f"{file.frames:,}",
                bytes_text(sum(shard.bytes for shard in file.shards)),
                file.about,
            )
            for file in files
        ],
    )


def verify_of_layer(
    name: LayerName,
    shards: SetOption = "default",
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Make damaged shards again, with the options of `make`."),
    ] = False,
    origin: Annotated[
        str | None,
        typer.Option("--from", metavar="ORIGIN", help="To repair.", show_default="as it was made"),
    ] = None,
    weights: Weights = None,
    start: Start = None,
    max_gap: MaxGap = _MAX_GAP,
    allow_missing: AllowMissing = False,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Read every value of a layer: bytes, names, times beside those of the frames.

    Example: wtours layer verify flow --repair
    """
    if not repair:
        refuse_unused(
            "a check alone (no --repair)",
            {
                "--from": origin is not None,
                "--weights": weights is not None,
                "--start": start is not None,
                "--max-gap": max_gap != _MAX_GAP,
                "--allow-missing": allow_missing,
            },
        )
    from wtours.layers.verify import layer_file_of, repair_layer, verify_layer
    from wtours.shards.index import ShardIndex

    layout, index = Layout(root), ShardIndex.open(shard_set(shards, root))
    with console.progress_bars("verify", "steps") as on_progress:
        problems = verify_layer(index, name, on_progress=on_progress)
    repaired = repair and bool(problems)
    if repaired:
        made = layer_file_of(index, name)
        flow = made.params if made.params.get("kind") == "flow" else {}
        source = _source(
            index,
            layout,
            origin or made.origin,
            flow.get("interval_seconds", _INTERVAL),
            flow.get("short_side", _SHORT_SIDE),
            weights,
            start,
            max_gap,
            allow_missing,
        )
        with console.progress_bars("layer", "steps") as on_progress:
            repair_layer(index, name, source, problems, origin=made.origin, on_progress=on_progress)
            problems_left = verify_layer(index, name)
    else:
        problems_left = problems
    if as_json:
        listed = [{"file": problem.file, "message": problem.message} for problem in problems]
        console.print_json({"layer": name, "problems": listed, "repaired": repaired})
    elif repaired:
        for problem in problems:
            console.warn(f"made again: {problem.file}: {problem.message}")
    else:
        console.say(f"{index.directory}: layer {name}: {counted(len(problems), 'problem')}")
    finish({problem.file: problem.message for problem in problems_left}, "damaged")


def drop_of_layer(
    name: LayerName, shards: SetOption = "default", as_json: AsJson = False, root: Root = ROOT
) -> None:
    """Remove a layer; the frames are not touched.

    Example: wtours layer drop flow
    """
    from wtours.layers.make import drop_layer

    directory = drop_layer(shard_set(shards, root), name)
    console.show(f"removed {directory}", {"removed": directory}, as_json=as_json)


def _source(
    index: "ShardIndex",
    layout: Layout,
    origin: str,
    interval: float,
    short_side: int,
    weights: Path | None,
    start: str | None,
    max_gap: float,
    allow_missing: bool,
) -> "LayerSource":
    """Return what a layer is made from, by the text of --from; UsageError: no such kind."""
    kind, _, text = origin.partition(":")
    of_flow = {
        "--interval": interval != _INTERVAL,
        "--short-side": short_side != _SHORT_SIDE,
        "--weights": weights is not None,
    }
    of_files = {
        "--start": start is not None,
        "--max-gap": max_gap != _MAX_GAP,
        "--allow-missing": allow_missing,
    }
    unused = {"flow": of_files, "external": of_flow}
    refuse_unused(f"--from {origin}", unused.get(kind, of_flow | of_files))
    if origin == "flow":
        from wtours.layers.flow import FlowSource

        return FlowSource(index, interval_seconds=interval, short_side=short_side, weights=weights)
    if origin == "detections":
        from wtours.layers.detections import DetectionSource

        return DetectionSource(index, layout)
    if kind == "objects" and text:
        require_training("the layer of a run's objects")
        run = existing_run(text, layout.root)
        with console.loading_torch(f"layer {origin}"):
            from training.visualization.tracker import RunTracker
            from wtours.layers.objects import ObjectSource

        return ObjectSource(index, RunTracker(run))
    if kind != "external" or not text:
        raise UsageError(f"--from {origin!r}: give flow, detections, objects:RUN or external:PATH")
    from wtours.layers.external import external_source

    return external_source(
        index, Path(text), start=start, max_gap_seconds=max_gap, allow_missing=allow_missing
    )
