"""The spine of `shard`: videos become shards, segment by segment; the index comes last."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from wtours.errors import VideoError
from wtours.executor import run_tasks
from wtours.fsio import lock, sweep
from wtours.layout import Layout
from wtours.progress import Progress, no_progress
from wtours.shards.plan import missing_segments, plan_video, require_same_params, segment_tasks
from wtours.shards.schema import Dataset, ShardParams
from wtours.shards.seal import seal
from wtours.shards.segment import RECEIPTS_FOLDER, SegmentTask, shard_segment
from wtours.videos import DownloadedVideo, downloaded_video


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
    """What the set holds now; None: no video is finished."""


def build_shards(
    layout: Layout,
    video_ids: Sequence[str],
    *,
    name: str = "default",
    params: ShardParams,
    jobs: int = 1,
    on_progress: Progress = no_progress,
) -> ShardReport:
    """Write the missing segments of the videos into the shard set `name`, then seal it.

    The set keeps the videos of earlier runs. One bad video does not stop the others: it is in the
    report and not in the set. Running it again does only what is missing, and refreshes the index
    from the analysis.

    Args:
        layout: The workspace.
        video_ids: Videos that `download` has published.
        name: The folder under <root>/shards.
        params: Must be those that the set was begun with.
        jobs: Processes; the bytes do not depend on it.
        on_progress: Called with the video id and segments done and in all.

    Raises:
        ShardError: the set exists with other parameters.
        WtoursError: another process works on it, or the disk is full.
    """
    directory = layout.shards_dir(name)
    report = ShardReport(directory)
    with lock(layout.lock(f"shard-{name}"), what=f"shard set {name!r}"):
        sweep(directory)
        sweep(directory / RECEIPTS_FOLDER)
        require_same_params(directory, params)
        progress = _SegmentProgress(on_progress)
        tasks: list[SegmentTask] = []
        for video_id in video_ids:
            try:
                video = downloaded_video(layout, video_id)
                tasks += _missing_tasks(directory, video, params, report, progress)
            except VideoError as error:
                report.failed[video_id] = str(error)
        work = partial(shard_segment, directory=directory)
        for task, result in run_tasks(work, tasks, jobs=jobs):
            if result.error is None:
                report.num_segments_written += 1
            else:
                report.failed.setdefault(task.video_id, result.error)
            progress.advance(task.video_id)
        report.dataset = seal(layout, name, params)
    return report


def _missing_tasks(
    directory: Path,
    video: DownloadedVideo,
    params: ShardParams,
    report: ShardReport,
    progress: "_SegmentProgress",
) -> list[SegmentTask]:
    plan = plan_video(directory, video, params)
    missing = missing_segments(directory, plan, params)
    tasks = segment_tasks(video, missing, params)
    num_kept = plan.num_segments - len(missing)
    report.num_segments_kept += num_kept
    progress.start(video.video_id, num_kept, plan.num_segments)
    return tasks


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
