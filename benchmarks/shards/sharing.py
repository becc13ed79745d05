"""What it costs to lock a set, to draw intervals, and to write a set in another layout.

    python -m benchmarks.shards.sharing    prints the measured values

Ratios are of two measurements in one run, so that other work on the machine changes little.
"""

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.shards.index import write_made_up_set
from tests.support.shard_set import write_shard_set
from wtours.exporting.export import export_shards
from wtours.exporting.images import ImageFolderExporter
from wtours.exporting.mds import MdsExporter
from wtours.exporting.tables import HuggingFaceExporter
from wtours.exporting.units import Exporter
from wtours.lockfile.lock import lock_shards
from wtours.shards import ClipDataset, IntervalRange, ShardIndex
from wtours.storage.atomic import fsync_tree
from wtours.workspace.layout import Layout

_CLIPS = 4000
_FRAMES_PER_TAR = 450
"""About 37 MB; a tar of a set at 30 frames a second has 60 s, 138 MB."""


def measure(folder: Path) -> dict[str, float]:
    """Return seconds and ratios by name."""
    made_up = folder / "made-up"
    write_made_up_set(made_up, num_videos=28, frames_per_video=30 * 3600)  # 3 million frames
    values = {
        "lock of 3 million frames, s": _wall(
            lambda: lock_shards(Layout(folder), made_up, folder / "x.lock")
        )
    }
    index = ShardIndex.open(made_up)
    for name, interval in (("fixed", 0.5), ("range", IntervalRange(min=0.25, max=0.5))):
        begun = time.process_time()
        dataset = ClipDataset(index, clip_length=2, frame_interval_seconds=interval)
        values[f"pairs, {name}: opening, CPU-s"] = time.process_time() - begun
        sampler = dataset.sampler(seed=0)
        begun = time.process_time()
        for position in range(_CLIPS):
            dataset.clip_rows(sampler.key_at(position))
        values[f"pairs, {name}: rows of a pair, CPU-us"] = (
            (time.process_time() - begun) / _CLIPS * 1e6
        )
    shutil.rmtree(made_up)
    shards = write_shard_set(
        folder / "set",
        num_frames=_FRAMES_PER_TAR,
        size=(512, 912),
        videos=("one", "two", "three"),
        interval_us=1_000_000 // 30,
    )
    layouts: tuple[Exporter, ...] = (ImageFolderExporter(), HuggingFaceExporter(), MdsExporter())
    for exporter in layouts:
        values[f"export to {exporter.suffix}, share of a copy's rate"] = _against_copy(
            ShardIndex.open(shards), exporter, folder
        )
    return values


def _against_copy(index: ShardIndex, exporter: Exporter, folder: Path) -> float:
    """Return the time of copying an export's files by that of making it, the best of three each.

    Both end on the disk: an export flushes what it publishes whole, so the copy is flushed too.
    """
    is_flushed = not isinstance(exporter, ImageFolderExporter)

    def copied(out: Path, copy: Path) -> None:
        shutil.copytree(out, copy)
        if is_flushed:
            fsync_tree(copy)

    times: dict[str, list[float]] = {"export": [], "copy": []}
    for number in range(3):
        out, copy = folder / f"out{number}", folder / f"copy{number}"
        times["export"].append(_wall(lambda out=out: export_shards(index, exporter, out)))  # type: ignore[misc]
        times["copy"].append(_wall(lambda out=out, copy=copy: copied(out, copy)))  # type: ignore[misc]
        shutil.rmtree(out)
        shutil.rmtree(copy)
    return min(times["copy"]) / min(times["export"])


def _wall(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="wtours-bench-") as name:
        for what, value in measure(Path(name)).items():
            print(f"{what}: {value:.3g}")
