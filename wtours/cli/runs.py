"""The commands on a run: replay, rewind, visualize, export, import."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from wtours.cli import console
from wtours.cli.command import offer_runs, offer_videos
from wtours.cli.next_command import note_next
from wtours.cli.options import (
    ROOT,
    AsJson,
    Root,
    existing_run,
    finish,
    out_option,
    refuse_unused,
    require_path,
    require_training,
    run_folder,
    set_option,
)
from wtours.cli.sets.places import shard_set
from wtours.errors import CheckpointError, ShardError
from wtours.text import counted, listed
from wtours.workspace.layout import Layout

_SPIKES = 10
_CLIPS_OF_STEP = 8

Palette = Literal["rgb", "colorblind"]
"""The colors of `wtours visualize`."""
ExportTarget = Literal["timm", "hf", "onnx", "official", "detectron2", "seqtrack"]
"""What `wtours export` writes for."""

ExistingRun = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        autocompletion=offer_runs,
        help="A run's name, its folder, or a checkpoint's folder.",
    ),
]


SetOfRun = Annotated[
    str | None,
    set_option(
        "NAME|DIR|URL",
        "The shard set.",
        show_default="the one under the root that the run was trained on",
    ),
]


def visualize(
    run: ExistingRun,
    video: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            autocompletion=offer_videos,
            help="The video to show.",
            show_default="the one with the most clips",
        ),
    ] = None,
    shards: SetOfRun = None,
    clips: Annotated[int, typer.Option(min=1, help="Clips to draw.")] = 4,
    palette: Annotated[
        Palette,
        typer.Option(
            metavar="NAME",
            help="Colors of the objects: rgb (red, green and blue), or colorblind (for all eyes).",
        ),
    ] = "rgb",
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Draw the tracked objects' attention over a clip's frames (the paper's Figures 4 to 6).

    Writes an image and a video (MP4) for each clip.

    Examples:

    wtours visualize default

    wtours visualize default --video venice --palette colorblind
    """
    require_training("visualizing")
    run_dir = existing_run(run, root)
    with console.loading_torch(f"visualize {run}"):
        from training.visualization.clips import visualize_clips

    with console.progress_bars("visualize", "steps") as on_progress:
        paths = visualize_clips(
            run_dir,
            _set_of_run(run_dir, shards, root),
            video,
            num_clips=clips,
            palette=palette,
            on_progress=on_progress,
        )
    files = [str(path) for path in paths]
    console.show("\n".join(files), {"files": files}, as_json=as_json)


def _set_of_run(run: Path, given: str | None, root: Path) -> Path | str:
    """Return the shard set that is given, else the one under the root that a run was trained on.

    Where none has its set hash (the run is of images, or its set has grown since): the one that has
    the run's name, else `default`.

    Raises:
        ShardError: there are others only.
    """
    if given is not None:
        return shard_set(given, root)
    from training.engine.checkpoint import read_state
    from training.engine.checkpoint_files import find_checkpoint, run_dir_of
    from wtours.shards.schema import DATASET_FILE, read_dataset, set_sha256

    checkpoint = find_checkpoint(run)
    wanted, own_name = read_state(checkpoint)[2].set_sha256, run_dir_of(checkpoint).name
    found = sorted(path.parent for path in (root / "shards").glob(f"[!.]*/{DATASET_FILE}"))
    for directory in found:
        with contextlib.suppress(ShardError):  # another set may be damaged
            if set_sha256(read_dataset(directory).shards) == wanted:
                return directory
    names = [directory.name for directory in found]
    for name in (own_name, "default"):
        if name in names:
            return found[names.index(name)]
    if names:
        raise ShardError(
            f"no shard set under {root} is the one that {run} was trained on: name one by "
            f"--shards: {listed(names, like=own_name)}"
        )
    return shard_set("default", root)


