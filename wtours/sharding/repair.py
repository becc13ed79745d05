"""Making damaged shards again from their source videos; the whole ones are not touched."""

import itertools
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from wtours.errors import VideoError
from wtours.execution.processes import run_tasks
from wtours.progress import Progress, no_progress
from wtours.sharding.finalize import seal
from wtours.sharding.locks import whole_set
from wtours.sharding.plan import (
    missing_segments,
    published_plans,
    require_same_params,
    segment_tasks,
)
from wtours.sharding.segment import RECEIPTS_FOLDER, receipt_inputs, segment_receipt, shard_segment
from wtours.shards.schema import Dataset, ShardRecord, VideoRecord, read_dataset
from wtours.shards.verify import ShardProblem, VerifyReport, verify_shards
from wtours.storage.hashing import sha256_file
from wtours.storage.receipts import is_current, read_receipt
from wtours.workspace.layout import Layout
from wtours.workspace.videos import DownloadedVideo, downloaded_video


@dataclass(slots=True)
class RepairReport:
    """What was damaged, what was made again, and what is still wrong."""

    before: VerifyReport
    repaired: list[str] = field(default_factory=list)
    """Shards that were made again to the bytes of before."""
    changed: list[str] = field(default_factory=list)
    """Shards that were made again, with other bytes: by another version of a library."""
    problems: list[ShardProblem] = field(default_factory=list)
    """What is still wrong."""


def repair_shards(
    layout: Layout,
    name: str,
    *,
    deep: bool = True,
    jobs: int = 1,
    on_progress: Progress = no_progress,
) -> RepairReport:
    """Verify a shard set, make its damaged shards again, and write its index again.

    Shards that are not in `dataset.json` are named and left alone.

    Args:
        layout: The workspace.
        name: The folder under <root>/shards.
        deep: As in `verify_shards`.
        jobs: Processes.
        on_progress: As in `verify_shards`; then for each video with the bytes made again.

    Raises:
        ShardError: there is no readable `dataset.json`, or a version of wtours that made other
            pixels began the set.
        WtoursError: another process works on the set, or the disk is full.
    """
    directory = layout.shards_dir(name)
    with whole_set(layout, name):
        report = RepairReport(verify_shards(directory, deep=deep, on_progress=on_progress))
        if report.before.ok:
            return report
        dataset = read_dataset(directory)
        require_same_params(directory, dataset.params)
        named = {problem.file for problem in report.before.problems}
        broken = [shard for shard in dataset.shards if _is_broken(directory, dataset, shard, named)]
        for video, shards in itertools.groupby(broken, key=lambda shard: shard.video_id):
            _make_again(layout, directory, dataset, video, list(shards), report, jobs, on_progress)
        if _has_every_receipt(directory, dataset):
            seal(layout, name, dataset.params)
        report.problems[:0] = verify_shards(directory, deep=False).problems
    return report


def _is_broken(directory: Path, dataset: Dataset, shard: ShardRecord, named: set[str]) -> bool:
    """Return whether a shard, its rows or its receipt has to be made again."""
    receipt_path = segment_receipt(directory, shard.video_id, shard.segment)
    receipt = read_receipt(receipt_path)
    inputs = receipt_inputs(_video(dataset, shard.video_id).source_sha256)
    if receipt is None or not is_current(
        receipt_path, inputs=inputs, params=dataset.params.recorded()
    ):
        return True
    rows = receipt.file(".parquet")
    if sha256_file(directory / RECEIPTS_FOLDER / rows.path) != rows.sha256:
        return True
    tar = f"{shard.shard}.tar"
    # A whole shard is named too where the index is what is wrong.
    return tar in named and sha256_file(directory / tar) != receipt.file(".tar").sha256


def _make_again(
    layout: Layout,
    directory: Path,
    dataset: Dataset,
    video_id: str,
    shards: list[ShardRecord],
    report: RepairReport,
    jobs: int,
    on_progress: Progress,
) -> None:
    """Make shards of one video again; each ends in the report, one way or the other."""
    by_segment = {shard.segment: shard for shard in shards}
    try:
        record = _video(dataset, video_id)
        video = _source(layout, record)
        tasks = segment_tasks(video, list(by_segment), dataset.params, record.taken_us)
    except VideoError as error:
        report.problems += [
            ShardProblem(f"{shard.shard}.tar", f"cannot be made again: {error}") for shard in shards
        ]
        return
    work = partial(shard_segment, directory=directory)
    results = run_tasks(work, tasks, jobs=jobs)
    done_bytes = 0
    for task, result in results:
        file = f"{task.shard}.tar"
        if result.error is not None:
            report.problems.append(ShardProblem(file, f"cannot be made again: {result.error}"))
        elif sha256_file(directory / file) == by_segment[task.segment].sha256:
            report.repaired.append(file)
        else:
            report.changed.append(file)
        done_bytes += by_segment[task.segment].bytes
        on_progress(f"{video_id} again", done_bytes, sum(shard.bytes for shard in shards))


def _source(layout: Layout, record: VideoRecord) -> DownloadedVideo:
    """Return the very video file that the shards were made from.

    Raises:
        VideoError: it is gone, another one, or damaged itself.
    """
    video = downloaded_video(layout, record.video_id)
    found = sha256_file(video.path)
    if found != record.source_sha256:
        raise VideoError(
            f"{video.path} is another file than the shards were made from (sha256 {found[:12]}…, "
            f"not {record.source_sha256[:12]}…); download that one, or run `wtours shard` again"
        )
    return video


def _has_every_receipt(directory: Path, dataset: Dataset) -> bool:
    """Return whether sealing again would lose no video."""
    whole = {
        plan.video_id
        for plan in published_plans(directory)
        if not missing_segments(directory, plan, dataset.params)
    }
    return whole >= {video.video_id for video in dataset.videos}


def _video(dataset: Dataset, video_id: str) -> VideoRecord:
    return next(video for video in dataset.videos if video.video_id == video_id)
