"""What changes from step to step: pure functions of the step, so a resume needs nothing else."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class StepSettings:
    """The scheduled numbers of one step."""

    lr: float
    weight_decay: float
    momentum: float
    teacher_temp: float
    train_last_layer: bool


@dataclass(frozen=True, kw_only=True)
class Schedules:
    """Every schedule of a run of `steps` steps; an epoch is `steps_per_epoch` of them."""

    steps: int
    steps_per_epoch: float
    lr: float
    min_lr: float
    warmup_epochs: float
    weight_decay: float
    weight_decay_end: float
    momentum: float
    momentum_end: float
    teacher_temp: float
    warmup_teacher_temp: float
    warmup_teacher_temp_epochs: float
    freeze_last_layer_epochs: float

    def at(self, step: int) -> StepSettings:
        """Return the numbers of step `step`, counted from 0."""
        return StepSettings(
            lr=warmup_cosine(
                step,
                peak=self.lr,
                end=self.min_lr,
                warmup_steps=round(self.warmup_epochs * self.steps_per_epoch),
                steps=self.steps,
            ),
            weight_decay=cosine(
                step, start=self.weight_decay, end=self.weight_decay_end, steps=self.steps
            ),
            momentum=cosine(step, start=self.momentum, end=self.momentum_end, steps=self.steps),
            teacher_temp=linear(
                math.floor(step / self.steps_per_epoch),
                start=self.warmup_teacher_temp,
                end=self.teacher_temp,
                steps=self.warmup_teacher_temp_epochs,
            ),
            train_last_layer=step / self.steps_per_epoch >= self.freeze_last_layer_epochs,
        )


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
