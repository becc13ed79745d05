"""The spine of `wtours analyze`: lightness, cuts and objects, one decode pass a video."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    import cv2  # noqa: F401
    import scenedetect  # noqa: F401
except ImportError as error:
    from wtours.errors import MissingPackageError

    raise MissingPackageError("scenedetect-headless", "analyze", "`wtours analyze`") from error

from wtours.analyze.detectors.base import DetectorIdentity
from wtours.analyze.detectors.precomputed import FileDetector
from wtours.analyze.detectors.server import DetectorService
from wtours.analyze.detectors.spec import DetectorSpec, parse_detector
from wtours.analyze.publish import Plan, publish
from wtours.analyze.segment import SegmentTask, analyze_segment
from wtours.analyze.transnet import (
    TRANSNET,
    predict_windows,
    read_predictions,
    transnet_facts,
    windows_tasks,
)
from wtours.analyze.video_folder import video_in_place
from wtours.errors import AnalysisError, MissingPackageError, VideoError
from wtours.execution.processes import run_tasks
from wtours.media.reader import open_video
from wtours.media.tick_picker import parse_rate
from wtours.progress import Progress, no_progress
from wtours.storage.atomic import remove, sweep
from wtours.storage.locks import lock
from wtours.workspace.layout import Layout
from wtours.workspace.videos import DownloadedVideo, downloaded_video

SEGMENT_SECONDS = 60
_US = 1_000_000


@dataclass(slots=True)
class AnalyzeReport:
    """How each video ended."""

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    """Nothing to do: the same was done before."""
    failed: dict[str, str] = field(default_factory=dict)
    """Video id to the one-line reason."""
    objects_not_measured: dict[str, str] = field(default_factory=dict)
    """Asked for, but the detector could not be loaded; lightness and cuts are there nonetheless."""


def analyze_videos(
    layout: Layout,
    videos: Sequence[str] | Mapping[str, Path],
    *,
    detector: str = "none",
    detect_fps: str = "1",
    jobs: int = 1,
    segment_seconds: int = SEGMENT_SECONDS,
    transnet: bool = False,
    on_progress: Progress = no_progress,
) -> AnalyzeReport:
    """Publish the analysis of each video; what is there already is not made again.

    Args:
        layout: The workspace.
        videos: Ids of downloaded videos; or the paths of videos that lie elsewhere, by id
            (`wtours.analyze.video_folder`).
        detector: as `wtours.analyze.detectors.base` parses it. With `none`, and
            where the detector cannot be loaded, objects measured earlier are kept.
        detect_fps: Frames a second that the detector looks at, or "native": every frame.
        jobs: Processes; the result does not depend on it.
        segment_seconds: What one process does at a time; the result does not depend on it.
        transnet: Find cuts by TransNet V2 too. Without it, those found earlier are kept.
        on_progress: Called with (video id, seconds of video done, seconds in all).

    Raises:
        UsageError: there is no such detector, or the rate makes no sense.
        MissingPackageError: TransNet V2 is not installed.
        WtoursError: the disk is full, a process died, or another `analyze` runs on the workspace.
    """
    spec, rate = parse_detector(detector), parse_rate(detect_fps)
    cuts = transnet_facts() if transnet else None
    report = AnalyzeReport()
    with (
        lock(layout.lock("analyze"), what=f"the analysis in {layout.root}"),
        DetectorService(spec, jobs) as service,
    ):
        for video_id in videos:
            try:
                if isinstance(videos, Mapping):
                    video = video_in_place(video_id, videos[video_id])
                else:
                    video = downloaded_video(layout, video_id)
                plan = _plan(layout, video, spec, rate, service, cuts)
                if plan.is_done():
                    report.skipped.append(video_id)
                else:
                    _analyze(plan, jobs, segment_seconds, on_progress)
                    report.done.append(video_id)
                remove(plan.segments_dir)
            except (VideoError, AnalysisError) as error:  # the other videos go on
                report.failed[video_id] = str(error)
                continue
            if plan.not_measured is not None and spec.kind != "none":
                report.objects_not_measured[video_id] = plan.not_measured
    return report


def _plan(
    layout: Layout,
    video: DownloadedVideo,
    spec: DetectorSpec,
    rate: Fraction,
    service: DetectorService,
    transnet: dict[str, Any] | None,
) -> Plan:
    detector, endpoint, not_measured = None, None, None
    if spec.kind == "none":
        not_measured = "no detector was asked for (--detector none)"
    else:
        try:
            if spec.is_network:
                detector, endpoint = service.identity(), service.endpoint()
            else:
                made_elsewhere = FileDetector(spec.file(video.video_id), rate=rate)
                detector = DetectorIdentity(made_elsewhere.facts, versions={})
        except (AnalysisError, MissingPackageError) as error:
            not_measured = str(error)
    folder = layout.analysis_dir(video.video_id)
    return Plan(video, folder, detector, spec, endpoint, rate, not_measured, transnet)


def _analyze(plan: Plan, jobs: int, segment_seconds: int, on_progress: Progress) -> None:
    """Measure the segments that are missing, then publish the tables, the receipt last."""
    sweep(plan.folder)
    sweep(plan.segments_dir)
    with open_video(plan.video.path) as reader:
        metadata, last_pts_us = reader.metadata, reader.last_pts_us()
    tasks = _tasks(plan, last_pts_us, segment_us=segment_seconds * _US)
    total = last_pts_us / _US
    missing = [task for task in tasks if not task.is_done()]
    for done, _ in enumerate(run_tasks(analyze_segment, missing, jobs=jobs), start=1):
        share = (len(tasks) - len(missing) + done) / len(tasks)
        on_progress(plan.video.video_id, total * share, total)
    segments = [task.folder for task in tasks]
    transitions = None if plan.transnet is None else _transitions(plan, segments, jobs, on_progress)
    publish(plan, metadata, segments, transitions)


def _transitions(
    plan: Plan, segments: list[Path], jobs: int, on_progress: Progress
) -> NDArray[np.float32]:
    """Return TransNet V2's answer for every frame; what it gave before is not asked for again."""
    tasks = windows_tasks(segments, plan.segments_dir, [plan.video.sha256, plan.transnet])
    missing = [task for task in tasks if not task.path.exists()]
    for done, _ in enumerate(run_tasks(predict_windows, missing, jobs=jobs), start=1):
        seen = len(tasks) - len(missing) + done
        on_progress(f"{plan.video.video_id}: {TRANSNET}", seen, len(tasks))
    return read_predictions(tasks)


def _tasks(plan: Plan, last_pts_us: int, *, segment_us: int) -> list[SegmentTask]:
    starts = range(0, last_pts_us + 1, segment_us)
    facts = None if plan.detector is None else plan.detector.facts
    return [
        SegmentTask(
            video_id=plan.video.video_id,
            video_path=plan.video.path,
            video_sha256=plan.video.sha256,
            folder=plan.segments_dir / f"{number:05d}",
            number=number,
            start_us=start_us,
            end_us=None if start_us == starts[-1] else start_us + segment_us,
            detector=None if facts is None else plan.spec,
            weights_sha256=None if facts is None else facts.weights_sha256,
            endpoint=plan.endpoint,
            rate=plan.rate,
            keep_pictures=plan.transnet is not None,
            params=plan.params,
        )
        for number, start_us in enumerate(starts)
    ]
