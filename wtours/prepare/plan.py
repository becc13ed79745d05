"""What `prepare` has to do of each video: the segments that are missing, by stretch."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wtours.acquire.options import FetchOptions
from wtours.analyze.detectors.server import DetectorService
from wtours.analyze.pipeline import AnalyzeReport
from wtours.analyze.plan import Asked, plan_video
from wtours.analyze.video_work import SEGMENT_SECONDS, VideoWork, begin_video
from wtours.errors import VideoError
from wtours.execution.executor import Executor
from wtours.execution.parts import Part
from wtours.media.limits import MAX_LOSS
from wtours.prepare.segment import PrepareTask
from wtours.sharding import plan as sharding
from wtours.sharding.locks import index_lock
from wtours.sharding.missing import STRETCH_SECONDS
from wtours.sharding.segment import SegmentTask
from wtours.shards.params import ShardParams
from wtours.workspace.layout import Layout
from wtours.workspace.videos import listed_video

_US = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareOptions:
    """What is to be made of the videos, and how they are downloaded."""

    name: str = "default"
    """The shard set."""
    params: ShardParams
    """Those that the set was begun with."""
    detector: str = "none"
    """As for `analyze_videos`, like the next three."""
    detect_fps: str = "1"
    transnet: bool = False
    frame_quality: bool = False
    from_dir: Path | None = None
    """As for `download_videos`, like the next two."""
    files_dir: Path | None = None
    fetch: FetchOptions | None = None
    max_loss: float = MAX_LOSS
    """The largest share of a video's frames that may be lost to damage."""

    def asked(self) -> Asked:
        """Return what is to be measured; raises what `analyze_videos` does of these options."""
        return Asked.parse(
            self.detector,
            self.detect_fps,
            transnet=self.transnet,
            frame_quality=self.frame_quality,
        )


@dataclass(slots=True)
class VideoState:
    """One video, while its segments are being made."""

    shards: sharding.VideoWork
    analysis: VideoWork | None
    """None: nothing is missing, or nothing can be measured."""
    tasks: list[PrepareTask]
    num_done: int = 0
    num_once: int = 0
    """Tasks whose frames were decoded once."""
    num_shards_failed: int = 0
    not_measured: str | None = None
    not_sharded: str | None = None

    @property
    def video_id(self) -> str:
        """Return which video it is."""
        return self.shards.plan.video_id


@dataclass(frozen=True, slots=True)
class Planner:
    """What is needed to find out what is missing of a video."""

    layout: Layout
    options: PrepareOptions
    part: Part | None
    asked: Asked
    service: DetectorService
    executor: Executor
    report: AnalyzeReport

    def own(self, work: sharding.VideoWork) -> sharding.VideoWork:
        """Return what this part has to do of a video's shards."""
        if self.part is None:
            return work
        video_id, params = work.plan.video_id, self.options.params
        stretch_us = _stretch_us(params)
        own = tuple(
            segment
            for segment in work.missing
            if self.part.has(video_id, segment * params.segment_us // stretch_us)
        )
        seconds = work.seconds * len(own) / max(1, len(work.missing))
        return replace(work, missing=own, seconds=seconds)

    def video(self, work: sharding.VideoWork) -> VideoState:
        """Return a video with the tasks of this part; `work` is its own."""
        params, video_id = self.options.params, work.plan.video_id
        with index_lock(self.layout, self.options.name):
            analysis = self._analysis(video_id)
        shards, not_sharded = list[SegmentTask](), None
        try:
            if work.video is not None:
                limit_us = work.plan.facts.taken_us
                shards = sharding.segment_tasks(work.video, work.missing, params, limit_us)
        except VideoError as error:
            not_sharded = str(error)
        directory = self.layout.shards_dir(self.options.name)
        tasks = _tasks(video_id, analysis, shards, directory, _stretch_us(params))
        if self.part is not None:
            tasks = [task for task in tasks if self.part.has(video_id, task.number)]
        if analysis is not None:
            analysis.make_way([segment for task in tasks for segment in task.measured])
        return VideoState(work, analysis, tasks, not_sharded=not_sharded)

    def _analysis(self, video_id: str) -> VideoWork | None:
        asked, report = self.asked, self.report
        with report.boundary(video_id):
            video = listed_video(self.layout, video_id)
            plan = plan_video(self.layout, video, asked, self.service, self.executor)
            if plan.not_measured is not None and asked.detector.kind != "none":
                report.objects_not_measured[video_id] = plan.not_measured
            work = begin_video(plan, SEGMENT_SECONDS, alone=self.part is None)
            if work is None:
                report.skipped.append(video_id)
            return work
        return None


def _stretch_us(params: ShardParams) -> int:
    """Return the length of a task's stretch: that of the longer of the two kinds of segments.

    Where neither length divides the other, a stretch reads on to the end of its last segment, and
    the next decodes these frames again.
    """
    return max(params.segment_us, STRETCH_SECONDS * _US)


def _tasks(
    video_id: str,
    analysis: VideoWork | None,
    shards: Sequence[SegmentTask],
    directory: Path,
    stretch_us: int,
) -> list[PrepareTask]:
    """Return a video's tasks: the segments that are missing, by the stretch they begin in."""
    measured = [] if analysis is None else analysis.missing_tasks()
    of_measured, of_shards = defaultdict(list), defaultdict(list)
    for segment in measured:
        of_measured[segment.start_us // stretch_us].append(segment)
    for shard in shards:
        of_shards[shard.interval_us[0] // stretch_us].append(shard)
    return [
        PrepareTask(
            video_id, number, tuple(of_measured[number]), tuple(of_shards[number]), directory
        )
        for number in sorted(of_measured | of_shards)
    ]
