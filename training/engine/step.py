"""One step of training: views, the method's loss, gradients, optimizer."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel

from training.config.train import TrainConfig
from training.data.clips import Batch
from training.data.multi_crop import make_global, make_local
from training.distributed.collectives import all_mean
from training.distributed.world import World
from training.engine.optim import (
    ScheduledValues,
    clip_gradients,
    scheduled_values,
    set_lr_and_weight_decay,
)
from training.engine.precision import autocast
from training.engine.state import TrainState
from training.methods.base import StepOutput, Targets, Views, micro_batches
from training.rng import derived_seed
from training.schedules import Progress
from training.transfer import send


@dataclass(frozen=True)
class Gradients:
    """What a step computed; the gradients themselves are in the student."""

    output: StepOutput
    """Of all of this rank's clips, without gradients."""
    targets: Targets
    norm: Tensor
    """Scalar: norm of all gradients together, before clipping."""
    scale: float | None = None
    """What a float16 loss was multiplied by; None: nothing."""

    def read(self, flags: Sequence[bool] = ()) -> "StepReading":
        """Return what the step gave on all ranks: one exchange, and one wait for the device."""
        named = {
            "loss": self.output.loss,
            **self.output.metrics,
            **self.targets.metrics(),
            "gradient_norm": self.norm,
        }
        # Gradients that overflow float16 are no fault while their scale can still be lowered: the
        # scaler leaves the step out.
        finite = self.output.loss.isfinite()
        if self.scale is None or self.scale <= 1:
            finite = finite & self.norm.isfinite()
        (raised,) = send([torch.tensor(flags, dtype=torch.float32)], finite.device)
        numbers = torch.stack([*(value.float() for value in named.values()), (~finite).float()])
        *values, broken = all_mean(torch.cat([raised, numbers])).cpu().tolist()
        scale = {} if self.scale is None else {"loss_scale": self.scale}
        return StepReading(
            metrics=dict(zip(named, values[len(flags) :], strict=True)) | scale,
            is_finite=not broken,
            flags=[value > 0 for value in values[: len(flags)]],
        )


@dataclass(frozen=True)
class StepReading:
    """What a step gave, the same on every rank."""

    metrics: dict[str, float]
    """Means over ranks of the scalars to be logged."""
    is_finite: bool
    """Whether loss and gradients are finite on all ranks."""
    flags: list[bool]
    """For each flag, whether any rank raised it."""


def make_views(batch: Batch, config: TrainConfig, device: torch.device) -> Views:
    """Return what the networks see of a batch, on their device."""
    frames = batch.frames.to(device, non_blocking=True)
    return Views(
        global_clips=make_global(frames, batch.draws, pixels=config.data.global_crop_pixels),
        local_crops=make_local(frames, batch.draws, pixels=config.data.local_crop_pixels),
        positions=batch.positions,
    )


def compute_gradients(
    state: TrainState,
    replica: nn.Module,
    batch: Batch,
    now: Progress,
    *,
    config: TrainConfig,
    world: World,
) -> Gradients:
    """Fill the student's gradients, averaged over ranks and clipped, from this rank's clips.

    `replica` is the method, or DDP around it.
    """
    views = make_views(batch, config, world.device)
    # Stochastic depth draws from torch's global generators.
    torch.manual_seed(derived_seed(config.seed, "drop_path", state.step, world.rank))
    state.optimizer.zero_grad(set_to_none=True)
    with autocast(config, world.device):
        targets: Targets = state.method.prepare(views, now)
    output = _backward(replica, views, targets, config, state.scaler)
    state.scaler.unscale_(state.optimizer)
    norm = clip_gradients(
        state.method.student.parameters(),
        max_norm=config.optim.clip_grad,
        by=config.optim.clip_grad_by,
    )
    for parameter in state.method.frozen(now):
        parameter.grad = None  # the optimizer leaves it as it is
    scale = state.scaler.get_scale() if state.scaler.is_enabled() else None
    return Gradients(output, targets, norm, scale)


def _backward(
    replica: nn.Module, views: Views, targets: Any, config: TrainConfig, scaler: GradScaler
) -> StepOutput:
    """Add up the gradients of a step's micro-batches; return the output for all of its clips."""
    values = []
    parts = list(micro_batches(views, targets, config.optim.accumulation_steps))
    for number, (some_views, some_targets, share) in enumerate(parts, 1):
        # Ranks exchange gradients with the last of them; before that each adds up its own.
        adds_up: AbstractContextManager[object] = nullcontext()
        if isinstance(replica, DistributedDataParallel) and number < len(parts):
            adds_up = replica.no_sync()
        with adds_up:
            with autocast(config, views.global_clips.device):
                output: StepOutput = replica(some_views, some_targets)
            scaler.scale(output.loss * share).backward()  # type: ignore[no-untyped-call]
        values.append(torch.stack([output.loss.detach(), *output.metrics.values()]) * share)
    loss, *metrics = torch.stack(values).sum(dim=0)
    return StepOutput(loss, dict(zip(output.metrics, metrics, strict=True)))


def apply_gradients(state: TrainState, now: Progress) -> ScheduledValues:
    """Move the student along its gradients, and then what the method moves itself."""
    values = scheduled_values(state.method.config.optim, now)
    set_lr_and_weight_decay(state.optimizer, lr=values.lr, weight_decay=values.weight_decay)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.method.after_step(now)
    state.step += 1
    state.position += state.method.config.optim.global_batch_size
    return values
