"""The spine of `wtours analyze`: lightness, cuts and objects, one decode pass a video."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

try:
    import cv2
    import scenedetect
except ImportError as error:
    from wtours.errors import MissingPackageError

    raise MissingPackageError("scenedetect-headless", "analyze", "`wtours analyze`") from error

from wtours.analyze.detectors.server import DetectorService
from wtours.analyze.detectors.spec import parse_detector
from wtours.analyze.measurements import FRAMES, OBJECTS, SHOTS, TRANSNET
from wtours.analyze.merge import (
    find_shots,
    merge_frames,
    merge_objects,
    require_same_frames,
    undecodable_frames,
    write_transitions,
)
from wtours.analyze.plan import Plan, plan_video
from wtours.analyze.publish import adopt_tables, publish_tables, video_end_us
from wtours.analyze.schema import FRAMES_FILE
from wtours.analyze.segment import SegmentTask, analyze_segment
from wtours.analyze.shots import CUT_DETECTORS
from wtours.analyze.transnet import (
    TRANSNETV2,
    predict_windows,
    read_predictions,
    transnet_facts,
    transnet_versions,
    windows_tasks,
)
from wtours.analyze.video_folder import video_in_place
from wtours.errors import DiskFullError, WtoursError
from wtours.execution.executor import SERIAL, Executor, Task
from wtours.media.limits import MAX_LOSS, check_loss, limits
from wtours.media.reader import open_video
from wtours.media.sampling import parse_rate
from wtours.progress import Progress, no_progress
from wtours.storage.atomic import remove, sweep
from wtours.storage.locks import lock
from wtours.storage.receipts import versions_of
from wtours.workspace.layout import Layout
from wtours.workspace.videos import DownloadedVideo, checked_video

SEGMENT_SECONDS = 60
_US = 1_000_000
logger = logging.getLogger(__name__)


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

    @contextlib.contextmanager
    def boundary(self, video_id: str) -> Iterator[None]:
        """Record what goes wrong with one video, so that the others go on."""
        try:
            yield
        except DiskFullError:  # it would be the same for the others
            raise
        except WtoursError as error:
            self.failed[video_id] = str(error)
        except Exception as error:  # a file that no one has thought of
            logger.info("%s", video_id, exc_info=True)
            reason = (str(error).splitlines() or [""])[0]
            self.failed[video_id] = f"{type(error).__name__}: {reason}; see more with --verbose"


def analyze_videos(  # noqa: PLR0913 -- options of the command, by keyword
    layout: Layout,
    videos: Sequence[str] | Mapping[str, Path],
    *,
    detector: str = "none",
    detect_fps: str = "1",
    executor: Executor = SERIAL,
    segment_seconds: int = SEGMENT_SECONDS,
    transnet: bool = False,
    max_loss: float = MAX_LOSS,
    on_progress: Progress = no_progress,
) -> AnalyzeReport:
    """Publish the analysis of each video; what is there already is not measured again.

    Args:
        layout: The workspace.
        videos: Ids of downloaded videos; or the paths of videos that lie elsewhere, by id
            (`wtours.analyze.video_folder`).
        detector: As `wtours.analyze.detectors.spec` parses it. With `none`, and
            where the detector cannot be loaded, objects measured earlier stay.
        detect_fps: Frames a second that the detector is given, or "native": every frame.
        executor: Where segments are decoded; the result does not depend on it.
        segment_seconds: The length of a segment; the result does not depend on it.
        transnet: Find cuts by TransNet V2 too. Without it, those found earlier stay.
        max_loss: The largest share of a video's frames that may be lost to damage.
        on_progress: Called with (video id, seconds of video done, seconds in all).

    Raises:
        UsageError: there is no such detector, or the rate makes no sense.
        MissingPackageError: TransNet V2 is not installed.
        WtoursError: the disk is full, or another `analyze` runs on the workspace.
    """
    spec, rate = parse_detector(detector), parse_rate(detect_fps)
    cut_network = transnet_facts() if transnet else None
    report = AnalyzeReport()
    with (
        lock(layout.lock("analyze"), what=f"the analysis in {layout.root}"),
        DetectorService(spec, executor.num_workers) as service,
    ):
        for video_id in videos:
            with report.boundary(video_id):
                video = _open(layout, videos, video_id)
                plan = plan_video(layout, video, spec, rate, service, executor, cut_network)
                is_new = _analyze(plan, executor, segment_seconds, max_loss, on_progress)
                (report.done if is_new else report.skipped).append(video_id)
                if plan.not_measured is not None and spec.kind != "none":
                    report.objects_not_measured[video_id] = plan.not_measured
    return report


def _open(
    layout: Layout, videos: Sequence[str] | Mapping[str, Path], video_id: str
) -> DownloadedVideo:
    if isinstance(videos, Mapping):
        return video_in_place(video_id, videos[video_id])
    return checked_video(layout, video_id)


def _analyze(
    plan: Plan,
    executor: Executor,
    segment_seconds: int,
    max_loss: float,
    on_progress: Progress,
) -> bool:
    """Measure what is missing and publish the tables; return whether there was anything to do."""
    if plan.is_published():
        remove(plan.segments_dir)
        return False
    measurements = plan.measurements
    for folder in (measurements.folder, measurements.path(""), plan.segments_dir):
        sweep(folder)
    adopt_tables(measurements, measurements.stored())
    stored = measurements.stored()
    plan.require_not_lost(stored)
    missing = {
        name: params
        for name, params in plan.params.items()
        if name != SHOTS and (name not in stored or stored[name].params != params)
    }
    with open_video(plan.video.path, stream=plan.video.stream) as reader:
        metadata, last_pts_us = reader.metadata, reader.last_pts_us()
    segments = _decode(plan, missing, last_pts_us, executor, segment_seconds, on_progress)
    if FRAMES in missing:
        with measurements.publish(FRAMES, missing[FRAMES], _versions()) as folder:
            merge_frames(segments, folder)
    frames = pq.read_table(measurements.path(FRAMES) / FRAMES_FILE)
    pts_us = frames["pts_us"].to_numpy()
    num_lost = pc.sum(frames["is_corrupt"]).as_py()
    undecodable = undecodable_frames(measurements.path(FRAMES) / FRAMES_FILE) or 0
    share = (num_lost + undecodable) / (len(frames) + undecodable)
    check_loss(share, max_loss, plan.video.video_id)
    shots_params = measurements.shots_params(CUT_DETECTORS)
    if SHOTS not in stored or stored[SHOTS].params != shots_params:
        end_us = video_end_us(pts_us, metadata)
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
            TRANSNET, missing[TRANSNET], _versions() | transnet_versions()
        ) as folder:
            write_transitions(probabilities, folder)
    publish_tables(measurements, measurements.stored(), metadata, not_measured=plan.not_measured)
    remove(plan.segments_dir)
    return True


def _decode(
    plan: Plan,
    measured: dict[str, dict[str, Any]],
    last_pts_us: int,
    executor: Executor,
    segment_seconds: int,
    on_progress: Progress,
) -> list[Path]:
    """Return the folders of the video's segments, in time order; those that are there stay."""
    if not measured:
        return []
    starts = range(0, last_pts_us + 1, segment_seconds * _US)
    limits().check("segments", len(starts), plan.video.video_id)
    tasks = [
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
            detector=plan.source if OBJECTS in measured else None,
            rate=plan.rate,
            measured=measured,
        )
        for number, start_us in enumerate(starts)
    ]
    missing = [task for task in tasks if not task.is_done()]
    total = last_pts_us / _US
    for done in _finished(executor, analyze_segment, missing):
        share = (len(tasks) - len(missing) + done) / len(tasks)
        on_progress(plan.video.video_id, total * share, total)
    return [task.folder for task in tasks]


def _transitions(
    plan: Plan, segments: Sequence[Path], executor: Executor, on_progress: Progress
) -> NDArray[np.float32]:
    """Return TransNet V2's probability of every frame; windows that are there stay."""
    made_from = [plan.video.sha256, plan.params[TRANSNET]]
    tasks = windows_tasks(segments, plan.segments_dir, made_from)
    missing = [task for task in tasks if not task.path.exists()]
    for done in _finished(executor, predict_windows, missing):
        seen = len(tasks) - len(missing) + done
        on_progress(f"{plan.video.video_id}: {TRANSNETV2}", seen, len(tasks))
    return read_predictions(tasks)


def _finished(
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
