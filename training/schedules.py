"""What changes from step to step: functions of the step alone, so a resume needs nothing else."""

import math
from dataclasses import dataclass, replace

from wtours.text import counted


@dataclass(frozen=True)
class Progress:
    """Where in a run a step is."""

    step: int
    """Steps done before it."""
    steps: int
    """Steps of the whole run."""
    steps_per_epoch: float
    """Steps of an epoch, the unit of many settings; need not be whole."""

    @property
    def epoch(self) -> float:
        """Return the epochs done before the step."""
        return self.step / self.steps_per_epoch

    @property
    def last(self) -> "Progress":
        """Return the progress at the last step of the run."""
        return self.at(self.steps - 1)

    @property
    def length(self) -> str:
        """Return how long the run is, for a message."""
        epochs = self.steps / self.steps_per_epoch
        return f"{counted(self.steps, 'step')} ({epochs:g} {'epoch' if epochs == 1 else 'epochs'})"

    def at(self, step: int) -> "Progress":
        """Return the progress at another step of the run, counted from 0."""
        return replace(self, step=step)

    def cosine(self, *, start: float, end: float) -> float:
        """Return a value that follows half a cosine over the whole run."""
        return cosine(self.step, start=start, end=end, steps=self.steps)

    def linear_by_epoch(self, *, start: float, end: float, epochs: float) -> float:
        """Return a value that changes at the start of each of the first epochs, then stays."""
        return linear(math.floor(self.epoch), start=start, end=end, steps=epochs)


def cosine(step: int, *, start: float, end: float, steps: int) -> float:
    """Return `start` at step 0, falling or rising along half a cosine to `end` at step `steps`."""
    progress = min(step / steps, 1.0) if steps > 0 else 1.0
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * progress))


def linear(step: float, *, start: float, end: float, steps: float) -> float:
    """Return `start` at step 0, `end` at step `steps` - 1 and after, linear between."""
    if step >= steps - 1:
        return end
    return start + (end - start) * step / (steps - 1)


def warmup_cosine(step: int, *, peak: float, end: float, warmup_steps: int, steps: int) -> float:
    """Return a learning rate as DINO schedules it.

    Linear from 0 at step 0 to `peak` at step `warmup_steps` - 1; then half a cosine from `peak` at
    step `warmup_steps` towards `end` at step `steps`.
    """
    if step < warmup_steps:
        return linear(step, start=0.0, end=peak, steps=warmup_steps)
    return cosine(step - warmup_steps, start=peak, end=end, steps=steps - warmup_steps)
