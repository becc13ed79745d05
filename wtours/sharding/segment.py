"""The unit of work of `shard`: one segment of one video becomes one tar, or none if it is empty.

Published in this order, each whole or absent: `<shard>.tar`, `receipts/<shard>.parquet` (the rows
that the index will get), `receipts/<shard>.json` (the receipt: the segment is done).
"""

import dataclasses
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel

from wtours.errors import VideoError, WorkerDiedError, WtoursError
from wtours.execution.executor import Executor
from wtours.media.frame import Frame
from wtours.media.jpeg import encode_planes
from wtours.media.reader import VideoReader, open_video
from wtours.media.sampling import nearest_per_tick, tick_period_us
from wtours.sharding.anonymize.blur import Blur
from wtours.sharding.tar_writer import FrameSample, MemberPlace, write_shard
from wtours.shards.schema import INDEX_SCHEMA, Count, ShardParams, ShardRecord, shard_name
from wtours.storage.atomic import atomic_path
from wtours.storage.receipts import (
    FileRecord,
    Receipt,
    files_present,
    read_receipt,
    record_file,
    versions_of,
    write_receipt,
)
from wtours.workspace.videos import FileIdentity, require_same_file

logger = logging.getLogger(__name__)

RECEIPTS_FOLDER = "receipts"
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

    def __str__(self) -> str:
        start, end = (moment / _US for moment in self.interval_us)
        return f"{self.video_id} from {start:g} s to {end:g} s"


class SegmentFacts(BaseModel):
    """`facts` of a segment's receipt."""

    frames: Count
    corrupt_frames: Count
    undecodable_frames: Count = 0


@dataclasses.dataclass(frozen=True, slots=True)
class FinishedSegment:
    """A published segment, as its receipt records it."""

    record: ShardRecord | None
    """None: no frame was sampled in it, so there is no shard."""
    corrupt_frames: int
    undecodable_frames: int


def run_segments(
    tasks: Iterable[SegmentTask], directory: Path, executor: Executor
) -> Iterator[tuple[SegmentTask, str | None]]:
    """Publish segments; yield each as it ends, with the reason if it could not be made.

    A segment that kills its process, also alone, is recorded as failed; the next run tries again.
    """
    try:
        yield from executor.map(partial(shard_segment, directory=directory), tasks)
    except WorkerDiedError as error:
        for task in error.tasks:
            assert isinstance(task, SegmentTask)
            reason = str(WorkerDiedError([task]))
            _publish_receipt(task, directory, status="failed_transient", error=reason)
            yield task, reason


def shard_segment(task: SegmentTask, *, directory: Path) -> str | None:
    """Publish one segment in the shard set `directory`.

    Returns:
        Why the video cannot be read (the other videos are still processed), or None.

    Raises:
        WtoursError: the disk is full.
    """
    start_us, end_us = task.interval_us
    corrupt: list[int] = []

    def decoded(frames: Iterator[Frame]) -> Iterator[Frame]:
        for frame in frames:
            if frame.is_corrupt and start_us <= frame.pts_us < end_us:
                corrupt.append(frame.pts_us)
            yield frame

    try:
        with open_video(Path(task.video_path), stream=task.stream, threads=1) as reader:
            samples = _of_one_file(task, _samples(reader, task, directory, decoded))
            places = write_shard(directory / f"{task.shard}.tar", samples)
            undecodable = reader.undecoded_pts_us(start_us, end_us)
    except VideoError as error:
        return str(error)
    except (WtoursError, OSError):  # of the disk or the set: it would meet each segment
        raise
    except Exception as error:  # a file may break any library
        logger.info("%s", task, exc_info=True)
        return f"{task}: {type(error).__name__}: {' '.join(str(error).split())}"
    facts = {"frames": len(places), "corrupt_frames": len(corrupt)}
    facts["undecodable_frames"] = len(undecodable)
    _publish_receipt(task, directory, files=_publish_rows(task, directory, places), facts=facts)
    return None


def _of_one_file(task: SegmentTask, samples: Iterator[FrameSample]) -> Iterator[FrameSample]:
    """Yield the samples; a file that was replaced since the stage began makes no shard."""
    require_same_file(Path(task.video_path), task.identity)
    yield from samples
    require_same_file(Path(task.video_path), task.identity)


