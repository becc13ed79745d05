"""What a layer costs a clip: the rate with optical flow beside the frames, and without.

    python -m benchmarks.shards.layers    prints the measured values

The flow has random values and the size of `wtours layer make --from flow` for frames of 910 x 512.
"""

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tests.support.shard_set import write_shard_set
from wtours.layers.files import ArraySource
from wtours.layers.make import make_layer
from wtours.shards import ClipDataset, ShardIndex

_FRAMES, _CLIPS, _ROUNDS = 60, 50, 5
_CLIP_LENGTH = 8


def measure(folder: Path) -> dict[str, float]:
    """Return CPU-milliseconds of a decoded clip by name."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = write_shard_set(folder / "set", num_frames=_FRAMES, size=(512, 912))
    index = ShardIndex.open(shards)
    values = np.random.default_rng(0).normal(size=(_FRAMES, 2, 256, 456)).astype(np.float16)
    np.save(folder / "flow.npy", values)
    make_layer(index, "flow", ArraySource(index, folder / "flow.npy"), origin="benchmark")
    datasets = {
        "without a layer": ClipDataset(index, clip_length=_CLIP_LENGTH),
        "with optical flow": ClipDataset(index, clip_length=_CLIP_LENGTH, layers=["flow"]),
    }
    return clip_milliseconds(datasets)


def clip_milliseconds(datasets: Mapping[str, ClipDataset]) -> dict[str, float]:
    """Return CPU-milliseconds of a decoded clip of each, the best round, taken in turn."""
    best = dict.fromkeys(datasets, float("inf"))
    for _ in range(_ROUNDS):
        for name, dataset in datasets.items():
            sampler = dataset.sampler(seed=0)
            begun = time.process_time()
            for position in range(_CLIPS):
                clip = dataset[sampler.key_at(position)]
                clip.decode()
                for value in clip.layers.get("flow", ()):
                    np.array(value)  # a copy, as a batch makes
            best[name] = min(best[name], (time.process_time() - begun) / _CLIPS * 1000)
    return best


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="wtours-bench-") as name:
        for what, value in measure(Path(name)).items():
            print(f"{what}: {value:.3g} CPU-ms")
