"""The spine of `wtours analyze`: lightness, cuts and objects, one decode pass a video."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

try:
    import cv2
    import scenedetect
except ImportError as error:
    from wtours.errors import MissingPackageError

    raise MissingPackageError("scenedetect-headless", "analyze", "`wtours analyze`") from error

from wtours.analyze.detectors import Detector, DetectorSpec, parse_detector
from wtours.analyze.folders import video_in_place
from wtours.analyze.merge import MergedFrames, merge_detections, merge_frames, write_shots
from wtours.analyze.segments import SegmentTask, analyze_segment
from wtours.analyze.shots import CUT_DETECTORS, cut_frame_rate
from wtours.analyze.tables import (
    DETECTIONS_FILE,
    FRAMES_FILE,
    SHOTS_FILE,
    SUMMARY_FILE,
    ObjectsSummary,
    VideoSummary,
)
from wtours.analyze.ticks import parse_rate
from wtours.errors import AnalysisError, MissingPackageError, VideoError
from wtours.executor import run_tasks
from wtours.fsio import lock, remove, sweep, write_json
from wtours.layout import Layout
from wtours.progress import Progress, no_progress
from wtours.receipts import (
    Receipt,
    files_present,
    read_receipt,
    record_file,
    versions_of,
    write_receipt,
)
from wtours.video import VideoMetadata, open_video
from wtours.videos import DownloadedVideo, downloaded_video

FORMAT = 1
"""Raised when the same parameters would give other bytes; earlier analyses are then made anew."""
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


@dataclass(frozen=True, slots=True)
class _Plan:
    """One video and what to measure."""

    video: DownloadedVideo
    folder: Path
    detector: Detector | None
    spec: DetectorSpec
    rate: Fraction
    not_measured: str | None
    """Why there is no detector."""

    @property
    def params(self) -> dict[str, Any]:
        objects = None
        if self.detector is not None:
            facts = self.detector.facts.model_dump(mode="json")
            objects = {"detector": facts, "detect_fps": str(self.rate)}
        return {"format": FORMAT, "cut_detectors": list(CUT_DETECTORS), "objects": objects}

    @property
    def segments_dir(self) -> Path:
        return self.folder / "segments"


def analyze_videos(
    layout: Layout,
    video_ids: Sequence[str],
    *,
    detector: str = "none",
    detect_fps: str = "1",
    jobs: int = 1,
    segment_seconds: int = SEGMENT_SECONDS,
    files: Mapping[str, Path] | None = None,
    on_progress: Progress = no_progress,
) -> AnalyzeReport:
    """Publish the analysis of each video; what is there already is not made again.

    Args:
        layout: The workspace.
        video_ids: Downloaded videos, or those of `files`.
        detector: as `wtours.analyze.detectors` parses it. With `none`, and
            where the detector cannot be loaded, objects measured earlier are kept.
        detect_fps: Frames a second that the detector looks at, or "native": every frame.
        jobs: Processes; the result does not depend on it.
        segment_seconds: What one process does at a time; the result does not depend on it.
        files: Videos that lie elsewhere, by id (`wtours.analyze.folders`); None: downloaded ones.
        on_progress: Called with (video id, seconds of video done, seconds in all).

    Raises:
        UsageError: there is no such detector, or the rate makes no sense.
        WtoursError: the disk is full, a process died, or another `analyze` runs on the workspace.
    """
    spec, rate = parse_detector(detector), parse_rate(detect_fps)
    report = AnalyzeReport()
    with lock(layout.lock("analyze"), what=f"the analysis in {layout.root}"):
        for video_id in video_ids:
            try:
                if files is None:
                    video = downloaded_video(layout, video_id)
                else:
                    video = video_in_place(video_id, files[video_id])
                plan = _plan(layout, video, spec, rate)
                if _is_done(plan):
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


def _plan(layout: Layout, video: DownloadedVideo, spec: DetectorSpec, rate: Fraction) -> _Plan:
    detector, not_measured = None, None
    if spec.kind == "none":
        not_measured = "no detector was asked for (--detector none)"
    else:
        try:
            detector = spec.load(video.video_id, rate=rate)
        except (AnalysisError, MissingPackageError) as error:
            not_measured = str(error)
    return _Plan(video, layout.analysis_dir(video.video_id), detector, spec, rate, not_measured)


def _is_done(plan: _Plan) -> bool:
    """Return whether the analysis is there; without a detector, whatever its objects are."""
    receipt = read_receipt(plan.folder / "receipt.json")
    if receipt is None or receipt.status != "done" or not files_present(receipt, plan.folder):
        return False
    wanted, found = plan.params, dict(receipt.params)
    if wanted["objects"] is None:
        wanted["objects"] = found.get("objects")
    return found == wanted and receipt.inputs == {"video": plan.video.sha256}


def _analyze(plan: _Plan, jobs: int, segment_seconds: int, on_progress: Progress) -> None:
    """Measure the segments that are missing, then publish the tables, the receipt last."""
    sweep(plan.folder)
    sweep(plan.segments_dir)
    with open_video(plan.video.path) as reader:
        metadata, last_pts_us = reader.metadata, reader.last_pts_us()
    tasks = _tasks(plan, last_pts_us, segment_us=segment_seconds * _US)
    missing = [task for task in tasks if not task.is_done()]
    total = last_pts_us / _US
    num_done = len(tasks) - len(missing)
    for _ in run_tasks(analyze_segment, missing, jobs=jobs):
        num_done += 1
        on_progress(plan.video.video_id, total * num_done / len(tasks), total)
    _publish(plan, metadata, [task.folder for task in tasks])


def _tasks(plan: _Plan, last_pts_us: int, *, segment_us: int) -> list[SegmentTask]:
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
            rate=plan.rate,
            params=plan.params,
        )
        for number, start_us in enumerate(starts)
    ]


def _publish(plan: _Plan, metadata: VideoMetadata, segments: list[Path]) -> None:
    folder, names = plan.folder, [FRAMES_FILE, SHOTS_FILE, SUMMARY_FILE]
    frames = merge_frames(
        segments,
        folder,
        frame_rate=metadata.frame_rate,
        cut_rate=cut_frame_rate(plan.video.path) or metadata.frame_rate,
    )
    write_shots(folder, frames)
    objects, not_measured = None, plan.not_measured
    if len(frames.measured_pts_us) == 0 and not_measured is None:
        not_measured = "every frame is corrupt"
    elif plan.detector is not None:
        names.append(DETECTIONS_FILE)
        objects = merge_detections(
            segments,
            folder,
            frames=frames,
            detector=plan.detector.facts,
            rate=plan.rate,
            frame_rate=metadata.frame_rate,
        )
    summary = _summary(plan, metadata, frames, objects or not_measured)
    write_json(folder / SUMMARY_FILE, summary.model_dump(mode="json"))
    receipt = Receipt(
        stage="analyze",
        key=plan.video.video_id,
        inputs={"video": plan.video.sha256},
        params=plan.params,
        versions={
            **versions_of("av", "numpy", "pyarrow"),
            "opencv": cv2.__version__,
            "scenedetect": scenedetect.__version__,
            **({} if plan.detector is None else plan.detector.versions),
        },
        files=tuple(record_file(folder / name, relative_to=folder) for name in sorted(names)),
    )
    write_receipt(folder / "receipt.json", receipt)
    if objects is None:
        remove(folder / DETECTIONS_FILE)  # of an earlier video or format: the receipt lacks it


def _summary(
    plan: _Plan,
    metadata: VideoMetadata,
    frames: MergedFrames,
    objects: ObjectsSummary | str | None,
) -> VideoSummary:
    return VideoSummary(
        video_id=plan.video.video_id,
        video_sha256=plan.video.sha256,
        width=metadata.width,
        height=metadata.height,
        frame_rate=str(metadata.frame_rate),
        frames=frames.count,
        corrupt_frames=frames.corrupt,
        seconds=frames.end_us / _US,
        last_pts_us=frames.last_pts_us,
        cuts={name: len(cuts) for name, cuts in frames.cuts_us.items()},
        lightness=frames.lightness,
        objects=None if isinstance(objects, str) else objects,
        objects_not_measured=objects if isinstance(objects, str) else None,
    )
