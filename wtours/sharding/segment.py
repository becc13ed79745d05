"""The unit of work of `shard`: one segment of one video becomes one tar, or none if it is empty.

Published in this order, each whole or absent: `<shard>.tar`, `receipts/<shard>.parquet` (the rows
that the index will get), `receipts/<shard>.json` (the receipt: the segment is done).
"""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from wtours.errors import VideoError
from wtours.media.frame import Frame
from wtours.media.jpeg import encode_planes
from wtours.media.reader import VideoReader, open_video
from wtours.media.sampling import nearest_per_tick, tick_period_us
from wtours.sharding.anonymize.blur import Blur, Coverage
from wtours.sharding.tar_writer import FrameSample, MemberPlace, write_shard
from wtours.shards.schema import INDEX_SCHEMA, ShardParams, shard_name
from wtours.storage.atomic import atomic_path
from wtours.storage.receipts import FileRecord, Receipt, record_file, versions_of, write_receipt

RECEIPTS_FOLDER = "receipts"
STAGE = "shard"
_US = 1_000_000
ROWS_SCHEMA = pa.schema(
    [
        INDEX_SCHEMA.field(name)
        for name in ("frame_index", "pts_us", "offset", "size", "blur_boxes", "blurred_share")
    ]
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SegmentTask:
    """What one segment is made from; all of it can be written as JSON."""

    video_id: str
    video_path: str
    source_sha256: str
    segment: int
    params: ShardParams
    taken_us: int | None = None
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
        return self.segment * length, min(end_us, self.taken_us or end_us)


@dataclasses.dataclass(frozen=True, slots=True)
class SegmentResult:
    """How a segment ended."""

    error: str | None = None
    """Why it could not be made; None: it is published."""


class _CorruptCount:
    """Passes frames on and counts the corrupt ones of [start_us, end_us)."""

    def __init__(self, start_us: int, end_us: int) -> None:
        self._interval = range(start_us, end_us)
        self.count = 0

    def watch(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        for frame in frames:
            self.count += frame.is_corrupt and frame.pts_us in self._interval
            yield frame


def shard_segment(task: SegmentTask, *, directory: Path) -> SegmentResult:
    """Publish one segment in the shard set `directory`.

    A video that cannot be read is a result with an error, so that the others go on.

    Raises:
        WtoursError: the disk is full.
    """
    corrupt = _CorruptCount(*task.interval_us)
    tar_path = directory / f"{task.shard}.tar"
    try:
        with open_video(Path(task.video_path), threads=1) as reader:
            source = _source_facts(reader, task)
            frames = _sampled_frames(reader, task, corrupt)
            blur = _blur(task, directory, reader)
            samples = (_sample(task, index, frame, source, blur) for index, frame in frames)
            places = write_shard(tar_path, samples)
            undecodable = reader.undecoded_pts_us(*task.interval_us)
    except VideoError as error:
        return SegmentResult(error=str(error))
    left_out = {"corrupt_frames": corrupt.count, "undecodable_frames": len(undecodable)}
    _publish_receipt(task, directory, places, left_out)
    return SegmentResult()


def _sampled_frames(
    reader: VideoReader, task: SegmentTask, corrupt: _CorruptCount
) -> Iterator[tuple[int, Frame]]:
    """Yield (frame_index, frame) for the sampled frames of the segment, in time order."""
    start_us, end_us = task.interval_us
    rate = task.params.rate
    if rate is None:
        indices = dict(zip(task.native_pts_us, itertools.count(task.native_first_index)))
        for frame in corrupt.watch(reader.frames(start_us, end_us)):
            if frame.pts_us not in indices:
                raise VideoError(
                    f"{task.video_path}: the frame at {frame.pts_us} us has no packet of that "
                    f"time, so native frames cannot be numbered; use --fps with a number"
                )
            if not frame.is_corrupt:
                yield indices[frame.pts_us], frame
        return
    # A tick at the border has frames on both sides of it: look one tick further, so that it keeps
    # the same frame whichever segment is made. None is nearer than one at the very moment.
    margin_us = tick_period_us(rate)
    if start_us * rate % _US == 0:
        frames = reader.frames(start_us, end_us + margin_us, lead_us=margin_us)
    else:
        frames = reader.frames(max(0, start_us - margin_us), end_us + margin_us)
    for tick, frame in nearest_per_tick(corrupt.watch(frames), rate):
        if start_us <= frame.pts_us < end_us:
            yield tick, frame


def _sample(
    task: SegmentTask, frame_index: int, frame: Frame, source: dict[str, Any], blur: Blur | None
) -> FrameSample:
    jpeg, coverage = _encoded(frame, task.params, blur)
    return FrameSample(
        task.video_id,
        frame_index,
        frame.pts_us,
        jpeg,
        source,
        blur_boxes=None if coverage is None else coverage.boxes,
        blurred_share=None if coverage is None else coverage.share,
    )


def _encoded(frame: Frame, params: ShardParams, blur: Blur | None) -> tuple[bytes, Coverage | None]:
    """Return the frame's JPEG, and what was blurred in it (None: nobody asked for it)."""
    coverage = None
    if blur is None:
        planes = frame.to_jpeg_planes(params.short_side)
    else:
        planes, coverage = blur.apply(frame, params.short_side)
    return encode_planes(planes, quality=params.quality), coverage


def _blur(task: SegmentTask, directory: Path, reader: VideoReader) -> Blur | None:
    metadata = reader.metadata
    if task.params.blur is None:
        return None
    return Blur(
        directory,
        task.params.blur,
        task.video_id,
        interval_us=task.interval_us,
        source_size=(metadata.width, metadata.height),
        period_us=float(1_000_000 / metadata.frame_rate),
    )


def _source_facts(reader: VideoReader, task: SegmentTask) -> dict[str, Any]:
    """Return what `<key>.json` says of the source: facts of the file, never of its license."""
    metadata = reader.metadata
    rate = metadata.frame_rate
    return {
        "source_sha256": task.source_sha256,
        "source_width": metadata.width,
        "source_height": metadata.height,
        "source_frame_rate": f"{rate.numerator}/{rate.denominator}",
    }


def _publish_receipt(
    task: SegmentTask, directory: Path, places: list[MemberPlace], left_out: dict[str, int]
) -> None:
    folder = directory / RECEIPTS_FOLDER
    files: list[FileRecord] = []
    if places:
        rows_path = folder / f"{task.shard}.parquet"
        with atomic_path(rows_path) as temp:
            pq.write_table(_rows(places), temp)
        tar = record_file(directory / f"{task.shard}.tar", relative_to=directory)
        files = [
            tar.model_copy(update={"path": f"../{tar.path}"}),
            record_file(rows_path, relative_to=folder),
        ]
    receipt = Receipt(
        stage=STAGE,
        key=task.shard,
        inputs=receipt_inputs(task.source_sha256),
        params=task.params.recorded(),
        versions=versions_of("av", "simplejpeg"),
        files=tuple(files),
        facts={"frames": len(places), **left_out},
    )
    write_receipt(segment_receipt(directory, task.video_id, task.segment), receipt)


def receipt_inputs(source_sha256: str) -> dict[str, str]:
    """Return the `inputs` of every receipt of a shard set."""
    return {"video": source_sha256}


def segment_receipt(directory: Path, video_id: str, segment: int) -> Path:
    """Return the receipt that makes a segment exist."""
    return directory / RECEIPTS_FOLDER / f"{shard_name(video_id, segment)}.json"


def _rows(places: list[MemberPlace]) -> pa.Table:
    return pa.Table.from_pylist([dataclasses.asdict(place) for place in places], ROWS_SCHEMA)
