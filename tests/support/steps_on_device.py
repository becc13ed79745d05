"""Three steps of training: on any device, and, written as JSON, on `python_device`."""

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate

from tests.support import python_device
from tests.support.shard_set import TINY
from training.config.methods import REQUIRED
from training.config.presets import resolve_config
from training.config.train import TrainConfig
from training.data.clips import Batch
from training.data.multi_crop import draw_views
from training.distributed.world import World
from training.engine.precision import for_device, numerics
from training.engine.setup import build_state
from training.engine.step import apply_gradients, compute_gradients
from training.rng import numpy_generator
from training.schedules import Progress
from training.transfer import send


def make_batch(config: TrainConfig, step: int) -> Batch:
    """Return a step's clips of noise, with the draws that a run makes."""
    data, size = config.data, config.optim.global_batch_size
    shape = (data.clip_length, 3, data.frame_crop_pixels, data.frame_crop_pixels)
    clips = [
        Batch(
            torch.from_numpy(np.random.default_rng(p).integers(0, 256, shape, dtype=np.uint8)),
            draw_views(numpy_generator(config.seed, "views", p), data, config.augment),
            torch.tensor(p),
        )
        for p in range(step * size, (step + 1) * size)
    ]
    return default_collate(clips)  # type: ignore[no-any-return]


def three_steps(config: TrainConfig, device: str) -> Iterator[dict[str, float]]:
    """Train three steps on a device, and yield the metrics of each."""
    world = World(0, 1, 0, torch.device(device))
    config = for_device(config, world.device)
    with numerics(config.optim, world.device):
        state = build_state(config, world)
        for step in range(3):
            now, batch = Progress(step, 12, 3), make_batch(config, step)
            gradients = compute_gradients(
                state, state.method, batch, now, config=config, world=world
            )
            reading = gradients.read([False, False])
            assert reading.is_finite
            apply_gradients(state, now)
            yield reading.metrics


def small_config(preset: str, *overrides: str) -> TrainConfig:
    """Return a preset with a network of 48 channels on 32-pixel crops."""
    fixed = REQUIRED[resolve_config(preset, None, []).method]
    small = [pair for pair in TINY if pair.partition("=")[0] not in fixed]
    return resolve_config(preset, None, [*small, *overrides])


def watched_steps(config: TrainConfig, count: int) -> dict[str, Any]:
    """Return the metrics of so many steps on the device, and where the host waited in each."""
    found: dict[str, list[Any]] = {"metrics": [], "waits": []}
    with python_device.Device() as watch:
        for metrics in islice(three_steps(config, python_device.NAME), count):
            found["metrics"].append(metrics)
            found["waits"].append(dict(watch.waits))
            watch.waits.clear()
    return found


def faults() -> dict[str, Any]:
    """Return the waits that the device counts for what must be counted."""
    counts: dict[str, Any] = {}
    with python_device.Device() as watch:
        there = torch.arange(4.0).to(python_device.NAME, non_blocking=True)

        def waits_of(work: Any) -> int:
            watch.waits.clear()
            work()
            return sum(watch.waits.values())

        counts["item"] = waits_of(lambda: bool(there.sum() > 1))
        counts["mask"] = waits_of(lambda: there[there > 1])
        counts["nonzero"] = waits_of(lambda: there.nonzero())
        counts["to the device"] = waits_of(lambda: torch.arange(4).to(python_device.NAME))
        counts["sent"] = waits_of(lambda: send([torch.arange(4)], there.device))
        try:
            there + torch.arange(4.0)
        except RuntimeError:
            counts["mixed"] = "refused"
    return counts


def write_steps(cases: Mapping[str, Sequence[str]], path: Path) -> None:
    """Write what the cases, {name: [preset, override, ...]}, give; keeps the device for good."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    python_device.register()
    results: dict[str, Any] = {"faults": faults()}
    for name, (preset, *overrides) in cases.items():
        config = small_config(preset, *overrides)
        count = 3 if config.method == "swav" else 2  # its queue is not full before
        on_cpu = list(islice(three_steps(config, "cpu"), count))
        results[name] = {"cpu": on_cpu, "device": watched_steps(config, count)}
    path.write_text(json.dumps(results))
