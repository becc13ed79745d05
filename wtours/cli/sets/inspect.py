"""The commands that show what a shard set holds and lacks: shards list, info, sample, missing."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wtours.cli import console
from wtours.cli.options import FINISHED_WITH_FAILURES, ROOT, AsJson, Root, out_option
from wtours.cli.sets.places import (
    SetName,
    SetOrFolder,
    needs_every_receipt,
    needs_receipts,
    reading_workspace,
    shard_set,
)
from wtours.errors import UsageError
from wtours.storage.store import as_location
from wtours.text import bytes_text, counted, seconds_text
from wtours.workspace.layout import checked_name

if TYPE_CHECKING:
    from wtours.shards.statistics import VideoInfo


def list_of_shards(as_json: AsJson = False, root: Root = ROOT) -> None:
    """Show the shard sets under the root: how large they are, and how they were sampled.

    Example: wtours shards list
    """
    from wtours.diagnostics.status import published_shard_sets
    from wtours.shards.params import MAX_SHORT_SIDE
    from wtours.shards.schema import set_sha256

    with reading_workspace(root, "shards", needs=needs_receipts) as layout:
        sets = published_shard_sets(layout)
    if as_json:
        console.print_json(
            [
                {
                    "name": name,
                    "videos": [video.video_id for video in dataset.videos],
                    "shards": len(dataset.shards),
                    "frames": dataset.frames,
                    "bytes": dataset.bytes,
                    "params": dataset.model_dump(mode="json")["params"],
                    "set_sha256": set_sha256(dataset.shards),
                }
                for name, dataset in sets.items()
            ]
        )
        return
    if not sets:
        console.say(f"no shard set under {as_location(root)}: `wtours shard` makes one")
        return
    console.print_table(
        f"{counted(len(sets), 'shard set')} under {as_location(root)}",
        ("set", "videos", "frames", "bytes", "frames/s", "short side"),
        [
            (
                name,
                f"{len(dataset.videos):,}",
                f"{dataset.frames:,}",
                bytes_text(dataset.bytes),
                "native" if (rate := dataset.params.rate) is None else f"{float(rate):.4g}",
                "native" if (side := dataset.params.short_side) == MAX_SHORT_SIDE else str(side),
            )
            for name, dataset in sets.items()
        ],
    )


def info_of_shards(
    name: SetOrFolder = "default",
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Count frames, hours, bytes, clips (8 frames, 1 s apart) and shots, and name the licenses.

    Example: wtours shards info default
    """
    from wtours.shards.statistics import shards_info

    result = shards_info(shard_set(name, root))
    if as_json:
        content = {**dataclasses.asdict(result), "directory": str(result.directory)}
        console.print_json({**content, "licenses": result.licenses})
        return
    console.print_table(
        f"{result.directory}: {counted(result.frames, 'frame')}, "
        f"{seconds_text(result.hours * 3600)}, {bytes_text(result.bytes)} in "
        f"{counted(result.shards, 'shard')}, {counted(result.clips, 'clip')}",
        ("video", "frames", "length", "bytes", "clips", "shots", "license"),
        [
            (
                video.video_id,
                f"{video.frames:,}",
                seconds_text(video.hours * 3600),
                bytes_text(video.bytes),
                f"{video.clips:,}",
                "not analyzed" if video.shots is None else str(video.shots),
                _license_text(video),
            )
            for video in result.videos
        ],
    )
    if not result.shots_known:
        console.say("Clips of videos that are not analyzed go across cuts: run `wtours analyze`.")


def _license_text(video: "VideoInfo") -> str:
    claimed = video.license_claimed or "unknown"
    if video.license_observed or claimed == "unknown":
        return video.license_observed or claimed
    return f"{claimed} (not observed)"


def sample_of_shards(
    name: SetOrFolder = "default",
    out: Annotated[Path, out_option("The PNG to write.", dir_okay=False)] = Path("grid.png"),
    clips: Annotated[int, typer.Option(min=1, max=100, help="Rows.")] = 8,
    seed: Annotated[int, typer.Option(help="Another seed, other clips.")] = 0,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Draw random clips of a shard set, a row each: 8 frames, 1 s apart, with names and times.

    Example: wtours shards sample default --out grid.png
    """
    from wtours.shards.contact_sheet import has_captions, sample_grid

    directory = shard_set(name, root)
    drawn = sample_grid(directory, out, num_clips=clips, seed=seed)
    if as_json:
        rows = [{"video_id": clip.video_id, "pts_us": list(clip.pts_us)} for clip in drawn]
        console.print_json({"file": str(out), "clips": rows})
        return
    for row, clip in enumerate(drawn, 1):
        first = seconds_text(clip.pts_us[0] / 1_000_000)
        console.say(f"row {row}: {clip.video_id} from {first}")
    if not has_captions():
        console.note("no names and times in the picture: pillow is not installed")
    console.say(str(out))


def missing_of_shards(
    name: SetName = "default",
    parts: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="N of --part i/N: name the parts instead.")
    ] = None,
    as_array: Annotated[
        bool,
        typer.Option(
            "--array", help="Only the unfinished parts, for `sbatch --array=`; needs --parts."
        ),
    ] = False,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Show which segments of a shard set are not finished, or which parts; exit 3 if any.

    Example: sbatch --array=$(wtours shards missing wt_all --parts 64 --array) part.sh
    """
    from wtours.sharding.missing import array_expression, missing_segments, unfinished_parts

    if as_array and parts is None:
        raise UsageError("--array needs --parts N, the N of the --part i/N that were run")
    folder = f"shards/{checked_name(name, 'shard set')}"
    with reading_workspace(root, folder, needs=needs_every_receipt) as layout:
        directory = layout.shards_dir(name)
        missing = missing_segments(directory)
        numbers = [] if parts is None else unfinished_parts(directory, parts)
    if as_json:
        content: dict[str, object] = {"missing": missing}
        if parts is not None:
            content |= {"parts": numbers, "array": array_expression(numbers)}
        console.print_json(content)
    elif as_array:
        console.say(array_expression(numbers))
    elif parts is not None:
        console.say(", ".join(f"{number}/{parts}" for number in numbers) or "none")
    else:
        for video_id, segments in missing.items():
            console.say(f"{video_id}: {array_expression(segments)}")
        console.say(f"missing: {counted(sum(map(len, missing.values())), 'segment')}")
    if missing:
        console.note("run `wtours shard` again, or the parts that are named, with the same options")
        raise typer.Exit(FINISHED_WITH_FAILURES)
