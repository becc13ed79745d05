"""The unit of work of `shard`: a segment of a video, and what it publishes.

Published in this order, each whole or absent: `<shard>.tar` (none if the segment is empty),
`receipts/<shard>.parquet` (the rows that the index will get), `receipts/<shard>.json` (the receipt:
the segment is done).
"""

import dataclasses
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel

from wtours.media.sampling import tick_period_us
from wtours.shards.params import ShardParams
from wtours.shards.schema import INDEX_SCHEMA, Count, ShardRecord, shard_name
from wtours.storage.atomic import RECEIPTS_FOLDER, atomic_path
from wtours.storage.receipts import (
    FileRecord,
    Receipt,
    files_present,
    read_receipt,
    record_file,
    versions_of,
    write_receipt,
)
from wtours.workspace.videos import FileIdentity

STAGE = "shard"
_US = 1_000_000
_ROWS = ("frame_index", "pts_us", "offset", "size", "blur_boxes", "blurred_share")
ROWS_SCHEMA = pa.schema([INDEX_SCHEMA.field(name) for name in _ROWS])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SegmentTask:
    """What one segment is made from; all of it can be written as JSON."""

    video_id: str
    video_path: str
    source_sha256: str
    segment: int
    params: ShardParams
    stream: int | None = None
    """Of the file; None: the one that `open_video` chooses."""
    identity: FileIdentity | None = None
    """Of the file when the stage began."""
    limit_us: int | None = None
    """Of the video, only frames before this are taken; None: all."""
    native_first_index: int = 0
    """With "native": the ordinal of the segment's first frame."""
    native_pts_us: tuple[int, ...] = ()
    """With "native": the pts of the segment's packets; a frame's ordinal is its place here."""

    @property
    def shard(self) -> str:
        """Return the name of the shard."""
        return shard_name(self.video_id, self.segment)

    @property
    def interval_us(self) -> tuple[int, int]:
        """Return the segment [start, end) in microseconds."""
        length = self.params.segment_us
        end_us = (self.segment + 1) * length
        return self.segment * length, min(end_us, self.limit_us or end_us)

    @property
    def margin_us(self) -> int:
        """Return how long before and after the segment frames may decide its ticks."""
        return 0 if self.params.rate is None else tick_period_us(self.params.rate)

    def is_done(self, directory: Path) -> bool:
        """Return whether the segment is in the shard set, made from the same things."""
        source = self.source_sha256
        found = finished_segment(directory, self.video_id, source, self.segment, self.params)
        return found is not None

    def __str__(self) -> str:
        start, end = (moment / _US for moment in self.interval_us)
        return f"{self.video_id} from {start:g} s to {end:g} s"


class FinishedSegment(BaseModel):
    """A published segment, as its receipt records it: the numbers are its `facts`."""

    record: ShardRecord | None = None
    """None: no frame was sampled in it, so there is no shard."""
    frames: Count
    corrupt_frames: Count
    undecodable_frames: Count = 0


def publish_rows(
    task: SegmentTask, directory: Path, rows: list[dict[str, Any]]
) -> tuple[FileRecord, ...]:
    """Publish the rows that the index will get; return the files of the segment."""
    if not rows:
        return ()
    folder = directory / RECEIPTS_FOLDER
    path = folder / f"{task.shard}.parquet"
    with atomic_path(path) as temp:
        pq.write_table(pa.Table.from_pylist(rows, ROWS_SCHEMA), temp)
    tar = record_file(directory / f"{task.shard}.tar", relative_to=directory)
    tar = tar.model_copy(update={"path": f"../{tar.path}"})
    return tar, record_file(path, relative_to=folder)


def publish_receipt(task: SegmentTask, directory: Path, **how_it_ended: Any) -> None:
    """Publish the segment's receipt, after its files: what it has, or why it is not made."""
    receipt = Receipt(
        stage=STAGE,
        key=task.shard,
        inputs={"video": task.source_sha256},
        params=task.params.recorded(),
        versions=versions_of("av", "simplejpeg" if task.params.codec == "jpeg" else "pillow"),
        **how_it_ended,
    )
    write_receipt(directory / RECEIPTS_FOLDER / f"{task.shard}.json", receipt)


def record_failure(task: SegmentTask, directory: Path, reason: str) -> None:
    """Publish a receipt that says why the segment cannot be made; the next run tries again."""
    publish_receipt(task, directory, status="failed_permanent", error=reason)


def finished_segment(
    directory: Path, video_id: str, source_sha256: str, segment: int, params: ShardParams
) -> FinishedSegment | None:
    """Return a segment of this file and these parameters if it is there, with sizes that agree.

    The receipt's paths are not used: the names of a segment's files follow from its own.
    """
    name = shard_name(video_id, segment)
    path = directory / f"{RECEIPTS_FOLDER}/{name}.json"
    receipt = read_receipt(path)
    if (
        receipt is None
        or receipt.status != "done"
        or (receipt.inputs, receipt.params) != ({"video": source_sha256}, params.recorded())
        or not files_present(receipt, path.parent)
    ):
        return None
    try:
        found = FinishedSegment.model_validate({**receipt.facts, "record": None})
        if receipt.files:
            tar, rows = receipt.file(".tar"), receipt.file(".parquet")
            if (tar.path, rows.path) != (f"../{name}.tar", f"{name}.parquet"):
                return None
            found.record = ShardRecord(
                shard=name,
                video_id=video_id,
                segment=segment,
                frames=found.frames,
                bytes=tar.bytes,
                sha256=tar.sha256,
            )
    except ValueError:  # damaged: as if it were not there
        return None
    return found
