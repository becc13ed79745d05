"""What it costs to lock a set, and to draw intervals.

python -m benchmarks.shards.sharing    prints the measured values
"""

import tempfile
import time
from pathlib import Path

from benchmarks.shards.index import write_made_up_set
from benchmarks.shards.layers import clip_milliseconds
from tests.support.shard_set import write_shard_set
from wtours.lockfile.lock import lock_shards
from wtours.shards import ClipDataset, IntervalRange, ShardIndex
from wtours.workspace.layout import Layout

_CLIPS = 4000


def measure(folder: Path) -> dict[str, float]:
    """Return seconds by name."""
    made_up = folder / "made-up"
    write_made_up_set(made_up, num_videos=28, frames_per_video=30 * 3600)  # 3 million frames
    begun = time.perf_counter()
    lock_shards(Layout(folder), made_up, folder / "x.lock")
    values = {"lock of 3 million frames, s": time.perf_counter() - begun}
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
    return values | decoded_pairs(folder)


def decoded_pairs(folder: Path) -> dict[str, float]:
    """Return CPU-milliseconds of a decoded pair, at one interval and drawn from a range."""
    index = ShardIndex.open(write_shard_set(folder / "set", num_frames=60, size=(512, 912)))
    pairs = {
        f"pairs, {name}: decoded, CPU-ms": ClipDataset(
            index, clip_length=2, frame_interval_seconds=interval
        )
        for name, interval in (("fixed", 2.0), ("range", IntervalRange(min=1.0, max=3.0)))
    }
    return clip_milliseconds(pairs)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="wtours-bench-") as name:
        for what, value in measure(Path(name)).items():
            print(f"{what}: {value:.3g}")
