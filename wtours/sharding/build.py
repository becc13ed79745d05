"""The spine of `shard`: videos become shards, segment by segment; the index comes last."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from wtours.errors import ShardError, VideoError
from wtours.execution.parts import Part
from wtours.execution.processes import run_tasks
from wtours.progress import Progress, no_progress
from wtours.sharding.duration_match import Selection, matching_selection
from wtours.sharding.estimate import Estimate, estimate, require_space
from wtours.sharding.finalize import seal
from wtours.sharding.locks import briefly, part_of_set, whole_set
from wtours.sharding.plan import (
    VideoPlan,
    missing_segments,
    plan_video,
    published_plans,
    recorded_params,
    require_same_params,
    segment_tasks,
)
from wtours.sharding.segment import SegmentTask, shard_segment
from wtours.shards.schema import Dataset, ShardParams
from wtours.workspace.layout import Layout
from wtours.workspace.videos import DownloadedVideo, downloaded_video

_US = 1_000_000


@dataclass(slots=True)
class ShardReport:
    """How a run of `shard` ended."""

    directory: Path
    failed: dict[str, str] = field(default_factory=dict)
    """Why a video is not in the set, by video id."""
    num_segments_written: int = 0
    num_segments_kept: int = 0
    """Segments that an earlier run had finished."""
    dataset: Dataset | None = None
    """What the set holds now; None: not sealed, no video or not every part is finished."""


@dataclass(frozen=True, slots=True)
class _VideoWork:
    """What this run has to do of one video."""

    video: DownloadedVideo
    plan: VideoPlan
    missing: list[int]
    num_kept: int

    def seconds(self, params: ShardParams) -> float:
        """Return how much of the video is to be done."""
        duration_us: int = self.video.receipt.facts["duration_us"]
        duration_us = min(duration_us, self.plan.facts["taken_us"] or duration_us)
        starts_us = (segment * params.segment_us for segment in self.missing)
        return sum(min(params.segment_us, duration_us - start) for start in starts_us) / _US


def _ignore_estimate(expected: Estimate) -> None:
    """Begin without a word."""


def build_shards(
    layout: Layout,
    video_ids: Sequence[str],
    *,
    name: str = "default",
    params: ShardParams,
    jobs: int = 1,
    part: Part | None = None,
    on_estimate: Callable[[Estimate], None] = _ignore_estimate,
    on_progress: Progress = no_progress,
) -> ShardReport:
    """Write the missing segments of the videos into the shard set `name`, then seal it.

    The set keeps the videos of earlier runs. One bad video does not stop the others: it is in the
    report and not in the set. Running it again does only what is missing, and refreshes the index
    from the analysis.

    Args:
        layout: The workspace.
        video_ids: Videos that `download` has published; with `params.match`, so many of the first
            of them as make its duration.
        name: The folder under <root>/shards.
        params: Must be those that the set was begun with.
        jobs: Processes; the bytes do not depend on it.
        part: Do only the segments of this part. Parts may run at the same time; the one that finds
            every segment of the videos finished seals the set.
        on_estimate: Called before the work begins with what is left to do.
        on_progress: Called with the video id and segments done and in all; with several videos,
            for "all videos" too.

    Raises:
        ShardError: the set exists with other parameters, or cannot fit on the disk.
        WtoursError: another process works on it, or the disk is full.
    """
    directory = layout.shards_dir(name)
    report = ShardReport(directory)
    progress = _SegmentProgress(on_progress)
    with whole_set(layout, name) if part is None else part_of_set(layout, name, part):
        with briefly(layout, name):
            require_same_params(directory, params)
            selection = Selection(dict.fromkeys(video_ids))
            if params.match is not None:
                selection = matching_selection(layout, directory, video_ids, params.match)
            report.failed |= selection.passed_over
            works = _plan_videos(layout, directory, selection, params, part, report)
        expected = estimate([(w.video, w.seconds(params)) for w in works], params, jobs=jobs)
        on_estimate(expected)
        require_space(directory, expected)
        tasks = _tasks(works, params, report, progress)
        work = partial(shard_segment, directory=directory)
        for task, result in run_tasks(work, tasks, jobs=jobs):
            if result.error is None:
                report.num_segments_written += 1
            else:
                report.failed.setdefault(task.video_id, result.error)
            progress.advance(task.video_id)
        with briefly(layout, name):
            plans = [work.plan for work in works]
            if part is None or not _unfinished(directory, plans, params):
                report.dataset = seal(layout, name, params)
    return report


def seal_shards(layout: Layout, name: str) -> ShardReport:
    """Seal the shard set `name` over the videos that are finished, after parts of it have run.

    Raises:
        ShardError: nothing was begun, no video is finished, or a version of wtours that made other
            pixels began the set.
        WtoursError: another process works on it.
    """
    directory = layout.shards_dir(name)
    report = ShardReport(directory)
    with whole_set(layout, name), briefly(layout, name):
        params = recorded_params(directory)
        require_same_params(directory, params)
        report.failed = _unfinished(directory, published_plans(directory), params)
        report.dataset = seal(layout, name, params)
    if report.dataset is None:
        raise ShardError(f"no video of shard set {name!r} is finished: {report.failed}")
    return report


def _plan_videos(
    layout: Layout,
    directory: Path,
    selection: Selection,
    params: ShardParams,
    part: Part | None,
    report: ShardReport,
) -> list[_VideoWork]:
    """Publish the plan of each video; one that cannot be had, and is not done, is reported."""
    works = []
    published = {plan.video_id: plan for plan in published_plans(directory)}
    for video_id, taken_us in selection.taken_us.items():
        try:
            video = downloaded_video(layout, video_id)
        except VideoError as error:
            done = published.get(video_id)
            if done is None or missing_segments(directory, done, params):
                report.failed[video_id] = str(error)
            else:  # its file was deleted since
                report.num_segments_kept += done.num_segments
            continue
        plan = plan_video(directory, video, params, taken_us)
        own = {
            segment
            for segment in range(plan.num_segments)
            if part is None or part.has(video_id, segment)
        }
        missing = [s for s in missing_segments(directory, plan, params) if s in own]
        works.append(_VideoWork(video, plan, missing, num_kept=len(own) - len(missing)))
    return works


def _tasks(
    works: Iterable[_VideoWork],
    params: ShardParams,
    report: ShardReport,
    progress: "_SegmentProgress",
) -> list[SegmentTask]:
    tasks: list[SegmentTask] = []
    for work in works:
        video_id = work.video.video_id
        try:
            taken_us = work.plan.facts["taken_us"]
            tasks += segment_tasks(work.video, work.missing, params, taken_us)
        except VideoError as error:
            report.failed[video_id] = str(error)
            continue
        report.num_segments_kept += work.num_kept
        progress.start(video_id, work.num_kept, work.num_kept + len(work.missing))
    return tasks


def _unfinished(directory: Path, plans: Iterable[VideoPlan], params: ShardParams) -> dict[str, str]:
    """Return how much is missing of each video that is not finished, by video id."""
    counted = [(plan, len(missing_segments(directory, plan, params))) for plan in plans]
    return {
        plan.video_id: f"{count} of {plan.num_segments} segments are missing: run `wtours shard`"
        for plan, count in counted
        if count
    }


class _SegmentProgress:
    """Counts finished segments per video, and tells."""

    def __init__(self, on_progress: Progress) -> None:
        self._on_progress = on_progress
        self._done: dict[str, int] = {}
        self._total: dict[str, int] = {}

    def start(self, video_id: str, done: int, total: int) -> None:
        self._done[video_id], self._total[video_id] = done, total
        self._tell(video_id)

    def advance(self, video_id: str) -> None:
        self._done[video_id] += 1
        self._tell(video_id)

    def _tell(self, video_id: str) -> None:
        self._on_progress(video_id, self._done[video_id], self._total[video_id])
        if len(self._total) > 1:
            self._on_progress("all videos", sum(self._done.values()), sum(self._total.values()))
