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
import pyarrow.parquet as pq
from numpy.typing import NDArray

from wtours.errors import MissingPackageError
from wtours.exporting.card import dataset_card
from wtours.exporting.units import Exporter, Unit
from wtours.shards import FrameRef, ShardIndex
from wtours.shards.schema import CARD_FILE, sample_key
from wtours.storage.atomic import atomic_path, remove, write_bytes

_BATCH_ROWS = 64
_MAX_BATCH_BYTES = 2**31 - 1
"""Of the images of one array: their offsets are int32."""
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
IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
"""An image as `datasets` keeps it in Parquet."""
_COLUMN_NAMES = tuple(field.name for field in _COLUMNS)
HF_SCHEMA = pa.schema(
    [pa.field("image", IMAGE), *_COLUMNS],
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
        with atomic_path(self._path(index, unit, out)) as temp, parquet_writer(temp) as writer:
            for batch in record_batches(index, unit, HF_SCHEMA, in_turn=True):
                writer.write_batch(batch)

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
            pa.RecordBatchReader.from_batches(
                LANCE_SCHEMA, record_batches(index, unit, LANCE_SCHEMA)
            ),
            str(out / "frames.lance"),
            mode="append" if unit.number else "create",
        )

    def finish(self, index: ShardIndex, units: Sequence[Unit], out: Path) -> None:
        """Publish the card."""
        write_bytes(out / CARD_FILE, dataset_card(index.dataset).encode())


def _lance() -> Any:
    if find_spec("lance") is None:
        raise MissingPackageError("pylance", "export", "exporting to Lance")
    return importlib.import_module("lance")


def record_batches(
    index: ShardIndex, unit: Unit, schema: pa.Schema, *, in_turn: bool = False
) -> Iterator[pa.RecordBatch]:
    """Yield the frames of a unit, a row group at a time, the images as they are read.

    Args:
        index: The shard set.
        unit: Of it.
        schema: With the image as binary, or as a struct with its name.
        in_turn: Each batch holds until the next is asked for: in new memory each time, reading
            takes half as long again.
    """
    is_struct = pa.types.is_struct(schema.field("image").type)
    largest = int(index.size[unit.rows.start : unit.rows.stop].max(initial=1))
    num_rows = min(_BATCH_ROWS, _MAX_BATCH_BYTES // largest)
    memory = np.empty(num_rows * largest, np.uint8) if in_turn else None
    for first in range(unit.rows.start, unit.rows.stop, num_rows):
        rows = range(first, min(first + num_rows, unit.rows.stop))
        refs, image = images_of(index, rows, memory)
        image = image if is_struct else image.field("bytes")
        shots = index.shot[rows.start : rows.stop].tolist()
        columns = [
            image,
            pa.array([ref.video_id for ref in refs]),
            pa.array([ref.frame_index for ref in refs], pa.int64()),
            pa.array([ref.pts_us for ref in refs], pa.int64()),
            pa.array([None if shot < 0 else shot for shot in shots], pa.int32()),
        ]
        yield pa.RecordBatch.from_arrays(columns, schema=schema)


def images_of(
    index: ShardIndex, rows: range, memory: NDArray[np.uint8] | None = None
) -> tuple[list[FrameRef], pa.StructArray]:
    """Return where some frames are, and their images as `IMAGE`; see `ShardIndex.read_joined`."""
    refs, data = index.read_joined(rows, memory)
    offsets = np.zeros(len(rows) + 1, np.int32)
    np.cumsum(index.size[rows.start : rows.stop], out=offsets[1:])
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    images = pa.Array.from_buffers(pa.binary(), len(rows), buffers)
    suffix = index.dataset.params.suffix
    names = [f"{sample_key(ref.video_id, ref.frame_index)}{suffix}" for ref in refs]
    return refs, pa.StructArray.from_arrays([images, pa.array(names)], fields=list(IMAGE))


def parquet_writer(
    sink: Any, schema: pa.Schema = HF_SCHEMA, statistics: Sequence[str] = _COLUMN_NAMES
) -> pq.ParquetWriter:
    """Return what writes record batches to a path or a file, each as a row group.

    JPEGs do not get smaller, and their least and greatest say nothing. Few rows a group, so that a
    viewer can show one.
    """
    return pq.ParquetWriter(
        sink,
        schema,
        compression="none",
        use_dictionary=False,
        write_statistics=list(statistics),
    )
