"""The metrics of each step of a run: `metrics.jsonl`, and what shows them (`loggers`).

A line holds what the computation gave, equal for a run that was interrupted and one that was not,
and under "time" what the clock gave, which is not.
"""

import json
import logging
import math
import os
import resource
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image

from training.engine.loggers import BackgroundLogger
from wtours.storage.atomic import write_bytes
from wtours.storage.os_errors import explain_os_errors

LOG = logging.getLogger(__name__)
T = TypeVar("T")
METRICS_FILE = "metrics.jsonl"
_RECENT_STEPS = 20


class MetricsLog:
    """The metrics of a run, one line for each step done; a context manager.

    Args:
        steps_done: Lines after this step, of steps that a crash has undone, are removed.
        loggers: Are given the same, and images; closed with the log.
    """

    def __init__(
        self, run_dir: Path, *, steps_done: int, loggers: Sequence[BackgroundLogger] = ()
    ) -> None:
        self._path = run_dir / METRICS_FILE
        kept = [line for line in read_metrics(self._path) if line["step"] <= steps_done]
        write_bytes(self._path, b"".join(_json_line(line) for line in kept))
        self._file = self._path.open("ab")
        self._resumed_from = steps_done or None
        self._loggers = loggers

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        for logger in self._loggers:
            logger.close()

    def write(
        self, step: int, values: Mapping[str, float | Image.Image], *, time: dict[str, float]
    ) -> None:
        """Append the line of one step; `step` counts the steps done, from 1.

        Images go to the loggers alone.
        """
        with explain_os_errors(self._path):
            # A float16 gradient may overflow, and the scaler then leaves out the step.
            numbers = {k: x for k, x in values.items() if not isinstance(x, Image.Image)}
            known = {name: x if math.isfinite(x) else None for name, x in numbers.items()}
            # Beside the clock's numbers, which an interrupted run does not have in common either.
            marks = {} if self._resumed_from is None else {"resumed_from": self._resumed_from}
            self._resumed_from = None
            self._file.write(_json_line({"step": step, **known, "time": time | marks}))
            self._file.flush()
        for logger in self._loggers:
            logger.write(step, {**values, **time})

    def sync(self) -> None:
        """Flush to the disk; call it before a checkpoint, so that its steps have their lines."""
        os.fsync(self._file.fileno())
        for logger in self._loggers:
            logger.flush()


@dataclass(frozen=True)
class StepStatus:
    """The progress of a run after a step."""

    run: str
    step: int
    steps: int
    """Steps done, and of the whole run."""
    loss: float
    clips_per_second: float
    """Of all ranks, as the next three over the last steps."""
    data_wait_fraction: float
    seconds_left: float
    memory_bytes: int
    """Most that rank 0 has had: of the GPU, or in all on a CPU."""
    mfu: float | None = None
    """Model FLOP/s as a share of what a device could do; None: that is not known."""

    def describe(self) -> str:
        """Return one line without the run's name and the steps."""
        mfu = "" if self.mfu is None else f" · MFU {self.mfu:.0%}"
        return (
            f"loss {self.loss:.3f} · {self.clips_per_second:.3g} clips/s · "
            f"{self.data_wait_fraction:.0%} waiting · {self.memory_bytes / 1e9:.1f} GB{mfu}"
        )


class ThroughputMeter:
    """Where the time of each step goes: waiting for data, or computing.

    Args:
        clips_per_step: Of all ranks.
        peak_tflops: TFLOP/s that a device could do; None: not known.
    """

    def __init__(
        self,
        clips_per_step: int,
        device: torch.device,
        *,
        peak_tflops: float | None,
    ) -> None:
        self._clips = clips_per_step
        self._device = device
        self._peak = peak_tflops
        self._waited = 0.0
        self._last_lap = time.perf_counter()
        self._recent: deque[tuple[float, float, float]] = deque(maxlen=_RECENT_STEPS)

    def waiting(self, batches: Iterator[T]) -> Iterator[T]:
        """Yield the batches, measuring the wait for each."""
        self._last_lap = time.perf_counter()
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                return
            self._waited = time.perf_counter() - asked
            yield batch

    def lap(self, tflop: float) -> dict[str, float]:
        """Return seconds, clips a second and share of waiting since the last lap, for the log.

        Args:
            tflop: Of the step in one process, as counted by `training.flops`.
        """
        now = time.perf_counter()
        seconds, self._last_lap = now - self._last_lap, now
        self._recent.append((seconds, self._waited, tflop))
        return {
            "seconds": seconds,
            "clips_per_second": self._clips / seconds,
            "data_wait_fraction": self._waited / seconds,
            "peak_memory_bytes": peak_memory_bytes(self._device),
            "tflop_per_second": tflop / seconds,
            **({} if self._peak is None else {"mfu": tflop / seconds / self._peak}),
        }

    def status(self, run: str, step: int, steps: int, loss: float) -> StepStatus:
        """Return the progress after the last lap."""
        seconds, waited, tflop = (sum(part) for part in zip(*self._recent, strict=True))
        return StepStatus(
            run=run,
            step=step,
            steps=steps,
            loss=loss,
            clips_per_second=self._clips * len(self._recent) / seconds,
            data_wait_fraction=waited / seconds,
            seconds_left=(steps - step) * seconds / len(self._recent),
            memory_bytes=peak_memory_bytes(self._device),
            mfu=None if self._peak is None else tflop / seconds / self._peak,
        )


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most memory that this process has had: tensors on a GPU, or all on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics file, without a last one that was cut off; [] if absent.

    A line that is damaged is left out, with a warning: the run itself is in its checkpoints.
    """
    if not path.exists():
        return []
    kept = []
    with explain_os_errors(path):
        lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last newline is not whole
    for number, text in enumerate(lines, start=1):
        try:
            line = json.loads(text)
            if type(line["step"]) is not int:
                raise ValueError("the step is no number")
            _json_line(line)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            LOG.warning("%s: line %d is left out (%s)", path, number, str(error)[:200])
        else:
            kept.append(line)
    return kept


def _json_line(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, allow_nan=False) + "\n").encode()
