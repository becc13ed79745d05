"""Layouts of rows: Parquet of Hugging Face datasets, and a Lance table."""

import importlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
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
from wtours.exporting.units import Exporter, Unit, frames_of
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
        with (
            atomic_path(self._path(index, unit, out)) as temp,
            # JPEGs do not get smaller, and their least and greatest say nothing. Few rows a group,
            # so that a viewer can show one.
            pq.ParquetWriter(
                temp,
                HF_SCHEMA,
                compression="none",
                use_dictionary=False,
                write_statistics=[field.name for field in _COLUMNS],
            ) as writer,
        ):
            for batch in _batches(index, unit, HF_SCHEMA):
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
            pa.RecordBatchReader.from_batches(LANCE_SCHEMA, _batches(index, unit, LANCE_SCHEMA)),
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


def _batches(index: ShardIndex, unit: Unit, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    is_struct = pa.types.is_struct(schema.field("image").type)
    frames, suffix = frames_of(index, unit), index.dataset.params.suffix
    sizes = index.size[unit.rows.start : unit.rows.stop]
    num_rows = min(_BATCH_ROWS, _MAX_BATCH_BYTES // int(sizes.max(initial=1)))
    for first in range(0, len(sizes), num_rows):
        some = sizes[first : first + num_rows]
        refs, shots, image = _read(itertools.islice(frames, len(some)), some)
        if is_struct:
            names = [f"{sample_key(ref.video_id, ref.frame_index)}{suffix}" for ref in refs]
            image = pa.StructArray.from_arrays([image, pa.array(names)], fields=list(_IMAGE))
        columns = [
            image,
            pa.array([ref.video_id for ref in refs]),
            pa.array([ref.frame_index for ref in refs], pa.int64()),
            pa.array([ref.pts_us for ref in refs], pa.int64()),
            pa.array(shots, pa.int32()),
        ]
        yield pa.RecordBatch.from_arrays(columns, schema=schema)


def _read(
    frames: Iterable[tuple[FrameRef, int | None, bytes | memoryview]], sizes: NDArray[np.int32]
) -> tuple[list[FrameRef], list[int | None], pa.Array]:
    """Return where frames are, their shots, and their images as an array of binary.

    It is filled here: as pyarrow makes one of a list, it would grow, and be copied, several times.
    """
    offsets = np.zeros(len(sizes) + 1, np.int32)
    np.cumsum(sizes, out=offsets[1:])
    data = np.empty(offsets[-1], np.uint8)
    refs: list[FrameRef] = []
    shots: list[int | None] = []
    for start, (ref, shot, image) in zip(offsets[:-1].tolist(), frames, strict=True):
        data[start : start + len(image)] = np.frombuffer(image, np.uint8)
        refs.append(ref)
        shots.append(shot)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    return refs, shots, pa.Array.from_buffers(pa.binary(), len(sizes), buffers)