def show_runs(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN",
            autocompletion=offer_runs,
            help="Names or folders of runs.",
            show_default="all of the root",
        ),
    ] = None,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Write one HTML page of training runs side by side, and print their summary.

    Loss, entropy, spread, mask overlap and k-NN over steps, attention figures, evaluations, the
    settings that differ, and the tables of `wtours reproduce`. While a run trains, run it again.

    Example: wtours runs dora dino
    """
    folders = [existing_run(name, root) for name in runs or ()]
    from wtours.report.runs.page import build_runs_page

    if not runs:
        folders = sorted(path.parent for path in (root / "runs").glob("*/config.yaml"))
    tables, notes = _reproduced_tables(root)
    report = build_runs_page(Layout(root), folders, tables=tables, notes=notes)
    if as_json:
        console.print_json({"page": str(report.page), "runs": report.as_dicts()})
    else:
        columns, *rows = report.summary()
        console.print_table("Runs", columns, rows)
        console.say(report.page.absolute().as_uri())
    finish(report.problems, "shown in part", "the rest of the page is whole; it shows what it can")


def _reproduced_tables(root: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the tables of the plans that were begun under this root, and their notes."""
    tables, notes = [], dict[str, None]()
    for folder in sorted((root / "reproduce").glob("*/")):
        require_training("showing the tables of `wtours reproduce`")
        from training.reproduce.plan import load_plan
        from training.reproduce.progress import CONTRADICTIONS, table_cells

        plan = load_plan(folder.name, root=root, tables=(), folders={})
        for table, networks in plan.rows:
            columns = [word for m in table.measures for word in (m, "measured")]
            title = f"Table {table.number}: {table.title}"
            if plan.name != "paper":
                title += f" ({plan.file.title})"
            columns = [*table.labels, *columns]
            rows = table_cells(plan, table, networks)
            tables.append({"title": title, "columns": columns, "rows": rows})
        notes |= dict.fromkeys(CONTRADICTIONS)
    return tables, list(notes)


