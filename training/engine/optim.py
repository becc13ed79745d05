"""The optimizer: parameter groups, learning rate and weight decay, gradient clipping."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from timm.optim.lars import Lars
from torch import Tensor, nn

from training.config.sections import OptimConfig
from training.distributed.sharding import local, whole_norms
from training.schedules import Progress, warmup_cosine
from wtours.text import counted

LARS_MOMENTUM = 0.9
"""Of the gradients; with LARS' trust coefficient of .001, as in DINO's option of the same name."""


def build_optimizer(model: nn.Module, optim: OptimConfig) -> torch.optim.Optimizer:
    """Return an optimizer over the trainable parameters, in groups as of `parameter_groups`.

    LARS (You et al. 2017) is SGD with momentum whose step is, for each parameter that has weight
    decay, in proportion to the parameter's norm; the others take SGD's step. The learning rate and
    the decay are set at each step by `set_lr_and_weight_decay`.
    """
    groups = parameter_groups(model, layer_decay=optim.layer_decay)
    if optim.name == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, fused=True)  # one kernel instead of dozens
    for group in groups:  # also at a weight decay of 0, where timm would leave it to SGD
        group["always_adapt"] = group["decays"]
    return Lars(groups, lr=0.0, momentum=LARS_MOMENTUM)


def parameter_groups(model: nn.Module, *, layer_decay: float = 1.0) -> list[dict[str, Any]]:
    """Return the trainable parameters in groups: by layer, with and without weight decay.

    As in the released code, biases and one-dimensional parameters have none. With a `layer_decay`
    of 1 there are two groups.

    Args:
        model: A network with `backbone.*`, of which the blocks are counted, and others.
        layer_decay: What the learning rate of a layer is multiplied by for each layer after it
            (`lr_scale`): embeddings, blocks, and at last the final norm and the head.
    """
    depth = len({_block_of(name) for name, _ in model.named_parameters()} - {None})
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    if layer_decay == 1:
        groups = {(1.0, True): [], (1.0, False): []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = not name.endswith(".bias") and parameter.ndim > 1
            scale = layer_decay ** (depth + 1 - _layer(name, depth))
            groups.setdefault((scale, decays), []).append(parameter)
    return [
        {"params": some, "weight_decay": 0.0, "decays": decays, "lr_scale": scale}
        for (scale, decays), some in groups.items()
    ]


def _block_of(name: str) -> int | None:
    found = re.match(r"backbone\.blocks\.(\d+)\.", name)
    return int(found[1]) if found else None


def _layer(name: str, depth: int) -> int:
    """Return 0 for the embeddings, 1 to depth for the blocks, and depth + 1 for what follows."""
    block = _block_of(name)
    if block is not None:
        return block + 1
    if name == "mask_token":  # takes the place of patch embeddings
        return 0
    after = not name.startswith("backbone.") or name.startswith(("backbone.norm.", "backbone.fc"))
    return depth + 1 if after else 0


@dataclass(frozen=True)
class ScheduledValues:
    """What the optimizer is set to in one step; a method schedules the rest itself."""

    lr: float
    weight_decay: float


def peak_lr(optim: OptimConfig) -> float:
    """Return the learning rate at the end of its warm-up, scaled to the clips of a step."""
    scale = optim.global_batch_size / optim.lr_clips if optim.lr_clips else 1.0
    return optim.lr * (math.sqrt(scale) if optim.lr_scaling == "sqrt" else scale)


def scheduled_values(optim: OptimConfig, now: Progress) -> ScheduledValues:
    """Return the learning rate and the weight decay of a step."""
    return ScheduledValues(
        lr=warmup_cosine(
            now.step,
            peak=peak_lr(optim),
            end=optim.min_lr,
            warmup_steps=round(optim.warmup_epochs * now.steps_per_epoch),
            steps=now.steps,
        ),
        weight_decay=now.cosine(start=optim.weight_decay, end=optim.weight_decay_end),
    )


def out_of_reach(optim: OptimConfig, run: Progress) -> list[str]:
    """Return what the schedules of the optimizer do not come to in a run, a line each."""
    lines = []
    if (peak := peak_lr(optim)) < optim.min_lr:
        lines.append(
            f"the learning rate rises from its peak of {peak:.2g}, for "
            f"{counted(optim.global_batch_size, 'clip')} in a step, to optim.min_lr, "
            f"{optim.min_lr:.2g}: set optim.lr higher or optim.min_lr lower"
        )
    if optim.warmup_epochs and round(optim.warmup_epochs * run.steps_per_epoch) >= run.steps:
        lines.append(
            f"the learning rate only rises: its warm-up (optim.warmup_epochs="
            f"{optim.warmup_epochs:g}) takes all of the run's {run.length}; set it lower"
        )
    return lines


def set_lr_and_weight_decay(
    optimizer: torch.optim.Optimizer, *, lr: float, weight_decay: float
) -> None:
    """Set the learning rate of all groups, and the weight decay of those that have one.

    A group's rate is `lr` times its "lr_scale".
    """
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
        if group["decays"]:
            group["weight_decay"] = weight_decay


def moments_of(optimizer: torch.optim.Optimizer, network: nn.Module) -> dict[str, Tensor]:
    """Return an optimizer's moments of a network's parameters, by <parameter>.<moment>."""
    return {
        f"{name}.{key}": value
        for name, parameter in network.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def moment_device(optimizer: torch.optim.Optimizer, parameter: Tensor, moment: str) -> torch.device:
    """Return where an optimizer looks for a moment of a parameter."""
    # AdamW keeps its count of steps on the CPU; its fused kernel, on CUDA, reads it on the device.
    is_fused = any(group.get("fused") for group in optimizer.param_groups)
    return torch.device("cpu") if moment == "step" and not is_fused else parameter.device


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
