"""A layer in memory: where each frame's value is, and reading values by their place in the tars."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from wtours.errors import ShardError
from wtours.shards.frames import BLOCK, Block
from wtours.shards.index import UNREADABLE, ShardIndex
from wtours.shards.layers.arrays import decode_array
from wtours.shards.layers.places import FolderPlace, UrlPlace
from wtours.shards.layers.schema import (
    LAYER_FILE,
    LAYER_INDEX_FILE,
    LAYER_INDEX_SCHEMA,
    LAYERS_FOLDER,
    LayerFile,
    checked_layer_name,
    layer_folder,
    parse_layer_file,
    read_layer_file,
)
from wtours.shards.range_reads.remote import folder_url, read_at_url, version_at
from wtours.shards.schema import MAX_MEMBER_BYTES, sample_key, set_sha256
from wtours.storage.hashing import sha256_bytes
from wtours.storage.remote_calls import ObjectMissingError, shown
from wtours.text import plain

_NAME_BYTES = 100  # of a member, in its header


class Layer:
    """The values of one layer, by the row of the frame in the index: 12 bytes a frame.

    Attributes:
        place: Its folder, on a disk or beside the frames on an object store.
        file: Its `layer.json`.
        offset: (N,) int64; where each frame's payload begins in its tar, -1 where it has no value.
        size: (N,) int32; bytes of the payload.
    """

    def __init__(self, index: ShardIndex, place: FolderPlace | UrlPlace, file: LayerFile) -> None:
        self.place, self.file = place, file
        self._index = index
        self._remedy = (
            f"run `wtours layer verify {file.name} --repair`"
            if isinstance(place, FolderPlace)
            else "copy the layer there again"
        )
        self.offset, self.size = self._read_index()
        self._check_tars()

    @classmethod
    def open(cls, index: ShardIndex, name: str) -> "Layer":
        """Open a layer of a shard set, where the set is.

        Raises:
            ShardError: there is none, it was made for other frames, or it is damaged.
            UsageError: it is no name of a layer.
        """
        place: FolderPlace | UrlPlace
        if isinstance(index.directory, Path):
            place = FolderPlace(layer_folder(index.directory, name))
            file = read_layer_file(index.directory, name)
        else:
            place, file = _at_url(index, name)
        made_for, here = file.set_sha256, set_sha256(index.dataset.shards)
        if made_for != here or file.frames != len(index):
            raise ShardError(
                f"layer {name!r} was made for other frames (set sha256 {made_for[:12]}…) than "
                f"{index.directory} has ({here[:12]}…); run `wtours layer make {name}` again, "
                f"which makes only what differs"
            )
        layer = cls(index, place, file)
        # Made again meanwhile, the index would be of the tars before: layer.json goes first, and
        # comes last.
        if isinstance(index.directory, Path) and read_layer_file(index.directory, name) != file:
            raise ShardError(f"layer {name!r} was made again while it was opened: open it again")
        return layer

    def read(self, rows: Sequence[int]) -> tuple[NDArray[Any] | None, ...]:
        """Return the value of each row, read-only; None where the layer has none.

        Raises:
            ShardError: a tar is gone, or has something else at the place.
        """
        held = [row for row in rows if self.offset[row] >= 0]
        wanted = [
            Block(frame.shard, number, offset - BLOCK, offset + int(self.size[row]))
            for row, frame, number, offset in zip(
                held,
                self._index.frames(held),
                self._index.numbers(held),
                self.offset[held].tolist(),
                strict=True,
            )
        ]
        try:
            values = iter(self.place.values(wanted, lambda n, data: self._decode(held[n], data)))
        except OSError as error:
            names = [self.place.name_of(f"{block.tar}.tar") for block in wanted]
            of = dict(zip(names, held, strict=True))
            raise self._damaged(of.get(error.filename, held[0]), error) from error
        return tuple(next(values) if self.offset[row] >= 0 else None for row in rows)

    def _decode(self, row: int, block: bytes) -> NDArray[Any]:
        frame = self._index.frame(row)
        key = sample_key(frame.video_id, frame.frame_index)
        stem, _, suffix = block[:_NAME_BYTES].rstrip(b"\0").decode("latin-1").rpartition(".")
        try:
            if len(block) != BLOCK + int(self.size[row]) or stem != key:
                raise ValueError("another value is in its place")
            return decode_array(block[BLOCK:], suffix)
        except ValueError as error:
            raise self._damaged(row, error) from error

    def _damaged(self, row: int, error: Exception) -> ShardError:
        frame = self._index.frame(row)
        return ShardError(
            f"{self.place.name_of(f'{frame.shard}.tar')}: the value of {frame.video_id} at "
            f"{frame.pts_us} us is damaged ({plain(error)[:200]}); {self._remedy}"
        )

    def _read_index(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        path, remedy = self.place.name_of(LAYER_INDEX_FILE), self._remedy
        try:
            text = self.place.read(LAYER_INDEX_FILE, self.file.index.bytes)
            if sha256_bytes(text) != self.file.index.sha256:
                raise ValueError("it is not the index that layer.json describes")
            if pq.read_metadata(pa.BufferReader(text)).num_rows != len(self._index):
                raise ValueError(f"not {len(self._index)} rows")
            table = pq.read_table(
                pa.BufferReader(text), columns=LAYER_INDEX_SCHEMA.names[1:], use_threads=False
            )
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
        sizes = self.place.sizes([f"{shard.shard}.tar" for shard in self.file.shards])
        for shard, found in zip(self.file.shards, sizes or (), strict=sizes is not None):
            size = found if shard.shard in known else None
            if size != shard.bytes:
                problem = "is missing" if size is None else f"has {size} bytes"
                raise ShardError(
                    f"{self.file.name}/{plain(shard.shard)[:80]}.tar {problem} instead of "
                    f"{shard.bytes}; {self._remedy}"
                )


def _at_url(index: ShardIndex, name: str) -> tuple[UrlPlace, LayerFile]:
    """Return where a layer of a set at a URL is, and its layer.json.

    Raises:
        ShardError: there is none, or it is damaged.
        UsageError: it is no name of a layer.
    """
    assert index.remote is not None
    folder = f"{LAYERS_FOLDER}/{checked_layer_name(name)}"
    url = folder_url(str(index.directory), folder)
    version = version_at(folder_url(url, LAYER_FILE), index.remote.policy)
    try:
        text = read_at_url(folder_url(url, LAYER_FILE), index.remote.policy)
    except ShardError as error:
        if isinstance(error.__cause__, ObjectMissingError):
            raise ShardError(
                f"{shown(str(index.directory))} has no finished layer {name!r}; make it on a disk, "
                f"and `wtours copy` the set there again"
            ) from error
        raise
    place = UrlPlace(url, index.remote.of_layer(folder, sha256_bytes(text)[:16]), version)
    return place, parse_layer_file(text, place.name_of(LAYER_FILE), name)