def export(
    run: ExistingRun,
    to: Annotated[
        ExportTarget,
        typer.Option(
            metavar="FORMAT",
            help="timm: a folder for timm.create_model; hf: for transformers; onnx: "
            "for ONNX Runtime and others; official: a .pth as "
            "the released code reads it; detectron2, seqtrack: a .pth for these.",
        ),
    ] = "timm",
    out: Annotated[
        Path | None, out_option("Where to.", metavar="PATH", show_default="in the run's exports")
    ] = None,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Write a run's teacher as a file that other programs load, with a model card; print how.

    Example: wtours export default --to timm
    """
    require_training("exporting")
    run_dir = existing_run(run, root)
    with console.loading_torch(f"export {run}"):
        from training.weights.export import export_run

    exported = export_run(run_dir, to=to, out=out)
    content = {"path": str(exported.path), "card": str(exported.card)}
    content["how_to_load"] = exported.how_to_load
    console.show(f"{exported.path}\n{exported.how_to_load}", content, as_json=as_json)


def import_weights(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A .pth of DINO's or DORA's authors.")
    ],
    run: Annotated[str, typer.Option(metavar="NAME|DIR", help="The run to make of it.")],
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Make a run of released weights, for eval, visualize and export; runs no code of the file.

    Example: wtours import dino_deitsmall16_pretrain.pth --run dino
    """
    require_training("importing")
    require_path(file)
    with console.loading_torch(f"import {file}"):
        from training.weights.official import import_released

    made = str(import_released(file, run_folder(run, Layout(root))))
    console.show(made, {"run": made}, as_json=as_json)


def replay(
    listing: Annotated[
        Path, typer.Argument(metavar="FILE", help="A run's nonfinite-step-N.json.", dir_okay=False)
    ],
    shards: SetOfRun = None,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Compute a step whose loss was not finite again, and name the first layer that is not.

    Start as many processes as the run had; nothing is written.

    Example: wtours replay data/runs/default/nonfinite-step-12.json
    """
    require_training("replaying a step")
    if not listing.is_file():
        there = sorted(path.name for path in listing.parent.glob("nonfinite-step-*.json"))
        known = f"beside it: {listed(there)}" if there else "give a run's nonfinite-step-N.json"
        raise CheckpointError(f"{listing} is not there; {known}")
    with console.loading_torch(f"replay {listing}"):
        from training.distributed.launch import joined_world
        from training.nan_replay import replay as compute

    state = listing.with_suffix("")
    place = _set_of_run(state, shards, root) if state.is_dir() else shard_set("default", root)
    with joined_world() as world:
        result = compute(listing, place, world)
    console.show(result.describe(), dataclasses.asdict(result), as_json=as_json)


def rewind(
    run: ExistingRun,
    step: Annotated[
        int | None, typer.Option(help="Show this step; else the largest spikes.")
    ] = None,
    shards: SetOfRun = None,
    clips: Annotated[
        int, typer.Option(min=1, help="At most so many of its clips.")
    ] = _CLIPS_OF_STEP,
    rank: Annotated[
        bool,
        typer.Option("--rank", help="Compute each clip's loss by that checkpoint; highest first."),
    ] = False,
    out: Annotated[
        Path | None, out_option("The page.", metavar="FILE", show_default="in the run's folder")
    ] = None,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Show a past step: its clips, crops and metrics, masks by the nearest checkpoint.

    All of it follows from the seed and the step. Without --step: the steps whose loss rose most,
    and signs of collapse.

    Examples:

    wtours rewind default

    wtours rewind default --step 137 --rank
    """
    if step is None:
        given = {"--rank": rank, "--clips": clips != _CLIPS_OF_STEP, "--out": out is not None}
        refuse_unused("the largest spikes (no --step)", given)
    require_training("rewinding a run")
    run_dir = existing_run(run, root)
    with console.loading_torch(f"rewind {run}"):
        from training.rewind import largest_spikes, signs_of_collapse

    spikes, collapse = largest_spikes(run_dir, _SPIKES), signs_of_collapse(run_dir)
    rows = [(one.step, one.loss, one.before, one.jump) for one in spikes]
    if step is None:
        if as_json:
            named = ("step", "loss", "before", "jump")
            spiking = [dict(zip(named, row, strict=True)) for row in rows]
            console.print_json({"spikes": spiking, "collapse": collapse})
            return
        for warning in collapse:
            console.say(f"sign of collapse: {warning}")
        if not rows:
            console.say(f"{run_dir}: no step's loss rose; --step N shows any step")
            return
        console.print_table(
            f"{run_dir}: steps whose loss rose most",
            ("step", "loss", "before", "rise"),
            [(str(at), *(f"{value:.4g}" for value in values)) for at, *values in rows],
        )
        note_next("rewind", run, "--step", str(spikes[0].step), root=root)
        return
    from training.distributed.launch import joined_world
    from training.rewind import rewind as rewound
    from wtours.report.runs.rewind import RewindPage, write_rewind_page

    with joined_world() as world:
        found = rewound(
            run_dir,
            _set_of_run(run_dir, shards, root),
            step,
            num_clips=clips,
            rank_clips=rank,
            world=world,
        )
    page = out or run_dir / f"rewind-step-{step:08d}.html"
    write_rewind_page(
        page,
        RewindPage(
            run=run_dir.name,
            step=step,
            metrics=found.metrics or {},
            before=found.before,
            checkpoint_step=found.checkpoint_step,
            clips=[(clip.facts, clip.crops, clip.masks) for clip in found.clips],
            num_clips=found.num_clips,
            spikes=rows,
            collapse=collapse,
        ),
    )
    if as_json:
        console.print_json(
            {
                "run": str(run_dir),
                "step": step,
                "page": str(page),
                "metrics": found.metrics,
                "before": found.before,
                "checkpoint": str(found.checkpoint),
                "checkpoint_step": found.checkpoint_step,
                "clips_of_step": found.num_clips,
                "clips": [clip.facts for clip in found.clips],
            }
        )
        return
    loss = (found.metrics or {}).get("loss")
    logged = "not logged" if loss is None else f"{loss:.4f}"
    num_clips = counted(found.num_clips, "clip")
    console.say(f"step {step}: loss {logged}; {num_clips}, masks by {found.checkpoint}")
    for clip in found.clips:
        of_clip = f", loss {clip.facts['loss']:.4f}" if rank else ""
        name = clip.facts.get("video_id") or clip.facts.get("image")
        times = ", ".join(f"{pts / 1e6:.2f} s" for pts in clip.facts.get("pts_us", ()))
        at = f" at {times}" if times else ""
        console.say(f"  {name}{at} (position {clip.facts['position']}{of_clip})")
    console.say(page.absolute().as_uri())
