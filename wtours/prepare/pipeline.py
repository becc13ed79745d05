"""The spine of `prepare`: download, decode each segment once, publish tables, shards and index."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from wtours.acquire.download import download_videos
from wtours.analyze.detectors.cluster import detector_service
from wtours.analyze.pipeline import AnalyzeReport
from wtours.analyze.video_work import publish_video
from wtours.errors import AnalysisError, WorkerDiedError
from wtours.execution.executor import SERIAL, Executor
from wtours.execution.parts import Part
from wtours.prepare.plan import Planner, PrepareOptions, VideoState
from wtours.prepare.segment import PrepareOutcome, PrepareTask, prepare_segments
from wtours.progress import Progress, no_progress
from wtours.sharding import plan as sharding
from wtours.sharding.build import ShardReport
from wtours.sharding.estimate import Estimate, estimate, require_space
from wtours.sharding.finalize import finalize
from wtours.sharding.locks import index_lock, part_lock, set_lock
from wtours.storage.locks import lock, shared_lock
from wtours.workspace.layout import Layout
from wtours.workspace.manifest import VideoEntry
from wtours.workspace.videos import download_receipt


@dataclass(frozen=True, slots=True)
class PrepareReport:
    """How a run of `prepare` ended."""

    analysis: AnalyzeReport
    shards: ShardReport
    downloaded: tuple[str, ...] = ()
    """Videos that this run has fetched."""
    not_downloaded: dict[str, str] = field(default_factory=dict)
    """Why a video could not be fetched, by video id."""
    num_decoded_once: int = 0
    """Stretches of video whose frames went to analysis and shards from one pass."""
    num_decoded_apart: int = 0
    """Stretches that were decoded for each: something in them is damaged."""


def prepare_videos(
    layout: Layout,
    entries: Sequence[VideoEntry],
    options: PrepareOptions,
    *,
    executor: Executor = SERIAL,
    part: Part | None = None,
    on_estimate: Callable[[Estimate], None] = lambda expected: None,
    on_progress: Progress = no_progress,
) -> PrepareReport:
    """Publish what `download`, `analyze` and `shard` publish, decoding each segment once.

    Every byte is what these commands publish one after the other, and so are the receipts: what one
    of them has begun is finished here, and the other way round.

    Args:
        executor: Where segments are decoded; the result does not depend on it.
        part: Do only the stretches of this part, and download nothing; the part that finds every
            segment finished publishes the tables and the index.
        on_estimate: Called before decoding begins with an estimate of the shards.
        on_progress: Called with "download …" and bytes, or a video id and stretches, done and all.

    Raises:
        UsageError: an option makes no sense.
        MissingPackageError: TransNet V2 is not installed.
        ShardError: the set exists with other parameters, or cannot fit on the disk.
        WtoursError: another process works on it, or the disk is full.
    """
    asked = options.asked()
    name, params, report = options.name, options.params, AnalyzeReport()
    directory = layout.shards_dir(name)
    downloaded, not_downloaded = _download(layout, () if part else entries, options, on_progress)
    ids = [entry.id for entry in entries if entry.id not in not_downloaded]
    with _locked(layout, name, part), detector_service(asked.detector, executor) as service:
        planner = Planner(layout, options, part, asked, service, executor, report)
        with index_lock(layout, name):
            works, failed = sharding.plan_videos(layout, directory, ids, params)
            works = [planner.own(work) for work in works]
        expected = estimate(works, params, jobs=executor.num_workers)
        on_estimate(expected)
        require_space(directory, expected)
        written = once = apart = 0
        for number, video in enumerate(_prepared(works, planner, executor, on_progress), start=1):
            with index_lock(layout, name), report.boundary(video.video_id):
                if _publish_analysis(video, part, executor, options.max_loss, on_progress):
                    report.done.append(video.video_id)
            if video.not_sharded is not None:
                failed[video.video_id] = video.not_sharded
            written += sum(len(task.shards) for task in video.tasks) - video.num_shards_failed
            once, apart = once + video.num_once, apart + video.num_done - video.num_once
            if len(works) > 1:
                on_progress("all videos", number, len(works))
        with index_lock(layout, name):
            plans = [work.plan for work in works]
            complete = part is None or not sharding.unfinished_videos(directory, plans, params)
            dataset, lost = (
                finalize(layout, name, params, options.max_loss) if complete else (None, {})
            )
    kept = sum(work.num_kept for work in works)
    shards = ShardReport(directory, lost | failed, written, kept, dataset)
    return PrepareReport(report, shards, downloaded, not_downloaded, once, apart)


def _download(
    layout: Layout, entries: Sequence[VideoEntry], options: PrepareOptions, on_progress: Progress
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Fetch the videos that are not there; return those that came, and why others did not."""
    absent = [entry for entry in entries if download_receipt(layout, entry.id) is None]
    if not absent:
        return (), {}
    report = download_videos(
        absent,
        layout,
        from_dir=options.from_dir,
        files_dir=options.files_dir,
        options=options.fetch,
        on_progress=lambda item, done, total: on_progress(f"download {item}", done, total),
    )
    return tuple(report.done), report.failed


