"""What it costs to write a shard set in another layout, beside a bare copy of the files written.

    python -m benchmarks.shards.exports    prints the measured values

An export and a copy are taken in pairs, each of them first in every other pair and begun when
nothing is left to be flushed; values are medians over the pairs. Importing is not in them.
"""

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.shard_set import write_shard_set
from wtours.exporting.export import export_shards
from wtours.exporting.images import ImageFolderExporter
from wtours.exporting.mds import MdsExporter
from wtours.exporting.tables import HuggingFaceExporter
from wtours.exporting.units import Exporter
from wtours.shards import ShardIndex
from wtours.storage.atomic import fsync_tree

_TARS, _FRAMES_PER_TAR = 8, 450
"""66 MB each, 530 MB in all; a tar of a set at 30 frames a second has 138 MB."""
_ROUNDS = 5
_ROWS_PER_GROUP = 64


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run took; the processor time is that of all its threads."""

    seconds: float
    cpu_seconds: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """An export beside the copy of its files."""

    rate: float
    """The copy's seconds in those of the export."""
    cpu: float
    """The export's CPU-seconds in those of the copy."""
    export: Cost
    copy: Cost


def measure(folder: Path) -> tuple[dict[str, Comparison], float]:
    """Return the comparison of each layout, and what pyarrow's writer alone would take."""
    shards = write_shard_set(
        folder / "set",
        num_frames=_FRAMES_PER_TAR,
        size=(512, 912),
        videos=tuple(f"video{number}" for number in range(_TARS)),
        interval_us=1_000_000 // 30,
    )
    index = ShardIndex.open(shards)
    layouts: tuple[Exporter, ...] = (ImageFolderExporter(), HuggingFaceExporter(), MdsExporter())
    compared = {exporter.suffix: _compare(index, exporter, folder) for exporter in layouts}
    return compared, _pyarrow_alone(index, folder)


def _compare(index: ShardIndex, exporter: Exporter, folder: Path) -> Comparison:
    """Compare an export with a copy.

    Both end on the disk: an export flushes what it publishes whole, so the copy is flushed too.
    """
    is_flushed = not isinstance(exporter, ImageFolderExporter)
    exported = export_shards(index, exporter, folder / "exported").out

    def export(out: Path) -> None:
        export_shards(index, exporter, out)

    def copy(out: Path) -> None:
        shutil.copytree(exported, out)
        if is_flushed:
            fsync_tree(out)

    pairs: list[tuple[Cost, Cost]] = []
    for number in range(_ROUNDS):
        ways = (export, copy) if number % 2 else (copy, export)
        costs = {way: _cost(way, folder / "out") for way in ways}
        pairs.append((costs[export], costs[copy]))
    shutil.rmtree(exported)
    return Comparison(
        rate=statistics.median(copied.seconds / made.seconds for made, copied in pairs),
        cpu=statistics.median(made.cpu_seconds / copied.cpu_seconds for made, copied in pairs),
        export=_median([made for made, _ in pairs]),
        copy=_median([copied for _, copied in pairs]),
    )


def _cost(way: Callable[[Path], None], out: Path) -> Cost:
    os.sync()
    begun, cpu_begun = time.perf_counter(), time.process_time()
    way(out)
    cost = Cost(time.perf_counter() - begun, time.process_time() - cpu_begun)
    shutil.rmtree(out)
    return cost


def _median(costs: list[Cost]) -> Cost:
    return Cost(
        statistics.median(cost.seconds for cost in costs),
        statistics.median(cost.cpu_seconds for cost in costs),
    )


def _pyarrow_alone(index: ShardIndex, folder: Path) -> float:
    """Return the CPU-seconds of pyarrow's Parquet writer, in those of copying what it has written.

    For the images of a tar that lie in memory, in the cheapest way that it has: a column without
    nulls, dictionary, statistics, checksums or compression, in memory that is not given back.
    """
    rows = range(_FRAMES_PER_TAR)
    _, images = index.read_joined(rows)
    ends = np.cumsum([0, *index.size[rows.start : rows.stop].tolist()], dtype=np.int32)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(images)]
    schema = pa.schema([pa.field("image", pa.binary(), nullable=False)])
    column = pa.Array.from_buffers(pa.binary(), len(rows), buffers)
    written, copied = folder / "written.parquet", folder / "copied.parquet"

    def write() -> None:
        with pq.ParquetWriter(
            written,
            schema,
            compression="none",
            use_dictionary=False,
            write_statistics=False,
            store_schema=False,
            memory_pool=pa.system_memory_pool(),
        ) as writer:
            for first in range(0, len(rows), _ROWS_PER_GROUP):
                group = column.slice(first, _ROWS_PER_GROUP)
                writer.write_batch(pa.RecordBatch.from_arrays([group], schema=schema))

    def copy() -> None:
        shutil.copyfile(written, copied)

    spent: dict[Callable[[], None], list[float]] = {write: [], copy: []}
    for _ in range(2 * _ROUNDS):
        for step, seconds in spent.items():
            begun = time.process_time()
            step()
            seconds.append(time.process_time() - begun)
        written.unlink()
        copied.unlink()
    return min(spent[write]) / min(spent[copy])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="wtours-bench-") as name:
        compared, pyarrow_alone = measure(Path(name))
    for layout, found in compared.items():
        print(
            f"{layout}: {found.rate:.2f} of a copy's rate ({found.export.seconds:.2f} and "
            f"{found.copy.seconds:.2f} s), {found.cpu:.2f} x its CPU-seconds "
            f"({found.export.cpu_seconds:.2f} and {found.copy.cpu_seconds:.2f})"
        )
    print(f"pyarrow's Parquet writer alone: {pyarrow_alone:.2f} x the CPU-seconds of a copy")
