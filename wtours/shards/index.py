"""The index of a shard set in memory, and frames read by their byte offset in the tar.

Nothing here unpickles or runs anything, and no size is trusted without a bound. No file stays open
between two reads, so an index may be pickled, forked and shared by threads.
"""

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from wtours.errors import ShardError
from wtours.shards.clip_starts import tolerance_us
from wtours.shards.frames import (
    BLOCK,
    FrameRef,
    listed_problem,
    read_frames,
    read_joined,
    size_problem,
)
from wtours.shards.range_reads.frame_cache import FrameCache
from wtours.shards.range_reads.remote import (
    FetchPolicy,
    RangeReader,
    dataset_at,
    folder_url,
    listed_sizes,
)
from wtours.shards.range_reads.remote_frames import RemoteFrames
from wtours.shards.schema import (
    DATASET_FILE,
    INDEX_FILE,
    INDEX_SCHEMA,
    MAX_MEMBER_BYTES,
    MIN_SAMPLE_BYTES,
    Dataset,
    ShardRecord,
    set_sha256,
)
from wtours.storage.hashing import digest
from wtours.storage.remote_calls import shown
from wtours.storage.store import as_location

_BATCH_ROWS = 8_192
_READ_BYTES = 1 << 16  # of a column at a time: a row group of a long set is some 10 MB of it
UNREADABLE = (pa.ArrowException, OSError, ValueError, KeyError, MemoryError)
"""What pyarrow raises for a Parquet file that is damaged, or is none."""
_READ_COLUMNS = ("frame_index", "pts_us", "offset", "size", "shot")


@dataclass(frozen=True, slots=True)
class VideoRows:
    """The rows [start, stop) of the index that are one video's, in time order."""

    video_id: str
    start: int
    stop: int
    tolerance_us: int
    """How far from its moment a clip's frame may be."""


