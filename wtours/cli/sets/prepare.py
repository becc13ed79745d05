"""The command that does it all from one decode: prepare."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from wtours.acquire.ytdlp.formats import DEFAULT_MAX_HEIGHT
from wtours.cli import console
from wtours.cli.acquire import AllowUnknownLicense
from wtours.cli.analyze import DetectFps, Detector, FrameQuality, TransNet
from wtours.cli.next_command import note_next, note_pretrain
from wtours.cli.options import (
    ROOT,
    Address,
    AsJson,
    ExecutorOption,
    FromDir,
    Jobs,
    ManifestOption,
    MaxHeight,
    MaxLoss,
    NewShards,
    Root,
    Videos,
    as_typed,
    chosen_manifest,
    executor_of,
    finish,
    refuse_unused,
)
from wtours.cli.sets.places import needs_tables, place_text, shard_workspace
from wtours.cli.shard import (
    BlurBoxes,
    BlurFaces,
    CodecOption,
    FramesPerSecond,
    PartOption,
    Quality,
    ShardSeconds,
    ShortSide,
    say_estimate,
    say_shards,
    shard_params,
)
from wtours.execution.executor import default_jobs
from wtours.media.limits import MAX_LOSS
from wtours.text import counted

if TYPE_CHECKING:
    from wtours.prepare.pipeline import PrepareReport


def prepare(
    manifest: ManifestOption = None,
    videos: Videos = None,
    name: NewShards = "default",
    from_dir: FromDir = None,
    max_height: MaxHeight = DEFAULT_MAX_HEIGHT,
    allow_unknown_license: AllowUnknownLicense = False,
    detector: Detector = "none",
    detect_fps: DetectFps = "1",
    transnet: TransNet = False,
    frame_quality: FrameQuality = False,
    fps: FramesPerSecond = "30",
    short_side: ShortSide = "512",
    codec: CodecOption = "jpeg",
    quality: Quality = 90,
    shard_seconds: ShardSeconds = 60,
    blur_boxes: BlurBoxes = None,
    blur_faces: BlurFaces = False,
    jobs: Jobs = default_jobs(),
    executor: ExecutorOption = "processes",
    address: Address = None,
    part: PartOption = None,
    max_loss: MaxLoss = MAX_LOSS,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Download, analyze and shard in one go: each segment is decoded once for everything.

    It publishes the bytes that the three commands publish, so either way resumes the other.
    Examples:

    wtours prepare --video venice

    wtours prepare --executor ray --address auto
    """
    from wtours.acquire.options import FetchOptions
    from wtours.analyze.video_work import SEGMENT_SECONDS
    from wtours.execution.parts import Part
    from wtours.prepare.pipeline import prepare_videos
    from wtours.prepare.plan import PrepareOptions
    from wtours.sharding.anonymize.params import with_blur

    if detector == "none":
        refuse_unused("--detector none", {"--detect-fps": detect_fps != "1"})
    loaded = chosen_manifest(manifest)
    entries = loaded.select(videos or ())
    params = shard_params(fps, short_side, codec, quality, shard_seconds)
    ids = [entry.id for entry in entries]
    chosen_part = None if part is None else Part.parse(part)
    if shard_seconds % SEGMENT_SECONDS and SEGMENT_SECONDS % shard_seconds:
        console.note(
            f"--shard-seconds {shard_seconds} and the {SEGMENT_SECONDS} s of the analysis do not "
            f"meet: seconds at the borders are decoded twice; a divisor or multiple would not be"
        )
    is_part = part is not None
    with (
        shard_workspace(
            name, max_loss, root, executor, needs=needs_tables, is_part=is_part
        ) as layout,
        console.progress_bars("prepare", "percent") as on_progress,
        executor_of(executor, jobs, address, layout) as runs,
    ):
        params = with_blur(layout.shards_dir(name), params, ids, boxes=blur_boxes, faces=blur_faces)
        options = PrepareOptions(
            name=name,
            params=params,
            detector=detector,
            detect_fps=detect_fps,
            transnet=transnet,
            frame_quality=frame_quality,
            from_dir=from_dir,
            files_dir=loaded.path.parent,
            fetch=FetchOptions(
                max_height=max_height,
                allow_unknown_license=allow_unknown_license,
                max_loss=max_loss,
            ),
            max_loss=max_loss,
        )
        report = prepare_videos(
            layout,
            entries,
            options,
            executor=runs,
            part=chosen_part,
            on_estimate=say_estimate,
            on_progress=on_progress,
        )
    has_clips = _finish(report, manifest, root, as_json=as_json)
    if report.shards.dataset is not None and not as_json:
        note_next("report", manifest=manifest, videos=videos, root=root)
    if has_clips:
        note_pretrain(name, root)


def _finish(report: "PrepareReport", manifest: Path | None, root: Path, *, as_json: bool) -> bool:
    """Say what was made, or leave with what failed; return whether there are clips to train on."""
    has_clips = False
    analysis, shards = report.analysis, report.shards
    failed = {
        **report.not_downloaded,
        **shards.failed,
        **{f"{video} (analysis)": reason for video, reason in analysis.failed.items()},
        **{f"{video} (objects)": r for video, r in analysis.objects_not_measured.items()},
    }
    if as_json:
        console.print_json(_content(report, failed))
    else:
        console.say(
            f"{len(report.downloaded)} downloaded, {len(analysis.done)} analyzed, "
            f"{len(analysis.skipped)} analyzed before"
        )
        if report.num_decoded_apart:
            stretches = report.num_decoded_once + report.num_decoded_apart
            console.say(
                f"{report.num_decoded_apart} of {counted(stretches, 'stretch', 'stretches')} "
                f"decoded more than once: something there is damaged, or only a part was missing"
            )
        has_clips = say_shards(shards)
    finish(as_typed(failed, manifest, root), "not (fully) prepared")
    return has_clips


def _content(report: "PrepareReport", failed: dict[str, str]) -> dict[str, Any]:
    dataset = report.shards.dataset
    return {
        "downloaded": report.downloaded,
        "analyzed": report.analysis.done,
        "analyzed_before": report.analysis.skipped,
        "directory": place_text(report.shards.directory),
        "segments_written": report.shards.num_segments_written,
        "segments_kept": report.shards.num_segments_kept,
        "stretches_decoded_once": report.num_decoded_once,
        "stretches_decoded_apart": report.num_decoded_apart,
        "dataset": None
        if dataset is None
        else {"frames": dataset.frames, "bytes": dataset.bytes, "shards": len(dataset.shards)},
        "failed": failed,
    }
