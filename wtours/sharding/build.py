"""The spine of `shard`: videos become shards, segment by segment; the index comes last."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wtours.errors import ShardError, VideoError
from wtours.execution.executor import SERIAL, Executor
from wtours.execution.parts import Part
from wtours.media.limits import MAX_LOSS
from wtours.progress import Progress, no_progress
from wtours.sharding.estimate import Estimate, estimate, require_space
from wtours.sharding.finalize import finalize
from wtours.sharding.locks import index_lock, part_lock, set_lock
from wtours.sharding.plan import (
    VideoWork,
    plan_videos,
    published_plans,
    recorded_params,
    require_same_params,
    segment_tasks,
    unfinished_videos,
)
from wtours.sharding.segment import SegmentTask
from wtours.sharding.segment_writer import run_segments
from wtours.shards.params import ShardParams
from wtours.shards.schema import Dataset
from wtours.workspace.layout import Layout


@dataclass(frozen=True, slots=True)
class ShardReport:
    """How a run of `shard` ended."""

    directory: Path
    failed: dict[str, str] = field(default_factory=dict)
    """Why a video is not in the set, by video id."""
    num_segments_written: int = 0
    num_segments_kept: int = 0
    """Segments that an earlier run had finished."""
    dataset: Dataset | None = None
    """What the set holds now; None: not finalized, no video or not every part is finished."""


def build_shards(  # noqa: PLR0913 -- options of the command, by keyword
    layout: Layout,
    video_ids: Sequence[str],
    *,
    name: str = "default",
    params: ShardParams,
    executor: Executor = SERIAL,
    part: Part | None = None,
    max_loss: float = MAX_LOSS,
    on_estimate: Callable[[Estimate], None] = lambda expected: None,
    on_progress: Progress = no_progress,
) -> ShardReport:
    """Write the missing segments of the videos into the shard set `name`, then finalize it.

    The set keeps the videos of earlier runs. One bad video does not stop the others: it is in the
    report and not in the set. Running it again does only what is missing, and refreshes the index
    from the analysis.

    Args:
        layout: The workspace.
        video_ids: Videos that `download` has published; with `params.match`, the first of them
            that make its duration.
        name: The folder under <root>/shards.
        params: Must be those that the set was begun with.
        executor: Runs the segments; the bytes do not depend on it.
        part: Do only the segments of this part. Parts may run at the same time; the one that finds
            every segment of the videos finished finalizes the set.
        max_loss: The largest share of a video's frames that may be lost to damage; a video that
            lost more is not in the set, though its segments stay.
        on_estimate: Called before the work begins with an estimate of it.
        on_progress: Called with the video id and segments done and in all; with several videos,
            for "all videos" too.

    Raises:
        ShardError: the set exists with other parameters, or cannot fit on the disk.
        MissingPackageError: the encoder of the codec is not installed.
        WtoursError: another process works on it, or the disk is full.
    """
    directory = layout.shards_dir(name)
    with set_lock(layout, name) if part is None else part_lock(layout, name, part):
        with index_lock(layout, name):
            works, failed = plan_videos(layout, directory, video_ids, params, part)
        expected = estimate(works, params, jobs=executor.num_workers)
        on_estimate(expected)
        require_space(directory, expected)
        tasks: dict[str, list[SegmentTask]] = {}
        for work in works:
            video_id, taken_us = work.plan.video_id, work.plan.facts.taken_us
            try:
                tasks[video_id] = (
                    []
                    if work.video is None
                    else segment_tasks(work.video, work.missing, params, taken_us)
                )
            except VideoError as error:
                failed[video_id] = str(error)
        num_written, broken = _write_segments(works, tasks, directory, executor, on_progress)
        with index_lock(layout, name):
            plans = [work.plan for work in works]
            complete = part is None or not unfinished_videos(directory, plans, params)
            dataset, lost = finalize(layout, name, params, max_loss) if complete else (None, {})
    failed = lost | failed | broken
    return ShardReport(directory, failed, num_written, sum(w.num_kept for w in works), dataset)


def finalize_shards(layout: Layout, name: str, *, max_loss: float = MAX_LOSS) -> ShardReport:
    """Finalize the shard set `name` over the finished videos, after parts of it have run.

    Raises:
        ShardError: nothing was begun, no video is finished, or a version of wtours that made other
            pixels began the set.
        WtoursError: another process works on it.
    """
    directory = layout.shards_dir(name)
    with set_lock(layout, name), index_lock(layout, name):
        params = recorded_params(directory)
        require_same_params(directory, params)
        failed = unfinished_videos(directory, published_plans(directory), params)
        dataset, lost = finalize(layout, name, params, max_loss)
    if dataset is None:
        reasons = "; ".join(f"{video}: {reason}" for video, reason in (lost | failed).items())
        raise ShardError(f"no video of shard set {name!r} is finished: {reasons}")
    return ShardReport(directory, lost | failed, dataset=dataset)


def _write_segments(
    works: Iterable[VideoWork],
    tasks: dict[str, list[SegmentTask]],
    directory: Path,
    executor: Executor,
    on_progress: Progress,
) -> tuple[int, dict[str, str]]:
    """Run the tasks; return how many segments were written, and why a video failed, by video id."""
    done = {w.plan.video_id: w.num_kept for w in works if w.plan.video_id in tasks}
    total = {video_id: done[video_id] + len(tasks[video_id]) for video_id in done}
    num_written = 0
    failed: dict[str, str] = {}

    def tell(video_id: str) -> None:
        on_progress(video_id, done[video_id], total[video_id])
        if len(total) > 1:
            on_progress("all videos", sum(done.values()), sum(total.values()))

    for video_id in total:
        tell(video_id)
    all_tasks = itertools.chain.from_iterable(tasks.values())
    for task, error in run_segments(all_tasks, directory, executor):
        if error is None:
            num_written += 1
        else:
            failed.setdefault(task.video_id, error)
        done[task.video_id] += 1
        tell(task.video_id)
    return num_written, failed
