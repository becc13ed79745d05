"""Rebuilding damaged shards from their source videos; intact ones are not touched."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wtours.errors import StorageError, VideoError
from wtours.execution.executor import SERIAL, Executor
from wtours.progress import Progress, no_progress
from wtours.sharding.finalize import finalize
from wtours.sharding.locks import set_lock
from wtours.sharding.plan import published_plans, require_same_params, segment_tasks
from wtours.sharding.segment import finished_segment
from wtours.sharding.segment_writer import run_segments
from wtours.shards.schema import (
    DATASET_FILE,
    INDEX_FILE,
    Dataset,
    ShardRecord,
    VideoRecord,
    read_dataset,
)
from wtours.shards.verify import ShardProblem, VerifyReport, verify_shards
from wtours.storage.atomic import RECEIPTS_FOLDER
from wtours.storage.hashing import sha256_file
from wtours.storage.receipts import read_receipt
from wtours.storage.working_copy import discard, place_of, push, store_of, working_copy_of
from wtours.workspace.layout import Layout
from wtours.workspace.videos import DownloadedVideo, checked_video, refusals_of_one_video


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What was damaged, what was rebuilt, and what is still wrong."""

    before: VerifyReport
    repaired: tuple[str, ...] = ()
    """Shards rebuilt to the same bytes."""
    changed: tuple[str, ...] = ()
    """Shards rebuilt to other bytes, by another version of a library."""
    problems: tuple[ShardProblem, ...] = ()
    """What is still wrong."""


@dataclass(frozen=True, slots=True)
class _Rebuilt:
    """How rebuilding a shard ended."""

    shard: ShardRecord
    error: str | None = None
    same_bytes: bool = False

    @property
    def file(self) -> str:
        return f"{self.shard.shard}.tar"


def repair_shards(
    layout: Layout,
    name: str,
    *,
    deep: bool = True,
    executor: Executor = SERIAL,
    on_progress: Progress = no_progress,
) -> RepairReport:
    """Verify a shard set, rebuild its damaged shards and its index.

    Shards that are not in `dataset.json` are named and left alone.

    Args:
        layout: The workspace.
        name: The folder under <root>/shards.
        deep: As in `verify_shards`.
        executor: Runs the segments.
        on_progress: As in `verify_shards`; then for each video with the bytes rebuilt.

    Raises:
        ShardError: there is no readable `dataset.json`, or a version of wtours that made other
            pixels began the set.
        WtoursError: another process works on the set, or the disk is full.
    """
    directory = layout.shards_dir(name)
    with set_lock(layout, name):
        before = verify_shards(place_of(directory), deep=deep, on_progress=on_progress)
        if before.ok:
            return RepairReport(before)
        dataset = read_dataset(directory)
        require_same_params(directory, dataset.params)
        named = {problem.file for problem in before.problems}
        on_store = working_copy_of(directory / DATASET_FILE) is not None
        if on_store and INDEX_FILE in named:  # else the digest noted beside it would be believed
            discard(directory / INDEX_FILE)
        broken = [shard for shard in dataset.shards if _is_broken(directory, dataset, shard, named)]
        remade: list[_Rebuilt] = []
        for video_id, shards in itertools.groupby(broken, key=lambda shard: shard.video_id):
            video = _video(dataset, video_id)
            remade += _rebuild(
                layout, directory, dataset, video, list(shards), executor, on_progress
            )
        held = {video.video_id for video in dataset.videos}
        whole = {
            plan.video_id
            for plan in published_plans(directory)
            if not plan.missing_segments(directory, dataset.params)
        }
        if whole >= held:
            # What it holds, it keeps, and no more: others may have lost too much of theirs.
            finalize(layout, name, dataset.params, max_loss=1.0, only=held)
            push(directory / INDEX_FILE)
            push(directory / DATASET_FILE)
        still = verify_shards(place_of(directory), deep=False).problems
    failed = [
        ShardProblem(one.file, f"cannot be rebuilt: {one.error}")
        for one in remade
        if one.error is not None
    ]
    made = [one for one in remade if one.error is None]
    return RepairReport(
        before,
        repaired=tuple(one.file for one in made if one.same_bytes),
        changed=tuple(one.file for one in made if not one.same_bytes),
        problems=(*still, *failed),
    )


