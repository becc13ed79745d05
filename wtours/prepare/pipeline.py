"""The spine of `prepare`: download, decode each segment once, publish tables, shards and index."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from wtours.acquire.download import download_videos
from wtours.analyze.detectors.server import DetectorService
from wtours.analyze.detectors.spec import parse_detector
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


def _ignore_estimate(expected: Estimate) -> None:
    """Begin without a word."""


def prepare_videos(
    layout: Layout,
    entries: Sequence[VideoEntry],
    options: PrepareOptions,
    *,
    executor: Executor = SERIAL,
    part: Part | None = None,
    on_estimate: Callable[[Estimate], None] = _ignore_estimate,
    on_progress: Progress = no_progress,
) -> PrepareReport:
    """Publish what `download`, `analyze` and `shard` publish, decoding each segment once.

    Every byte is what these commands publish one after the other, and so are the receipts: what one
    of them has begun is finished here, and the other way round.

    Args:
        layout: The workspace.
        entries: The videos.
        options: What is made of them.
        executor: Where segments are decoded; the result does not depend on it.
        part: Do only the stretches of this part, and download nothing; the part that finds every
            segment finished publishes the tables and the index.
        on_estimate: Called before decoding begins with an estimate of the shards.
        on_progress: Called with "download …" and bytes, or a video id and stretches, done and all.

    Raises:
        UsageError: an option makes no sense.
        ShardError: the set exists with other parameters, or cannot fit on the disk.
        WtoursError: another process works on it, or the disk is full.
    """
    spec = parse_detector(options.detector)
    name, params, report = options.name, options.params, AnalyzeReport()
    directory = layout.shards_dir(name)
    downloaded, not_downloaded = _download(layout, () if part else entries, options, on_progress)
    ids = [entry.id for entry in entries if entry.id not in not_downloaded]
    with _locked(layout, name, part), DetectorService(spec, executor.num_workers) as service:
        with index_lock(layout, name):
            works, failed = sharding.plan_videos(layout, directory, ids, params)
            planner = Planner(layout, options, part, spec, service, executor, report)
            videos = [planner.video(work) for work in works]
        expected = estimate((v.shards for v in videos), params, jobs=executor.num_workers)
        on_estimate(expected)
        require_space(directory, expected)
        for video in _finished_videos(videos, executor, on_progress):
            with index_lock(layout, name), report.boundary(video.video_id):
                if _publish_analysis(video, part, executor, options.max_loss, on_progress):
                    report.done.append(video.video_id)
        with index_lock(layout, name):
            plans = [work.plan for work in works]
            complete = part is None or not sharding.unfinished_videos(directory, plans, params)
            dataset, lost = (
                finalize(layout, name, params, options.max_loss) if complete else (None, {})
            )
    failed |= {v.video_id: v.not_sharded for v in videos if v.not_sharded is not None}
    written = sum(len(v.shards.missing) - v.num_shards_failed for v in videos)
    kept = sum(video.shards.num_kept for video in videos)
    return PrepareReport(
        report,
        ShardReport(directory, lost | failed, written, kept, dataset),
        downloaded,
        not_downloaded,
        num_decoded_once=sum(video.num_once for video in videos),
        num_decoded_apart=sum(video.num_done - video.num_once for video in videos),
    )


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


def _finished_videos(
    videos: Sequence[VideoState], executor: Executor, on_progress: Progress
) -> Iterator[VideoState]:
    """Run the tasks; yield each video once those of this part are done."""
    by_id = {video.video_id: video for video in videos}
    yield from (video for video in videos if not video.tasks)
    total = sum(len(video.tasks) for video in videos)
    for number, (task, outcome) in enumerate(_run(videos, executor), start=1):
        video = by_id[task.video_id]
        video.num_done += 1
        video.num_once += outcome.is_decoded_once
        video.not_measured = video.not_measured or outcome.not_measured
        if outcome.not_sharded is not None:
            video.not_sharded = video.not_sharded or outcome.not_sharded
            video.num_shards_failed += sum(not s.is_done(task.directory) for s in task.shards)
        on_progress(video.video_id, video.num_done, len(video.tasks))
        if len(videos) > 1:
            on_progress("all videos", number, total)
        if video.num_done == len(video.tasks):
            yield video


def _run(
    videos: Iterable[VideoState], executor: Executor
) -> Iterator[tuple[PrepareTask, PrepareOutcome]]:
    tasks = (task for video in videos for task in video.tasks)
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