@contextlib.contextmanager
def _locked(layout: Layout, name: str, part: Part | None) -> Iterator[None]:
    """Hold the analysis and the shard set: alone, or as one of several parts."""
    analysis, what = layout.lock("analyze"), f"the analysis in {layout.root}"
    if part is None:
        with lock(analysis, what=what), set_lock(layout, name):
            yield
    else:
        with shared_lock(analysis, what=what), part_lock(layout, name, part):
            yield


def _prepared(
    works: Sequence[sharding.VideoWork], planner: Planner, executor: Executor, on_progress: Progress
) -> Iterator[VideoState]:
    """Run the tasks; yield each video once those of this part are done.

    Videos are planned as their tasks are needed: to open one takes seconds, and there may be
    thousands; what has ended is forgotten.
    """
    running: dict[str, VideoState] = {}
    idle: list[VideoState] = []

    def tasks() -> Iterator[PrepareTask]:
        for work in works:
            video = planner.video(work)
            if video.tasks:
                running[video.video_id] = video
                yield from video.tasks
            else:
                idle.append(video)

    for task, outcome in _run(tasks(), executor):
        video = running[task.video_id]
        video.num_done += 1
        video.num_once += outcome.is_decoded_once
        video.not_measured = video.not_measured or outcome.not_measured
        if outcome.not_sharded is not None:
            video.not_sharded = video.not_sharded or outcome.not_sharded
            video.num_shards_failed += sum(not s.is_done(task.directory) for s in task.shards)
        on_progress(video.video_id, video.num_done, len(video.tasks))
        if video.num_done == len(video.tasks):
            yield running.pop(video.video_id)
        while idle:
            yield idle.pop()
    yield from idle


def _run(
    tasks: Iterable[PrepareTask], executor: Executor
) -> Iterator[tuple[PrepareTask, PrepareOutcome]]:
    # Closed when the stage is stopped: before the detector's processes are, which tasks use.
    with contextlib.closing(executor.map(prepare_segments, tasks)) as results:
        try:
            yield from results
        except WorkerDiedError as error:
            for task in error.tasks:
                assert isinstance(task, PrepareTask)
                reason = error.reason(task)
                task.record_failure(reason)
                of_both = (reason if task.measured else None, reason if task.shards else None)
                yield task, PrepareOutcome(*of_both, is_decoded_once=False)


def _publish_analysis(
    video: VideoState,
    part: Part | None,
    executor: Executor,
    max_loss: float,
    on_progress: Progress,
) -> bool:
    """Publish the tables if every segment is there; return whether they were published now.

    Raises:
        AnalysisError: segments could not be made, or are left to other parts.
    """
    work = video.analysis
    if work is None or work.plan.is_published():  # the latter by another part
        return False
    if video.not_measured is not None:
        raise AnalysisError(video.not_measured)
    if part is not None and not all(task.is_done() for task in work.tasks):
        return False
    publish_video(work, executor, max_loss, on_progress)
    return True
