"""Number formats, and how operators are run: autocast, loss scaling, compilation, determinism."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler

from training.config.sections import OptimConfig
from training.config.train import TrainConfig
from training.models.vit_blocks import FastBlock
from wtours.text import counted

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
_FIRST_SCALE = 2.0**16
_VARIANTS = 16
"""Versions of a compiled block: by image size, with and without gradients and stochastic depth."""


def for_device(config: TrainConfig, device: torch.device) -> TrainConfig:
    """Return the config with the precision that "auto" stands for on a device."""
    if config.optim.precision != "auto":
        return config
    precision = "bfloat16" if device.type == "cuda" else "float32"
    return config.with_values("optim", precision=precision)


def describe_numerics(config: TrainConfig, device: torch.device) -> str:
    """Return one line for the log: the device, and what it computes in."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        float32 = f"float32 products {config.optim.float32_matmul_precision!r}"
    else:
        name = f"{device.type}, {counted(torch.get_num_threads(), 'thread')}"
        float32 = "float32 products exact"
    return f"{name}: networks in {config.optim.precision}, {float32}"


def autocast(config: TrainConfig, device: torch.device) -> torch.autocast:
    """Return the context in which networks run in the config's precision."""
    dtype = _DTYPES.get(for_device(config, device).optim.precision)
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
    for block in method.modules():
        if isinstance(block, FastBlock):
            block.is_compiled = True


@contextmanager
def numerics(optim: OptimConfig, device: torch.device) -> Iterator[None]:
    """While entered, multiply float32 as the config says, and with equal bits each time if asked.

    torch warns of an operator that has no such form, such as the gradient of a bicubic
    interpolation on a GPU (the position embedding at another image size).
    """
    cudnn = torch.backends.cudnn
    products, tf32 = torch.get_float32_matmul_precision(), cudnn.allow_tf32
    algorithms = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    kernels = cudnn.deterministic, cudnn.benchmark
    try:
        if device.type == "cuda":  # elsewhere a lower precision would change a seeded run
            torch.set_float32_matmul_precision(optim.float32_matmul_precision)
            # The patch embedding.
            cudnn.allow_tf32 = optim.float32_matmul_precision != "highest"
        if optim.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
            torch.use_deterministic_algorithms(True, warn_only=True)
            cudnn.deterministic, cudnn.benchmark = True, False
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        cudnn.allow_tf32 = tf32
        if optim.deterministic:
            torch.use_deterministic_algorithms(algorithms, warn_only=warn_only)
            cudnn.deterministic, cudnn.benchmark = kernels


def describe_float32() -> str:
    """Return "float32", and how CUDA now multiplies it if not exactly: for results."""
    products = torch.get_float32_matmul_precision()
    return "float32" if products == "highest" else f"float32, products {products!r}"
