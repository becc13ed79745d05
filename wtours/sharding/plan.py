"""What a shard set has to hold of each video, and which segments are still missing.

`receipts/<video_id>.json` says how many segments a video has and what is known of its source, so
that the index can be made again when the video itself is gone.
"""

import bisect
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wtours.errors import ShardError
from wtours.media.reader import open_video
from wtours.sharding.segment import (
    RECEIPTS_FOLDER,
    STAGE,
    SegmentTask,
    receipt_inputs,
    segment_receipt,
)
from wtours.shards.schema import ShardParams
from wtours.storage.atomic import remove
from wtours.storage.receipts import Receipt, is_current, read_receipt, versions_of, write_receipt
from wtours.workspace.videos import DownloadedVideo

_FACTS = ("source", "title", "channel", "license_claimed", "license_observed")


@dataclass(frozen=True, slots=True)
class VideoPlan:
    """One video's part of a shard set, as its plan receipt has it."""

    video_id: str
    source_sha256: str
    num_segments: int
    facts: dict[str, Any]


def plan_video(
    directory: Path, video: DownloadedVideo, params: ShardParams, taken_us: int | None = None
) -> VideoPlan:
    """Publish and return the plan of a video, of which the frames before `taken_us` are taken.

    If the set holds shards of another file of this video, they are removed first.
    """
    _remove_if_of_another_source(directory, video)
    measured = video.receipt.facts
    facts = {
        **{name: measured.get(name) for name in _FACTS},
        **{name: measured[name] for name in ("frame_rate", "width", "height", "last_pts_us")},
        "taken_us": taken_us,
        "segments": _last_taken_us(measured["last_pts_us"], taken_us) // params.segment_us + 1,
    }
    receipt = Receipt(
        stage=STAGE,
        key=video.video_id,
        inputs=receipt_inputs(video.sha256),
        params=params.recorded(),
        versions=versions_of(),
        facts=facts,
    )
    write_receipt(directory / RECEIPTS_FOLDER / f"{video.video_id}.json", receipt)
    return _plan(receipt)


def published_plans(directory: Path) -> list[VideoPlan]:
    """Return the plan of every video that was ever sharded into this set, by video id."""
    return [_plan(receipt) for receipt in _receipts(directory) if "segments" in receipt.facts]


def recorded_params(directory: Path) -> ShardParams:
    """Return the parameters that the set was begun with.

    Raises:
        ShardError: nothing was begun there.
    """
    for receipt in _receipts(directory):
        return ShardParams.from_recorded(receipt.params)
    raise ShardError(f"{directory} has no receipts of shards; run `wtours shard`")


def missing_segments(directory: Path, plan: VideoPlan, params: ShardParams) -> list[int]:
    """Return the segments of a video that have no receipt, or one of something else."""
    inputs, recorded = receipt_inputs(plan.source_sha256), params.recorded()
    return [
        segment
        for segment in range(plan.num_segments)
        if not is_current(
            segment_receipt(directory, plan.video_id, segment), inputs=inputs, params=recorded
        )
    ]


def segment_tasks(
    video: DownloadedVideo,
    segments: list[int],
    params: ShardParams,
    taken_us: int | None = None,
) -> list[SegmentTask]:
    """Return the tasks of a video's segments.

    Raises:
        VideoError: the video cannot be opened (it is, for "native", to list its packets).
    """
    tasks = [
        SegmentTask(
            video_id=video.video_id,
            video_path=str(video.path),
            source_sha256=video.sha256,
            segment=segment,
            params=params,
            taken_us=taken_us,
        )
        for segment in segments
    ]
    return tasks if params.rate is not None else _with_ordinals(video, tasks)


def require_same_params(directory: Path, params: ShardParams) -> None:
    """Refuse parameters other than those that the set was begun with.

    Raises:
        ShardError: it names the parameter and both values.
    """
    for receipt in _receipts(directory):
        recorded = params.recorded()
        for name in {**recorded, **receipt.params}:
            present, wanted = receipt.params.get(name), recorded.get(name)
            if name == "pixels" and present != wanted:
                raise ShardError(
                    f"shard set {directory.name!r} was begun by a version of wtours that made "
                    f"other pixels of the same frames; choose another --name (this one stays "
                    f"readable)"
                )
            if present != wanted:
                raise ShardError(
                    f"shard set {directory.name!r} has {name} {present}, not {wanted}; "
                    f"choose another --name, or the same {name}"
                )


def _remove_if_of_another_source(directory: Path, video: DownloadedVideo) -> None:
    folder = directory / RECEIPTS_FOLDER
    old = read_receipt(folder / f"{video.video_id}.json")
    if old is not None and old.inputs != receipt_inputs(video.sha256):
        # A video id has no dash, so this pattern names no other video's files.
        for path in [*folder.glob(f"{video.video_id}-*"), *directory.glob(f"{video.video_id}-*")]:
            remove(path)


def _with_ordinals(video: DownloadedVideo, tasks: list[SegmentTask]) -> list[SegmentTask]:
    """Give each task the ordinals of its frames, from one scan of the video's packets."""
    if not tasks:
        return tasks
    with open_video(video.path) as reader:
        # Packets before the first frame are an edit list's lead-in: they are never shown.
        pts_us = [pts for pts in reader.packet_pts_us().tolist() if pts >= 0]
    numbered = []
    for task in tasks:
        first, end = (bisect.bisect_left(pts_us, moment) for moment in task.interval_us)
        of_task = tuple(pts_us[first:end])
        numbered.append(replace(task, native_first_index=first, native_pts_us=of_task))
    return numbered


def _last_taken_us(last_pts_us: int, taken_us: int | None) -> int:
    return last_pts_us if taken_us is None else min(last_pts_us, taken_us - 1)


def _receipts(directory: Path) -> Iterator[Receipt]:
    """Yield every readable receipt of the set, by name."""
    for path in sorted((directory / RECEIPTS_FOLDER).glob("[!.]*.json")):
        receipt = read_receipt(path)
        if receipt is not None and receipt.stage == STAGE:
            yield receipt


def _plan(receipt: Receipt) -> VideoPlan:
    return VideoPlan(
        video_id=receipt.key,
        source_sha256=receipt.inputs["video"],
        num_segments=receipt.facts["segments"],
        facts={"taken_us": None, **receipt.facts},  # None in receipts that are older than it
    )