class ShardIndex:
    """A shard set's index in memory: 24 bytes a frame, 28 where a tar is of 2 GiB or more.

    Every process that reads clips holds it: so no column is wider than its values.

    Rows are numbered from 0, videos in the order of their ids, frames in time order.

    Attributes:
        directory: The shard set: its folder, or its URL.
        remote: Reads the frames of a set at a URL, and counts its requests; None: it is on a disk.
        dataset: Its `dataset.json`.
        frame_index: (N,) int32; tick number, or ordinal with "native".
        pts_us: (N,) int64; microseconds from the video's first frame.
        offset: (N,) int32 or int64; where the image begins in its tar.
        size: (N,) int32; bytes of the image.
        shot: (N,) int32; -1 where the video was not analyzed.
        videos: The rows of each video.
    """

    def __init__(
        self, directory: Path | str, dataset: Dataset, columns: Mapping[str, NDArray[Any]]
    ) -> None:
        self.directory = directory
        self.remote: RemoteFrames | None = None
        self.dataset = dataset
        self.frame_index: NDArray[np.int32] = columns["frame_index"]
        self.pts_us: NDArray[np.int64] = columns["pts_us"]
        self.offset: NDArray[np.int32] | NDArray[np.int64] = columns["offset"]
        self.size: NDArray[np.int32] = columns["size"]
        self.shot: NDArray[np.int32] = columns["shot"]
        # Rows are in the order of dataset.json's shards, so counts say which shard a row is in.
        counts = [shard.frames for shard in dataset.shards]
        self._first_rows = np.cumsum([0, *counts], dtype=np.int64)
        videos, start = [], 0
        for video in dataset.videos:
            tolerance = tolerance_us(dataset.params.rate, video.rate)
            videos.append(VideoRows(video.video_id, start, start + video.frames, tolerance))
            start += video.frames
        self.videos = tuple(videos)
        for first_row, shard in zip(self._first_rows[:-1].tolist(), dataset.shards, strict=True):
            self._check_shard(first_row, shard)

    @classmethod
    def open(cls, place: str | Path, *, policy: FetchPolicy | None = None) -> "ShardIndex":
        """Open a finished shard set; every shard is checked to be there in full length.

        A web server is not asked for each shard: one that is missing there is named when it is
        read.

        Args:
            place: The set's folder, or its URL (s3://, gs://, az://, https:// or any other of
                fsspec).
            policy: Of a URL: retries, options, and the caches on this machine.

        Raises:
            ShardError: it is not finished, a shard is missing or of another size, or the index is
                not the one that `dataset.json` describes.
            MissingPackageError: fsspec has no client for the protocol.
        """
        location, policy = as_location(place), policy or FetchPolicy()
        dataset = dataset_at(location, policy)
        sizes = None if isinstance(location, Path) else listed_sizes(location, policy)
        # Counts and sizes first: what is allocated below is bounded by the bytes that are there.
        if (problem := count_problem(dataset)) is not None:
            raise ShardError(f"{shown(str(location))}/{DATASET_FILE} {problem}")
        for shard in dataset.shards:
            name = f"{shard.shard}.tar"
            problem = (
                size_problem(location / name, shard.bytes)
                if isinstance(location, Path)
                else None
                if sizes is None
                else listed_problem(sizes.get(name), shard.bytes)
            )
            if problem is None and shard.frames > shard.bytes // MIN_SAMPLE_BYTES:
                problem = f"is too short for {shard.frames} frames; run `wtours shard` again"
            if problem is not None:
                raise ShardError(f"{shown(str(location))}/{name} {problem}")
        try:
            with _checked_index(location, dataset, policy) as source:
                columns = _read_columns(source, dataset)
        except UNREADABLE as error:
            reason = " ".join(str(error).split())
            raise ShardError(
                f"{shown(str(location))}/{INDEX_FILE} cannot be read ({reason}); run `wtours "
                f"shard` again"
            ) from error
        opened = cls(location, dataset, columns)
        if isinstance(location, str):
            # An index may be the same to the byte where the images are others of the same sizes.
            set_id = digest([dataset.index.sha256, set_sha256(dataset.shards)])
            cache = FrameCache(
                policy.cache_dir,
                set_id,
                disk_bytes=policy.cache_bytes,
                memory_bytes=policy.memory_bytes,
            )
            opened.remote = RemoteFrames(location, policy, cache)
        return opened

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.pts_us)

    @property
    def shots_known(self) -> bool:
        """Whether every frame's shot is known; if not, clips of those videos ignore cuts."""
        return bool((self.shot >= 0).all())

    def frame(self, row: int) -> FrameRef:
        """Return where the frame of a row is."""
        return self.frames([row])[0]

    def frames(self, rows: Sequence[int]) -> list[FrameRef]:
        """Return where the frame of each row is; one by one takes several times as long."""
        at = np.asarray(rows, np.int64)
        columns = (self.frame_index, self.pts_us, self.offset, self.size)
        of_rows = zip(*(column[at].tolist() for column in columns), strict=True)
        shards = (self.dataset.shards[number] for number in self._shards_of(at).tolist())
        return [
            FrameRef(shard.video_id, frame_index, pts_us, shard.shard, offset, size)
            for shard, (frame_index, pts_us, offset, size) in zip(shards, of_rows, strict=True)
        ]

    def numbers(self, rows: Sequence[int]) -> list[int]:
        """Return the number of each row's frame in its shard, from 0."""
        at = np.asarray(rows, np.int64)
        numbers: list[int] = (at - self._first_rows[self._shards_of(at)]).tolist()
        return numbers

    def read_jpegs(self, rows: Sequence[int]) -> tuple[bytes, ...]:
        """Return the image of each row: a JPEG, or what `dataset.params.codec` says.

        Rows that follow each other in one shard share one opening of it.

        Raises:
            ShardError: a shard is gone, too short, or has something else at the frame's place.
        """
        return tuple(bytes(image) for _, image in self.iter_frames(rows))

    def iter_frames(self, rows: Sequence[int]) -> Iterator[tuple[FrameRef, bytes | memoryview]]:
        """Yield where the frame of each row is, and its image; see `read_jpegs`.

        Of a set on a disk an image holds until the next is asked for.
        """
        refs = self.frames(rows)
        if isinstance(self.directory, Path):
            images: Iterable[bytes | memoryview] = itertools.chain.from_iterable(
                read_frames(self.directory / f"{shard}.tar", group)
                for shard, group in itertools.groupby(refs, key=lambda ref: ref.shard)
            )
        else:
            assert self.remote is not None
            images = self.remote.read(refs, self.numbers(rows))
        yield from zip(refs, images, strict=True)

    def read_joined(
        self, rows: Sequence[int], memory: NDArray[np.uint8] | None = None
    ) -> tuple[list[FrameRef], NDArray[np.uint8]]:
        """Return where the frame of each row is, and the images, one after another in one array.

        Args:
            rows: Of the index.
            memory: Large enough, to be read into; None: new memory.
        """
        refs = self.frames(rows)
        if self.remote is not None:
            data = b"".join(self.remote.read(refs, self.numbers(rows)))
            return refs, np.frombuffer(data, np.uint8)
        num_bytes = sum(ref.size for ref in refs)
        images = np.empty(num_bytes, np.uint8) if memory is None else memory[:num_bytes]
        done = 0
        for shard, group in itertools.groupby(refs, key=lambda ref: ref.shard):
            of_shard = list(group)
            read_joined(Path(self.directory) / f"{shard}.tar", of_shard, images.data[done:])
            done += sum(ref.size for ref in of_shard)
        return refs, images

    def video_of(self, row: int) -> VideoRows:
        """Return the video that a row is of."""
        return next(video for video in self.videos if video.start <= row < video.stop)

    def _shards_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of each row's shard."""
        return self._first_rows.searchsorted(rows, side="right") - 1

    def _check_shard(self, first_row: int, shard: ShardRecord) -> None:
        rows = slice(first_row, first_row + shard.frames)
        offset, pts_us = self.offset[rows], self.pts_us[rows]
        # As int64: numpy refuses a shard.bytes of 2 GiB or more beside int32.
        size = self.size[rows].astype(np.int64)
        start_us = shard.segment * self.dataset.params.segment_us
        sound = (size > 0) & (size <= MAX_MEMBER_BYTES) & (self.frame_index[rows] >= 0)
        sound &= (offset >= BLOCK) & (offset <= shard.bytes - size)  # a sum could overflow
        sound &= (pts_us >= start_us) & (pts_us < start_us + self.dataset.params.segment_us)
        sound[1:] &= pts_us[1:] > pts_us[:-1]
        if not sound.all():
            ref = self.frame(first_row + int(np.argmin(sound)))
            raise ShardError(
                f"{self.directory}: {INDEX_FILE} has an impossible row ({ref}); "
                f"run `wtours shard` again"
            )


