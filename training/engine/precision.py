"""Number formats, and how operators are run: autocast, loss scaling, compilation, determinism."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler

from training.config.train import TrainConfig
from training.methods.base import Network
from training.models.vit_blocks import compile_block

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
_FIRST_SCALE = 2.0**16
_VARIANTS = 64
"""Versions of a compiled block: by image size, with and without gradients, by its drop rate."""


def autocast(config: TrainConfig, device: torch.device) -> torch.autocast:
    """Return the context in which networks run in the config's precision."""
    dtype = _DTYPES.get(config.optim.precision)
    return torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None)


def build_scaler(config: TrainConfig, device: torch.device) -> GradScaler:
    """Return what keeps the gradients of float16 above its smallest number; else it does nothing.

    A step whose gradients overflow is left out and halves the scale; 2000 steps without one double
    it (torch's own rule).
    """
    wanted = config.optim.precision == "float16"
    return GradScaler(device.type, init_scale=_FIRST_SCALE, enabled=wanted)


def compile_blocks(method: nn.Module) -> None:
    """Have the blocks of the method's backbones compiled when they are first run."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _VARIANTS)
    for network in method.modules():
        if isinstance(network, Network):
            for block in network.backbone.blocks:
                compile_block(block)


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """While entered and `wanted`, take the operators that give the same bits in each call.

    torch warns of one that has no such form, such as the gradient of a bicubic interpolation on a
    GPU (the position embedding at another image size).
    """
    if not wanted:
        yield
        return
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
    )
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before[2:]