def _samples(
    reader: VideoReader,
    task: SegmentTask,
    directory: Path,
    decoded: Callable[[Iterator[Frame]], Iterator[Frame]],
) -> Iterator[FrameSample]:
    """Yield the segment's samples in time order; `decoded` sees every frame first."""
    metadata, params = reader.metadata, task.params
    rate = metadata.frame_rate
    source = {  # facts of the file, never of its license
        "source_sha256": task.source_sha256,
        "source_width": metadata.width,
        "source_height": metadata.height,
        "source_frame_rate": f"{rate.numerator}/{rate.denominator}",
        **metadata.display_facts(),
    }
    blur = None
    if params.blur is not None:
        blur = Blur(
            directory,
            params.blur,
            task.video_id,
            interval_us=task.interval_us,
            source_size=(metadata.width, metadata.height),
            period_us=float(_US / rate),
        )
    for frame_index, frame in _sampled_frames(reader, task, decoded):
        if blur is None:
            planes, boxes, share = frame.to_jpeg_planes(params.short_side), None, None
        else:
            planes, coverage = blur.apply(frame, params.short_side)
            boxes, share = coverage.boxes, coverage.share
        jpeg = encode_planes(planes, quality=params.quality)
        yield FrameSample(task.video_id, frame_index, frame.pts_us, jpeg, source, boxes, share)


def _sampled_frames(
    reader: VideoReader,
    task: SegmentTask,
    decoded: Callable[[Iterator[Frame]], Iterator[Frame]],
) -> Iterator[tuple[int, Frame]]:
    """Yield (frame_index, frame) for the sampled frames of the segment, in time order."""
    start_us, end_us = task.interval_us
    rate = task.params.rate
    if rate is None:
        indices = dict(zip(task.native_pts_us, itertools.count(task.native_first_index)))
        for frame in decoded(reader.frames(start_us, end_us)):
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
    for tick, frame in nearest_per_tick(decoded(frames), rate):
        if start_us <= frame.pts_us < end_us:
            yield tick, frame


def _publish_rows(
    task: SegmentTask, directory: Path, places: list[MemberPlace]
) -> tuple[FileRecord, ...]:
    """Publish the rows that the index will get; return the files of the segment."""
    if not places:
        return ()
    folder = directory / RECEIPTS_FOLDER
    path = folder / f"{task.shard}.parquet"
    with atomic_path(path) as temp:
        rows = [dataclasses.asdict(place) for place in places]
        pq.write_table(pa.Table.from_pylist(rows, ROWS_SCHEMA), temp)
    tar = record_file(directory / f"{task.shard}.tar", relative_to=directory)
    tar = tar.model_copy(update={"path": f"../{tar.path}"})
    return tar, record_file(path, relative_to=folder)


def _publish_receipt(task: SegmentTask, directory: Path, **how_it_ended: Any) -> None:
    receipt = Receipt(
        stage=STAGE,
        key=task.shard,
        inputs=receipt_inputs(task.source_sha256),
        params=task.params.recorded(),
        versions=versions_of("av", "simplejpeg"),
        **how_it_ended,
    )
    write_receipt(directory / RECEIPTS_FOLDER / f"{task.shard}.json", receipt)


def receipt_inputs(source_sha256: str) -> dict[str, str]:
    """Return the `inputs` of every receipt of a shard set."""
    return {"video": source_sha256}


def finished_segment(
    directory: Path, video_id: str, source_sha256: str, segment: int, params: ShardParams
) -> FinishedSegment | None:
    """Return a segment of this file and these parameters if it is there, with sizes that agree.

    The receipt's paths are not used: the names of a segment's files follow from its own.
    """
    name = shard_name(video_id, segment)
    path = directory / RECEIPTS_FOLDER / f"{name}.json"
    receipt = read_receipt(path)
    if (
        receipt is None
        or receipt.status != "done"
        or (receipt.inputs, receipt.params) != (receipt_inputs(source_sha256), params.recorded())
        or not files_present(receipt, path.parent)
    ):
        return None
    try:
        facts = SegmentFacts.model_validate(receipt.facts)
        record = None
        if receipt.files:
            tar, rows = receipt.file(".tar"), receipt.file(".parquet")
            if (tar.path, rows.path) != (f"../{name}.tar", f"{name}.parquet"):
                return None
            record = ShardRecord(
                shard=name,
                video_id=video_id,
                segment=segment,
                frames=facts.frames,
                bytes=tar.bytes,
                sha256=tar.sha256,
            )
    except ValueError:  # damaged: as if it were not there
        return None
    return FinishedSegment(record, facts.corrupt_frames, facts.undecodable_frames)
