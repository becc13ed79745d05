"""The commands that measure videos: analyze, report."""

from pathlib import Path
from typing import Annotated

import typer

from wtours.cli import console
from wtours.cli.options import (
    ROOT,
    Address,
    ExecutorKind,
    ExecutorOption,
    Jobs,
    ManifestOption,
    MaxLoss,
    Root,
    Videos,
    chosen_manifest,
    executor_of,
    finish,
)
from wtours.cli.sets.places import analyses, needs_tables, place_text, workspace
from wtours.errors import UsageError
from wtours.execution.executor import default_jobs
from wtours.media.limits import MAX_LOSS


def analyze(
    manifest: ManifestOption = None,
    videos: Videos = None,
    detector: Annotated[
        str,
        typer.Option(
            "--detector",
            "-d",
            help="onnx:PATH (a YOLOX model), detic (LVIS's 1203 classes), torchvision:NAME, "
            "detectron2:CONFIG,WEIGHTS, file:PATH (precomputed detections: a .parquet or a "
            "folder of VIDEO_ID.parquet), or none. See docs/howto/detectors.md.",
        ),
    ] = "none",
    detect_fps: Annotated[
        str, typer.Option("--detect-fps", help='Frames a second to detect on, or "native": all.')
    ] = "1",
    from_dir: Annotated[
        Path | None,
        typer.Option(
            "--from-dir",
            help="The videos in this folder instead, where they lie: another dataset, for "
            "`wtours report --compare` with the same folder.",
            file_okay=False,
        ),
    ] = None,
    transnet: Annotated[
        bool,
        typer.Option(
            "--transnet",
            help="Find cuts by the network TransNet V2 too, beside PySceneDetect's detectors; "
            "needs the extra wtours\\[cuts]. See docs/reference/tables.md.",
        ),
    ] = False,
    jobs: Jobs = default_jobs(),
    executor: ExecutorOption = ExecutorKind.PROCESSES,
    address: Address = None,
    max_loss: MaxLoss = MAX_LOSS,
    root: Root = ROOT,
) -> None:
    """Measure lightness, cuts and objects of the downloaded videos, in one decoding pass.

    Examples:

    wtours analyze --video venice

    wtours analyze --detector onnx:yolox_nano.onnx --detect-fps 0.5

    wtours analyze --from-dir ~/movies
    """
    from wtours.analyze.pipeline import analyze_videos
    from wtours.analyze.video_folder import folder_videos

    if from_dir is not None and (manifest or videos):
        raise UsageError("--from-dir takes every video of its folder: no --manifest, no --video")
    chosen = (
        [entry.id for entry in chosen_manifest(manifest).select(videos or ())]
        if from_dir is None
        else folder_videos(from_dir)
    )
    with (
        workspace(
            root, "videos", *analyses(chosen), needs=needs_tables, executor=executor
        ) as layout,
        console.progress_bars("analyze", "percent") as on_progress,
        executor_of(executor, jobs, address, layout) as runs,
    ):
        report = analyze_videos(
            layout,
            chosen,
            detector=detector,
            detect_fps=detect_fps,
            executor=runs,
            transnet=transnet,
            max_loss=max_loss,
            on_progress=on_progress,
        )
    console.say(f"{len(report.done)} analyzed, {len(report.skipped)} already there")
    finish(report.failed | report.objects_not_measured, "not (fully) analyzed")


def report(
    manifest: ManifestOption = None,
    videos: Videos = None,
    threshold: Annotated[
        float, typer.Option("--threshold", help="Count detections from this score up.")
    ] = 0.3,
    compare: Annotated[
        list[Path] | None,
        typer.Option(
            "--compare",
            help="A folder analyzed with --from-dir, drawn beside the videos in Figure 2, joined "
            "and cropped to the longest one's length; repeatable.",
            file_okay=False,
        ),
    ] = None,
    root: Root = ROOT,
) -> None:
    """Write Table 6, Figure 2 and one HTML page from the analysis.

    What was not measured says so. Example: wtours report --video venice --threshold 0.5
    """
    from wtours.report import build_report
    from wtours.report.footnotes import CommandHints

    entries = chosen_manifest(manifest).select(videos or ())
    ids = [entry.id for entry in entries]
    with (
        workspace(root, "videos", *analyses(ids), "reports", needs=needs_tables) as layout,
        console.progress_bars("report", "percent") as on_progress,
    ):
        result = build_report(
            layout,
            entries,
            threshold=threshold,
            compare=compare or (),
            hints=CommandHints(manifest, None if root == ROOT else root),
            on_progress=on_progress,
        )
    console.say(result.table6_markdown.read_text(encoding="utf-8"))
    for path in result.paths:
        console.say(place_text(path))
    finish(result.problems, "shown in part")