def _is_broken(directory: Path, dataset: Dataset, shard: ShardRecord, named: set[str]) -> bool:
    """Return whether a shard, its rows or its receipt has to be rebuilt."""
    source = _video(dataset, shard.video_id).source_sha256
    found = finished_segment(directory, shard.video_id, source, shard.segment, dataset.params)
    receipt = read_receipt(directory / RECEIPTS_FOLDER / f"{shard.shard}.json")
    if found is None or found.record is None or receipt is None:
        return True
    rows = directory / RECEIPTS_FOLDER / f"{shard.shard}.parquet"
    tar = directory / f"{shard.shard}.tar"
    try:
        if sha256_file(rows) != receipt.file(".parquet").sha256:
            return True
        # A whole shard is named too where the index is what is wrong.
        store, key = store_of(tar)
        return tar.name in named and store.sha256(key, is_read=True) != found.record.sha256
    except (OSError, StorageError):  # it cannot be read, or is not there
        return True


def _rebuild(
    layout: Layout,
    directory: Path,
    dataset: Dataset,
    video: VideoRecord,
    shards: list[ShardRecord],
    executor: Executor,
    on_progress: Progress,
) -> Iterator[_Rebuilt]:
    """Rebuild shards of one video, and yield how each ended."""
    by_segment = {shard.segment: shard for shard in shards}
    try:
        source = _source(layout, directory, video)
        tasks = segment_tasks(source, by_segment, dataset.params, video.taken_us)
    except VideoError as error:
        yield from (_Rebuilt(shard, str(error)) for shard in shards)
        return
    done_bytes, all_bytes = 0, sum(shard.bytes for shard in shards)
    if working_copy_of(directory / DATASET_FILE) is not None:  # there a shard is never written over
        for shard in shards:
            receipt = directory / RECEIPTS_FOLDER / f"{shard.shard}.json"
            tar = directory / f"{shard.shard}.tar"
            for path in (receipt, receipt.with_suffix(".parquet"), tar):
                discard(path)
    for task, reason in run_segments(tasks, directory, executor, keep_done=False):
        shard = by_segment[task.segment]
        made = finished_segment(
            directory, video.video_id, video.source_sha256, task.segment, dataset.params
        )
        sha256 = None if made is None or made.record is None else made.record.sha256
        yield _Rebuilt(shard, reason, reason is None and sha256 == shard.sha256)
        done_bytes += shard.bytes
        on_progress(f"{video.video_id} rebuilt", done_bytes, all_bytes)


def _source(layout: Layout, directory: Path, record: VideoRecord) -> DownloadedVideo:
    """Return the very video file that the shards were made from, for the same stream of it.

    Raises:
        VideoError: it is gone, another one, or damaged itself.
    """
    with refusals_of_one_video():
        video = checked_video(layout, record.video_id, deep=True)
    if video.sha256 != record.source_sha256:
        raise VideoError(
            f"{video.path} is another file than the shards were made from (sha256 "
            f"{video.sha256[:12]}…, not {record.source_sha256[:12]}…); download that one, or run "
            f"`wtours shard` again"
        )
    plan = next((p for p in published_plans(directory) if p.video_id == record.video_id), None)
    if plan is not None and not plan.is_of(video):
        raise VideoError(
            f"{video.path} is taken with stream {video.stream}, and the shards were made from "
            f"stream {plan.stream}; download it for that one, or run `wtours shard` again"
        )
    return video


def _video(dataset: Dataset, video_id: str) -> VideoRecord:
    return next(video for video in dataset.videos if video.video_id == video_id)
