"""What a run does with its time and memory: traces of some steps, and what a device could do."""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from wtours.storage.atomic import atomic_path, sweep_idle

LOG = logging.getLogger(__name__)
PROFILE_DIR = "profile"
_ALLOCATIONS = 100_000
"""Newest allocations of a memory snapshot, with the lines that made them."""
_PEAK_TFLOPS = {
    "B200": 2250.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
    "A10": 125.0,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
}
"""Dense bfloat16 with float32 sums, by words of the GPU's name; figures of NVIDIA's data sheets as
remembered, none measured here: `watch.peak_tflops` overrides them."""


def peak_tflops(device: torch.device) -> float | None:
    """Return the dense bfloat16 TFLOP/s of a common GPU; None: not known, or a CPU."""
    if device.type != "cuda":
        return None
    return peak_of(torch.cuda.get_device_name(device))


def peak_of(name: str) -> float | None:
    """Return the peak of a GPU by its name; only whole words count: an L40 is no L4."""
    words = ((rf"\b{part}\b", peak) for part, peak in _PEAK_TFLOPS.items())
    return next((peak for pattern, peak in words if re.search(pattern, name)), None)


@contextmanager
def profiled_steps(
    run_dir: Path, steps: tuple[int, int] | None, device: torch.device, *, steps_done: int
) -> Iterator[Callable[[], None]]:
    """Yield what is called after each step; traces of the wanted ones go into <run>/profile.

    The first step after a start, which compiles and allocates, is never traced.

    `steps-FIRST-LAST.json` opens in chrome://tracing or perfetto.dev, `steps-FIRST-LAST.pickle` in
    pytorch.org/memory_viz. Of a run that ends within them there is what was traced.

    Args:
        steps: First and last step, from 1; None: none is traced, as those that are done already.
        steps_done: By an earlier start of the run.
    """
    if steps is None or steps[1] <= steps_done + 1:
        yield lambda: None
        return
    first = max(steps[0], steps_done + 2)
    target = run_dir / PROFILE_DIR / f"steps-{first}-{steps[1]}.json"
    sweep_idle(target.parent)
    on_cuda = device.type == "cuda"

    def publish(found: profile) -> None:
        with atomic_path(target) as temp:
            found.export_chrome_trace(str(temp))
        if on_cuda:
            with atomic_path(target.with_suffix(".pickle")) as temp:
                torch.cuda.memory._dump_snapshot(str(temp))  # type: ignore[no-untyped-call]
            torch.cuda.memory._record_memory_history(enabled=None)
        LOG.info("profile of steps %d to %d: %s", first, steps[1], target)

    if on_cuda:
        torch.cuda.memory._record_memory_history(max_entries=_ALLOCATIONS)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]
    plan = schedule(wait=first - 2 - steps_done, warmup=1, active=steps[1] - first + 1, repeat=1)
    with profile(
        activities=activities, schedule=plan, on_trace_ready=publish,
        record_shapes=True, profile_memory=True, with_stack=True,
    ) as profiler:  # fmt: skip
        yield profiler.step