def count_problem(dataset: Dataset) -> str | None:
    """Return how dataset.json contradicts itself, or None."""
    by_video = [
        (video_id, sum(shard.frames for shard in shards))
        for video_id, shards in itertools.groupby(dataset.shards, lambda shard: shard.video_id)
    ]
    in_shards, in_videos = sum(n for _, n in by_video), sum(v.frames for v in dataset.videos)
    if not in_shards == in_videos == dataset.frames == dataset.index.rows:
        return (
            f"counts {in_shards} frames in shards, {in_videos} in videos, {dataset.frames} in all "
            f"and {dataset.index.rows} in the index; run `wtours shard` again"
        )
    if by_video != [(video.video_id, video.frames) for video in dataset.videos if video.frames]:
        return "has other videos than shards; run `wtours shard` again"
    is_ordered = len(dict(by_video)) == len(by_video) and all(
        before.segment < shard.segment
        for before, shard in itertools.pairwise(dataset.shards)
        if before.video_id == shard.video_id
    )
    if not is_ordered:
        return "has shards twice or in another order than time's; run `wtours shard` again"
    return None


def _checked_index(location: Path | str, dataset: Dataset, policy: FetchPolicy) -> pa.NativeFile:
    """Return index.parquet, open, whose sha256 is the one of dataset.json."""
    if isinstance(location, Path):
        source = pa.OSFile(str(location / INDEX_FILE))  # another may take its name meanwhile
        sha256 = hashlib.file_digest(source, "sha256").hexdigest()
        source.seek(0)
    else:
        reader = RangeReader(folder_url(location, INDEX_FILE), policy, size=dataset.index.bytes)
        source = pa.BufferReader(reader.read(dataset.index.bytes))
        sha256 = reader.sha256()
    if sha256 != dataset.index.sha256:
        raise ShardError(
            f"{shown(str(location))}/{INDEX_FILE} is not the index that dataset.json describes; "
            f"run `wtours shard` again"
        )
    return source


def _read_columns(source: pa.NativeFile, dataset: Dataset) -> dict[str, NDArray[Any]]:
    """Return the columns as arrays, null as -1, read in batches so that nothing is held twice.

    Raises:
        ValueError: the file has another number of rows, or a number that its column cannot hold.
    """
    types = {name: INDEX_SCHEMA.field(name).type for name in _READ_COLUMNS}
    types["frame_index"] = pa.int32()
    if all(shard.bytes < 2**31 for shard in dataset.shards):
        types["offset"] = pa.int32()
    with pq.ParquetFile(source, pre_buffer=False, buffer_size=_READ_BYTES) as file:
        if file.metadata.num_rows != dataset.frames:
            raise ValueError(f"{file.metadata.num_rows} rows for {dataset.frames} frames")
        columns = {
            name: np.empty(dataset.frames, np.dtype(str(type_))) for name, type_ in types.items()
        }
        row = 0
        # No threads: where their number is limited, a whole set would look damaged.
        for batch in file.iter_batches(_BATCH_ROWS, columns=_READ_COLUMNS, use_threads=False):
            for name, type_ in types.items():
                values = _as_numpy(batch.column(name).cast(type_))
                columns[name][row : row + batch.num_rows] = values
            row += batch.num_rows
        if row != dataset.frames:
            raise ValueError(f"it ends after {row} of {dataset.frames} rows")
    pa.default_memory_pool().release_unused()  # some 20 MiB that would stay beside the columns
    return columns


def _as_numpy(array: pa.Array) -> NDArray[Any]:
    """Return the values of an integer array, null as -1.

    By its buffers: pyarrow's own to_numpy imports pandas, 0.4 s and 45 MiB.
    """
    validity, data = array.buffers()
    rows = slice(array.offset, array.offset + len(array))
    values = np.frombuffer(data, np.dtype(str(array.type)))[rows]
    if not array.null_count:
        return values
    is_valid = np.unpackbits(np.frombuffer(validity, np.uint8), bitorder="little")[rows]
    return np.where(is_valid, values, -1)
