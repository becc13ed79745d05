"""The commands that measure videos: analyze, report."""

import dataclasses
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from wtours.cli import console
from wtours.cli.next_command import note_next
from wtours.cli.options import (
    FINISHED_WITH_FAILURES,
    RERUN,
    ROOT,
    Address,
    AsJson,
    ExecutorOption,
    Jobs,
    ManifestOption,
    MaxLoss,
    Root,
    Videos,
    as_typed,
    chosen_manifest,
    executor_of,
    finish,
    refuse_unused,
    remedy_of_videos,
)
from wtours.cli.sets.places import analyses, needs_tables, place_text, workspace
from wtours.errors import UsageError
from wtours.execution.executor import default_jobs
from wtours.media.limits import MAX_LOSS
from wtours.storage.store import is_url
from wtours.text import counted

Detector = Annotated[
    str,
    typer.Option(
        "--detector",
        "-d",
        metavar="DETECTOR",
        help="onnx:PATH (a YOLOX model), detic (LVIS's 1203 classes), torchvision:NAME, "
        "detectron2:CONFIG,WEIGHTS, file:PATH (precomputed detections: a .parquet or a "
        "folder of VIDEO_ID.parquet), or none.",
    ),
]
DetectFps = Annotated[
    str, typer.Option(metavar="FPS", help='Frames a second to detect on, or "native": all.')
]
TransNet = Annotated[
    bool,
    typer.Option(
        "--transnet",
        help="Find cuts by the network TransNet V2 too, beside PySceneDetect's detectors; "
        "needs the extra wtours\\[cuts].",
    ),
]
FrameQuality = Annotated[
    bool,
    typer.Option(
        "--frame-quality",
        help="Measure blur, motion, darkness, repeats and burned-in text of every second too, for "
        "`shard --where`.",
    ),
]


def analyze(
    manifest: ManifestOption = None,
    videos: Videos = None,
    detector: Detector = "none",
    detect_fps: DetectFps = "1",
    from_dir: Annotated[
        Path | None,
        typer.Option(
            help="The videos in this folder instead, where they lie: another dataset, for "
            "`wtours report --compare` with the same folder.",
            file_okay=False,
        ),
    ] = None,
    transnet: TransNet = False,
    frame_quality: FrameQuality = False,
    jobs: Jobs = default_jobs(),
    executor: ExecutorOption = "processes",
    address: Address = None,
    max_loss: MaxLoss = MAX_LOSS,
    as_json: AsJson = False,
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

    if detector == "none":
        refuse_unused("--detector none", {"--detect-fps": detect_fps != "1"})
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
            frame_quality=frame_quality,
            max_loss=max_loss,
            on_progress=on_progress,
        )
        remedy = RERUN if from_dir else remedy_of_videos(manifest or videos, layout, root)
    if as_json:
        console.print_json(dataclasses.asdict(report))
    else:
        console.say(f"{len(report.done)} analyzed, {len(report.skipped)} already there")
    failed = as_typed(report.failed | report.objects_not_measured, manifest, root)
    finish(failed, "not (fully) analyzed", remedy)
    if not as_json:
        compare = () if from_dir is None else ("--compare", str(from_dir))
        note_next("report", *compare, manifest=manifest, videos=videos, root=root)


def report(
    manifest: ManifestOption = None,
    videos: Videos = None,
    threshold: Annotated[
        float, typer.Option(metavar="SCORE", help="Count detections from this score up.")
    ] = 0.3,
    compare: Annotated[
        list[Path] | None,
        typer.Option(
            help="A folder analyzed with --from-dir, drawn beside the videos in Figure 2, joined "
            "and cropped to the longest one's length; repeatable.",
            file_okay=False,
        ),
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Write one HTML page, a table and a figure from the analysis.

    Of the ten Walking Tours these are Table 6 and Figure 2, measured beside published. What was
    not measured says so. Example: wtours report --video venice --open
    """
    from wtours.report.build import build_report
    from wtours.report.footnotes import CommandHints
    from wtours.report.table6_export import table_texts, to_json

    entries = chosen_manifest(manifest).select(videos or ())
    hints = CommandHints(manifest, None if root == ROOT else root)
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
            hints=hints,
            on_progress=on_progress,
        )
        remedy = remedy_of_videos(manifest or videos, layout, root)
    page = str(place_text(result.page))
    if not is_url(page):
        page = result.page.absolute().as_uri()
    if as_json:
        paths = [place_text(path) for path in result.paths]
        console.print_json({"files": paths, **to_json(result.table)})
    if not result.problems and len(result.not_analyzed) == len(entries):
        if remedy == RERUN:
            commands = ("download", "analyze") if result.not_downloaded else ("analyze",)
            remedy = "run " + ", then ".join(f"`{hints.for_all(each)}`" for each in commands)
        console.warn(f"error: nothing is measured of {counted(len(entries), 'video')}: {remedy}")
        raise typer.Exit(FINISHED_WITH_FAILURES)
    if not as_json:
        head, *rows = table_texts(result.table)
        console.print_table(result.table.title, head, rows)
        console.say(page)
    if result.without_objects and len(result.without_objects) == len(entries):
        console.note("objects are not measured: `wtours analyze --detector …` finds them")
    if open_page:
        webbrowser.open(page)
    again = ", then the report again"
    finish(result.problems, "shown in part", f"run `{hints.for_all('analyze')}`{again}")
    if not as_json and not result.not_analyzed:
        note_next("shard", manifest=manifest, videos=videos, root=root)
