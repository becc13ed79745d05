"""One way to do a training step of the paper's configuration, timed in a process of its own.

`python -m benchmarks.train.step plain|PRESET float32|bfloat16 --clips B --steps N --set KEY=VALUE`
prints a JSON line. A preset is run by the trainer; "plain" is `official` written plainly: ViT-S/16,
T = 8, 3 objects, 6 local crops, 65,536 prototypes. Random views, so that only the step is measured:
forward, backward, clipping, AdamW, the teacher.
"""

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tests.support.plain_dora import plain_step
from training.config.presets import PRESETS, resolve_config
from training.config.train import TrainConfig
from training.distributed.world import World
from training.engine.optim import clip_gradients, set_lr_and_weight_decay
from training.engine.setup import build_state
from training.engine.state import TrainState
from training.methods.base import Views
from training.schedules import Progress

LR, WEIGHT_DECAY, TEACHER_MOMENTUM, TEACHER_TEMP = 1e-5, 0.04, 0.996, 0.04
NOW = Progress(step=0, steps=1, steps_per_epoch=1.0)
ALONE = World(0, 1, 0, torch.device("cpu"))


@dataclass(frozen=True)
class StepCost:
    """What a step takes."""

    seconds: float
    """The fastest of the steps after the first."""
    peak_gib: float
    """Largest resident memory, less what the process had once its libraries were imported."""
    tflop: float
    """Floating-point operations of the matrix products, 1e12."""
    loss: float
    """Of the first step."""
    visible_share: float
    """Of the patches of global crops, what the masks leave; 1: there are none."""
    parts: dict[str, tuple[float, float]]
    """By what is done: seconds, and operations of the matrix products, 1e12."""


def measure(
    which: str, precision: str, *overrides: str, threads: int, clips: int = 1, steps: int = 2
) -> StepCost:
    """Return the cost of a step, measured in a new process of so many threads."""
    words = ["-m", "benchmarks.train.step", which, precision, "--clips", clips, "--steps", steps]
    words += [word for pair in overrides for word in ("--set", pair)]
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
    )
    return StepCost(**json.loads(done.stdout.splitlines()[-1]))


Part = Callable[[str], contextlib.AbstractContextManager[None]]
"""Opened around each part of a step, by its name."""


class PartCosts:
    """What the parts of steps take: the fewest seconds of each, and the operations of the first."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.tflop: dict[str, float] = {}

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Time a part."""
        start = time.perf_counter()
        yield
        taken = time.perf_counter() - start
        self.seconds[name] = min(taken, self.seconds.get(name, taken))

    @contextlib.contextmanager
    def counted(self, name: str) -> Iterator[None]:
        """Count a part's operations, which takes time of its own."""
        with FlopCounterMode(display=False) as flops:
            yield
        self.tflop[name] = flops.get_total_flops() / 1e12


def random_views(config: TrainConfig, clips: int) -> Views:
    """Return views of noise, the same each time."""
    data, generator = config.data, torch.Generator().manual_seed(0)

    def noise(count: int, pixels: int) -> Tensor:
        return torch.randn(count, clips, data.clip_length, 3, pixels, pixels, generator=generator)

    return Views(
        noise(data.global_crops, data.global_crop_pixels),
        noise(data.local_crops, data.local_crop_pixels),
        torch.arange(clips),
    )


def plainly(state: TrainState, views: Views) -> Callable[[Part], float]:
    """Return a step of the plain version, with torch's own AdamW."""
    method: Any = state.method
    student, teacher, center = method.student, method.teacher, method.center[None]
    optimizer = torch.optim.AdamW(student.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
    heads = method.draw_heads(NOW).tolist()

    def step(part: Part) -> float:
        nonlocal center
        optimizer.zero_grad()
        with part("teacher, student and loss"):
            done = plain_step(
                student,
                teacher,
                views.global_clips[0],
                views.local_crops,
                center=center,
                heads=heads,
                teacher_temp=TEACHER_TEMP,
            )
        with part("backward"):
            done.loss.backward()  # type: ignore[no-untyped-call]
        for parameter in student.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_((3 / (parameter.grad.norm() + 1e-6)).clamp(max=1))
        optimizer.step()
        with torch.no_grad():
            pairs = zip(teacher.parameters(), student.parameters(), strict=True)
            for theirs, ours in pairs:
                theirs.mul_(TEACHER_MOMENTUM).add_(ours, alpha=1 - TEACHER_MOMENTUM)
        center = done.center
        return done.loss.item()

    return step


def as_we_do(state: TrainState, views: Views, config: TrainConfig) -> Callable[[Part], float]:
    """Return a step of the trainer on ready views."""
    method = state.method
    set_lr_and_weight_decay(state.optimizer, lr=LR, weight_decay=WEIGHT_DECAY)
    half = config.optim.precision == "bfloat16"

    def step(part: Part) -> float:
        state.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            with part("teacher and targets"):
                targets = method.prepare(views, NOW)
            with part("student and loss"):
                output = method(views, targets)
        with part("backward"):
            output.loss.backward()
        with part("clipping, optimizer and teacher's average"):
            clip_gradients(method.student.parameters(), max_norm=3.0, by="parameter")
            state.optimizer.step()
            method.after_step(NOW)
        loss: float = output.loss.item()
        return loss

    return step


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(prog="benchmarks.train.step")
    parser.add_argument("which", choices=("plain", *PRESETS))
    parser.add_argument("precision", choices=("float32", "bfloat16"))
    parser.add_argument("--clips", type=int, default=1)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    before = _peak_gib()
    is_plain = options.which == "plain"
    preset = "official" if is_plain else options.which
    overrides = [f"optim.precision={options.precision}", *options.set]
    config = resolve_config(preset, None, overrides)
    state, views = build_state(config, ALONE), random_views(config, options.clips)
    step = plainly(state, views) if is_plain else as_we_do(state, views, config)
    parts = PartCosts()
    loss = step(parts.counted)
    seconds = float("inf")
    for _ in range(options.steps):
        start = time.perf_counter()
        step(parts.timed)
        seconds = min(seconds, time.perf_counter() - start)
    peak = _peak_gib() - before
    metrics = state.method.prepare(views, NOW).metrics()
    cost = StepCost(
        seconds,
        peak,
        sum(parts.tflop.values()),
        loss,
        float(metrics.get("mask_coverage", 1)),
        {name: (taken, parts.tflop[name]) for name, taken in parts.seconds.items()},
    )
    print(json.dumps(asdict(cost)))


def _peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
