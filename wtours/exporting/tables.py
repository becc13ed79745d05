"""Layouts of rows: Parquet of Hugging Face datasets, and a Lance table."""

import importlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from wtours import __version__
from wtours.errors import MissingPackageError
from wtours.exporting.card import dataset_card
from wtours.exporting.parquet import LENGTH, ParquetWriter, Values, number_values, text_values
from wtours.exporting.units import Exporter, Unit
from wtours.shards import ShardIndex
from wtours.shards.schema import CARD_FILE, sample_key
from wtours.storage.atomic import atomic_path, remove, write_bytes

_GROUP_ROWS = 64
_MAX_GROUP_BYTES = 2**31 - 2**20
"""Of the images of a row group: the bytes of a page, and the offsets of an array, are int32."""
_FEATURES = {
    "image": {"_type": "Image"},
    "video_id": {"dtype": "string", "_type": "Value"},
    "frame_index": {"dtype": "int64", "_type": "Value"},
    "pts_us": {"dtype": "int64", "_type": "Value"},
    "shot": {"dtype": "int32", "_type": "Value"},
}
_COLUMNS = [
    pa.field("video_id", pa.string()),
    pa.field("frame_index", pa.int64()),
    pa.field("pts_us", pa.int64()),
    pa.field("shot", pa.int32()),
]
_IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
HF_SCHEMA = pa.schema(
    [pa.field("image", _IMAGE), *_COLUMNS],
    metadata={"huggingface": json.dumps({"info": {"features": _FEATURES}})},
)
LANCE_SCHEMA = pa.schema([pa.field("image", pa.binary()), *_COLUMNS])


@dataclass(frozen=True)
class HuggingFaceExporter(Exporter):
    """`data/train-*.parquet` and README.md, as `datasets.load_dataset` reads a folder or the Hub.

    A Parquet file a shard; `image` holds the JPEG of the shard, byte for byte.
    """

    suffix = "hf"
    units_at_once = 2

    def is_done(self, index: ShardIndex, unit: Unit, out: Path) -> bool:
        """Return whether the file is there: it is published whole."""
        return self._path(index, unit, out).is_file()

    def write(self, index: ShardIndex, unit: Unit, out: Path) -> None:
        """Publish a file."""
        with atomic_path(self._path(index, unit, out)) as temp, temp.open("wb") as file:
            writer = ParquetWriter(file, HF_SCHEMA, created_by=f"wtours version {__version__}")
            for rows in _row_groups(index, unit):
                writer.write_group(_columns(index, unit.video_id, rows))
            writer.close()

    def finish(self, index: ShardIndex, units: Sequence[Unit], out: Path) -> None:
        """Publish the card."""
        card = dataset_card(index.dataset, data_files="data/train-*.parquet")
        write_bytes(out / CARD_FILE, card.encode())

    def _path(self, index: ShardIndex, unit: Unit, out: Path) -> Path:
        count = len(index.dataset.shards)
        return out / "data" / f"train-{unit.number:05d}-of-{count:05d}.parquet"


@dataclass(frozen=True)
class LanceExporter(Exporter):
    """`frames.lance`, a table with the JPEG of each frame as binary; needs pylance.

    Each shard is one append, which Lance publishes as a version: after a kill the number of rows
    says which are in it.
    """

    suffix = "lance"

    def units(self, index: ShardIndex) -> list[Unit]:
        """Return a unit for each tar.

        Raises:
            MissingPackageError: pylance is not installed.
        """
        _lance()
        return super().units(index)

    def is_done(self, index: ShardIndex, unit: Unit, out: Path) -> bool:
        """Return whether the table has the rows of the unit."""
        path = out / "frames.lance"
        if not any(path.glob("_versions/*.manifest")):
            return False  # killed in the first append: data of no version
        rows: int = _lance().dataset(str(path)).count_rows()
        return rows >= unit.rows.stop

    def write(self, index: ShardIndex, unit: Unit, out: Path) -> None:
        """Append a unit's rows."""
        if not unit.number:
            remove(out / "frames.lance")
        _lance().write_dataset(
            pa.RecordBatchReader.from_batches(LANCE_SCHEMA, _record_batches(index, unit)),
            str(out / "frames.lance"),
            mode="append" if unit.number else "create",
        )

    def finish(self, index: ShardIndex, units: Sequence[Unit], out: Path) -> None:
        """Publish the card."""
        write_bytes(out / CARD_FILE, dataset_card(index.dataset).encode())


def _columns(index: ShardIndex, video_id: str, rows: range) -> list[Values]:
    """Return the leaves of `HF_SCHEMA`; the images are read when they are written."""
    at, suffix = slice(rows.start, rows.stop), index.dataset.params.suffix
    frame_indices: list[int] = index.frame_index[at].tolist()
    names = [f"{sample_key(video_id, frame_index)}{suffix}" for frame_index in frame_indices]
    num_bytes = LENGTH.size * len(rows) + int(index.size[at].sum(dtype=np.int64))
    return [
        Values([True] * len(rows), num_bytes, _images(index, rows)),
        text_values(names, has_bounds=False),
        text_values([video_id] * len(rows)),
        number_values(frame_indices, pa.int64()),
        number_values(index.pts_us[at].tolist(), pa.int64()),
        number_values(_shots(index, rows), pa.int32()),
    ]


def _images(index: ShardIndex, rows: range) -> Iterator[memoryview]:
    """Yield images with their lengths before them, several at once."""
    for refs, images in index.iter_stretches(rows, gap=LENGTH.size):
        at = 0
        for ref in refs:
            LENGTH.pack_into(images, at, ref.size)
            at += LENGTH.size + ref.size
        yield images


def _lance() -> Any:
    if find_spec("lance") is None:
        raise MissingPackageError("pylance", "export", "exporting to Lance")
    return importlib.import_module("lance")


def _record_batches(index: ShardIndex, unit: Unit) -> Iterator[pa.RecordBatch]:
    """Yield the frames of a unit for Lance, the images in the memory that they are read into."""
    for rows in _row_groups(index, unit):
        refs, data = index.read_joined(rows)
        offsets = np.zeros(len(rows) + 1, np.int32)
        np.cumsum(index.size[rows.start : rows.stop], out=offsets[1:])
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
        columns = [
            pa.Array.from_buffers(pa.binary(), len(rows), buffers),
            pa.array([ref.video_id for ref in refs]),
            pa.array([ref.frame_index for ref in refs], pa.int64()),
            pa.array([ref.pts_us for ref in refs], pa.int64()),
            pa.array(_shots(index, rows), pa.int32()),
        ]
        yield pa.RecordBatch.from_arrays(columns, schema=LANCE_SCHEMA)


def _row_groups(index: ShardIndex, unit: Unit) -> Iterator[range]:
    """Yield the rows of a unit that go together, so few that a viewer can show them."""
    largest = int(index.size[unit.rows.start : unit.rows.stop].max(initial=1))
    num_rows = min(_GROUP_ROWS, _MAX_GROUP_BYTES // (largest + LENGTH.size))
    for first in range(unit.rows.start, unit.rows.stop, num_rows):
        yield range(first, min(first + num_rows, unit.rows.stop))


def _shots(index: ShardIndex, rows: range) -> list[int | None]:
    shots = index.shot[rows.start : rows.stop].tolist()
    return [None if shot < 0 else shot for shot in shots]
