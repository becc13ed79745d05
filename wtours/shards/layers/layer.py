"""A layer in memory: where each frame's value is, and reading values by their place in the tars."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from wtours.errors import ShardError
from wtours.shards.frames import BLOCK
from wtours.shards.identity import set_sha256
from wtours.shards.index import UNREADABLE, ShardIndex
from wtours.shards.layers.arrays import decode_array
from wtours.shards.layers.schema import (
    LAYER_INDEX_FILE,
    LAYER_INDEX_SCHEMA,
    LayerFile,
    layer_folder,
    read_layer_file,
)
from wtours.shards.schema import MAX_MEMBER_BYTES, sample_key
from wtours.storage.hashing import sha256_file
from wtours.text import plain

_NAME_BYTES = 100  # of a member, in its header


class Layer:
    """The values of one layer, by the row of the frame in the index: 12 bytes a frame.

    Attributes:
        directory: Its folder.
        file: Its `layer.json`.
        offset: (N,) int64; where each frame's payload begins in its tar, -1 where it has no value.
        size: (N,) int32; bytes of the payload.
    """

    def __init__(self, index: ShardIndex, directory: Path, file: LayerFile) -> None:
        self.directory, self.file = directory, file
        self._index = index
        self.offset, self.size = self._read_index()
        self._check_tars()

    @classmethod
    def open(cls, index: ShardIndex, name: str) -> "Layer":
        """Open a layer of a shard set on a disk.

        Raises:
            ShardError: there is none, it was made for other frames, or it is damaged.
            UsageError: it is no name of a layer.
        """
        if not isinstance(index.directory, Path):
            raise ShardError(
                f"layers are read from a disk: copy {index.directory} and its folder layers there"
            )
        file = read_layer_file(index.directory, name)
        made_for, here = file.set_sha256, set_sha256(index.dataset.shards)
        if made_for != here or file.frames != len(index):
            raise ShardError(
                f"layer {name!r} was made for other frames (set sha256 {made_for[:12]}…) than "
                f"{index.directory} has ({here[:12]}…); run `wtours layer make {name}` again, "
                f"which makes only what differs"
            )
        return cls(index, layer_folder(index.directory, name), file)

    def read(self, rows: Sequence[int]) -> tuple[NDArray[Any] | None, ...]:
        """Return the value of each row, read-only; None where the layer has none.

        Raises:
            ShardError: a tar is gone, or has something else at the place.
        """
        opened: dict[str, int] = {}
        try:
            return tuple(self._read_one(row, opened) for row in rows)
        finally:
            for descriptor in opened.values():
                os.close(descriptor)

    def _read_one(self, row: int, opened: dict[str, int]) -> NDArray[Any] | None:
        if self.offset[row] < 0:
            return None
        frame, size = self._index.frame(row), int(self.size[row])
        path = self.directory / f"{frame.shard}.tar"
        try:
            if frame.shard not in opened:
                opened[frame.shard] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            block = os.pread(opened[frame.shard], BLOCK + size, int(self.offset[row]) - BLOCK)
            key = sample_key(frame.video_id, frame.frame_index)
            stem, _, suffix = block[:_NAME_BYTES].rstrip(b"\0").decode("latin-1").rpartition(".")
            if len(block) != BLOCK + size or stem != key:
                raise ValueError("another value is in its place")
            return decode_array(block[BLOCK:], suffix)
        except (OSError, ValueError) as error:
            raise ShardError(
                f"{path}: the value of {frame.video_id} at {frame.pts_us} us is damaged "
                f"({plain(error)[:200]}); run `wtours layer verify {self.file.name} --repair`"
            ) from error

    def _read_index(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        path = self.directory / LAYER_INDEX_FILE
        remedy = f"run `wtours layer verify {self.file.name} --repair`"
        try:
            if sha256_file(path) != self.file.index.sha256:
                raise ValueError("it is not the index that layer.json describes")
            if pq.read_metadata(path).num_rows != len(self._index):
                raise ValueError(f"not {len(self._index)} rows")
            table = pq.read_table(path, columns=LAYER_INDEX_SCHEMA.names[1:], use_threads=False)
            columns = {
                name: table[name].combine_chunks().fill_null(-1).to_numpy().astype(np.int64)
                for name in table.column_names
            }
        except UNREADABLE as error:
            raise ShardError(f"{path} cannot be used ({plain(error)[:200]}); {remedy}") from error
        for name, known in (
            ("frame_index", self._index.frame_index),
            ("pts_us", self._index.pts_us),
        ):
            wrong = np.flatnonzero(columns[name] != known)
            if len(wrong):
                frame = self._index.frame(int(wrong[0]))
                raise ShardError(
                    f"{path}: a row has {name} {columns[name][wrong[0]]} where the frames have "
                    f"{frame.video_id} at {frame.pts_us} us; {remedy}"
                )
        offset, size = columns["offset"], columns["size"]
        sound = (offset == -1) & (size == -1)
        sound |= (offset >= BLOCK) & (size > 0) & (size <= MAX_MEMBER_BYTES)
        if not sound.all() or int((offset >= 0).sum()) != self.file.values:
            raise ShardError(
                f"{path} has impossible rows, or not the number that is said; {remedy}"
            )
        return offset, size.astype(np.int32)

    def _check_tars(self) -> None:
        known = {shard.shard for shard in self._index.dataset.shards}
        for shard in self.file.shards:
            path = self.directory / f"{shard.shard}.tar"
            size = path.stat().st_size if shard.shard in known and path.is_file() else None
            if size != shard.bytes:
                found = "is missing" if size is None else f"has {size} bytes"
                raise ShardError(
                    f"{self.directory.name}/{plain(shard.shard)[:80]}.tar {found} instead of "
                    f"{shard.bytes}; run `wtours layer verify {self.file.name} --repair`"
                )
