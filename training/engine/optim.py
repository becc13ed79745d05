"""The optimizer: parameter groups, learning rate and weight decay, gradient clipping."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from timm.optim.lars import Lars
from torch import Tensor, nn

from training.config.sections import OptimConfig
from training.distributed.sharding import local, whole_norms
from training.schedules import Progress, warmup_cosine

LARS_MOMENTUM = 0.9
"""Of the gradients; with LARS' trust coefficient of .001, as in DINO's option of the same name."""


def build_optimizer(model: nn.Module, name: Literal["adamw", "lars"]) -> torch.optim.Optimizer:
    """Return an optimizer over the trainable parameters in two groups, see `parameter_groups`.

    LARS (You et al. 2017) is SGD with momentum whose step is, for each parameter that has weight
    decay, in proportion to the parameter's norm; the others take SGD's step. The learning rate and
    the decay are set at each step by `set_lr_and_weight_decay`.
    """
    groups = parameter_groups(model)
    if name == "adamw":
        # One kernel instead of dozens; on a CPU its rounding would change a seeded run.
        on_gpu = next(model.parameters()).device.type == "cuda"
        return torch.optim.AdamW(groups, lr=0.0, fused=True if on_gpu else None)
    for group in groups:  # also at a weight decay of 0, where timm would leave it to SGD
        group["always_adapt"] = group["decays"]
    return Lars(groups, lr=0.0, momentum=LARS_MOMENTUM)


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Return the trainable parameters in two groups: with and without weight decay.

    As in the released code, biases and one-dimensional parameters have none.
    """
    decayed: list[nn.Parameter] = []
    undecayed: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_vector = name.endswith(".bias") or parameter.ndim <= 1
            (undecayed if is_vector else decayed).append(parameter)
    return [
        {"params": decayed, "weight_decay": 0.0, "decays": True},
        {"params": undecayed, "weight_decay": 0.0, "decays": False},
    ]


@dataclass(frozen=True)
class ScheduledValues:
    """What the optimizer is set to in one step; a method schedules the rest itself."""

    lr: float
    weight_decay: float


def scheduled_values(optim: OptimConfig, now: Progress) -> ScheduledValues:
    """Return the learning rate and the weight decay of a step."""
    scale = optim.global_batch_size / optim.lr_clips if optim.lr_clips else 1.0
    return ScheduledValues(
        lr=warmup_cosine(
            now.step,
            peak=optim.lr * scale,
            end=optim.min_lr,
            warmup_steps=round(optim.warmup_epochs * now.steps_per_epoch),
            steps=now.steps,
        ),
        weight_decay=now.cosine(start=optim.weight_decay, end=optim.weight_decay_end),
    )


def set_lr_and_weight_decay(
    optimizer: torch.optim.Optimizer, *, lr: float, weight_decay: float
) -> None:
    """Set the learning rate of all groups, and the weight decay of those that have one."""
    for group in optimizer.param_groups:
        group["lr"] = lr
        if group["decays"]:
            group["weight_decay"] = weight_decay


def clip_gradients(
    parameters: Iterable[nn.Parameter],
    *,
    max_norm: float | None,
    by: Literal["parameter", "global"],
) -> Tensor:
    """Scale gradients down so that none has an L2 norm above `max_norm`; None: leave them.

    "parameter": each gradient by its own norm (released code); "global": all by their common norm.

    Returns:
        The common norm before, a scalar; not finite where any gradient is not.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norms = whole_norms(gradients)
    common: Tensor = torch.linalg.vector_norm(norms)
    if max_norm is not None:
        clipped = norms if by == "parameter" else common.expand(len(gradients))
        scales = (max_norm / (clipped + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_([local(g) for g in gradients], list(scales.unbind()))
    return common
