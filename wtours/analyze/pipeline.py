"""The spine of `wtours analyze`: lightness, cuts and objects, one decode pass a video."""

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wtours.analyze.detectors.cluster import detector_service
from wtours.analyze.plan import Asked, plan_video
from wtours.analyze.segment import analyze_segment
from wtours.analyze.video_folder import video_in_place
from wtours.analyze.video_work import SEGMENT_SECONDS, begin_video, finished, publish_video
from wtours.errors import DiskFullError, WtoursError
from wtours.execution.executor import SERIAL, Executor
from wtours.media.limits import MAX_LOSS
from wtours.progress import Progress, no_progress
from wtours.storage.locks import lock
from wtours.text import first_line
from wtours.workspace.layout import Layout
from wtours.workspace.videos import listed_video

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
            problem = f"{type(error).__name__}: {first_line(error)}"
            self.failed[video_id] = f"{problem}; see more with --verbose"


def analyze_videos(  # noqa: PLR0913 -- options of the command, by keyword
    layout: Layout,
    videos: Sequence[str] | Mapping[str, Path],
    *,
    detector: str = "none",
    detect_fps: str = "1",
    executor: Executor = SERIAL,
    segment_seconds: int = SEGMENT_SECONDS,
    transnet: bool = False,
    frame_quality: bool = False,
    max_loss: float = MAX_LOSS,
    on_progress: Progress = no_progress,
) -> AnalyzeReport:
    """Publish the analysis of each video; what is there already is not measured again.

    Args:
        videos: Ids of downloaded videos; or the paths of videos that lie elsewhere, by id
            (`wtours.analyze.video_folder`).
        detector: As `wtours.analyze.detectors.spec` parses it. With `none`, and
            where the detector cannot be loaded, objects measured earlier stay.
        detect_fps: Frames a second that the detector is given, or "native": every frame.
        executor: Where segments are decoded; the result does not depend on it.
        segment_seconds: The length of a segment; the result does not depend on it.
        transnet: Find cuts by TransNet V2 too. Without it, those found earlier stay.
        frame_quality: Measure the quality of every second too; likewise.
        max_loss: The largest share of a video's frames that may be lost to damage.
        on_progress: Called with (video id, seconds of video done, seconds in all).

    Raises:
        UsageError: there is no such detector, or the rate makes no sense.
        MissingPackageError: TransNet V2 is not installed.
        WtoursError: the disk is full, or another `analyze` runs on the workspace.
    """
    asked = Asked.parse(detector, detect_fps, transnet=transnet, frame_quality=frame_quality)
    report = AnalyzeReport()
    with (
        lock(layout.lock("analyze"), what=f"the analysis in {layout.root}"),
        detector_service(asked.detector, executor) as service,
    ):
        for video_id in videos:
            with report.boundary(video_id):
                video = (
                    video_in_place(video_id, videos[video_id])
                    if isinstance(videos, Mapping)
                    else listed_video(layout, video_id)
                )
                plan = plan_video(layout, video, asked, service, executor)
                work = begin_video(plan, segment_seconds)
                if work is not None:
                    missing = work.missing_tasks()
                    work.make_way(missing)
                    for done in finished(executor, analyze_segment, missing):
                        share = (len(work.tasks) - len(missing) + done) / len(work.tasks)
                        on_progress(video_id, work.seconds * share, work.seconds)
                    publish_video(work, executor, max_loss, on_progress)
                (report.skipped if work is None else report.done).append(video_id)
                if plan.not_measured is not None and asked.detector.kind != "none":
                    report.objects_not_measured[video_id] = plan.not_measured
    return report
