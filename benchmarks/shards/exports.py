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

import pyarrow as pa

from tests.support.shard_set import write_shard_set
from wtours.exporting.export import export_shards
from wtours.exporting.images import ImageFolderExporter
from wtours.exporting.mds import MdsExporter
from wtours.exporting.tables import (
    HF_SCHEMA,
    HuggingFaceExporter,
    parquet_writer,
    record_batches,
)
from wtours.exporting.units import Exporter
from wtours.shards import ShardIndex
from wtours.storage.atomic import fsync_tree

_TARS, _FRAMES_PER_TAR = 8, 450
"""66 MB each, 530 MB in all; a tar of a set at 30 frames a second has 138 MB."""
_ROUNDS = 5


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


def measure(folder: Path) -> tuple[dict[str, Comparison], dict[str, float]]:
    """Return the comparison of each layout, and the parts of an export to Parquet."""
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
    return compared, _parquet_parts(index, folder)


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


def _parquet_parts(index: ShardIndex, folder: Path) -> dict[str, float]:
    """Return each step of writing a unit as Parquet, in CPU-seconds of copying its file once."""
    exporter = HuggingFaceExporter()
    unit = exporter.units(index)[0]
    batches = list(record_batches(index, unit, HF_SCHEMA))
    out = folder / "parts"

    def read() -> None:
        for _ in record_batches(index, unit, HF_SCHEMA, in_turn=True):
            pass

    def encode() -> None:
        with parquet_writer(pa.MockOutputStream()) as writer:
            for batch in batches:
                writer.write_batch(batch)

    def write() -> None:
        exporter.write(index, unit, out)

    def copy() -> None:
        (path,) = (out / "data").iterdir()
        shutil.copyfile(path, out / "copy")
        fsync_tree(out / "copy")

    best: dict[str, float] = {}
    for _ in range(_ROUNDS):
        for step in (read, encode, write, copy):
            begun = time.process_time()
            step()
            spent = time.process_time() - begun
            best[step.__name__] = min(spent, best.get(step.__name__, spent))
        shutil.rmtree(out)
    parts = {
        "reading the images into Arrow's memory": best["read"],
        "pyarrow's encoding": best["encode"],
        "writing and flushing": best["write"] - best["read"] - best["encode"],
    }
    return {name: seconds / best["copy"] for name, seconds in parts.items()}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="wtours-bench-") as name:
        compared, parts = measure(Path(name))
    for layout, found in compared.items():
        print(
            f"{layout}: {found.rate:.2f} of a copy's rate ({found.export.seconds:.2f} and "
            f"{found.copy.seconds:.2f} s), {found.cpu:.2f} x its CPU-seconds "
            f"({found.export.cpu_seconds:.2f} and {found.copy.cpu_seconds:.2f})"
        )
    for part, share in parts.items():
        print(f"hf, {part}: {share:.2f} x the CPU-seconds of a copy")
