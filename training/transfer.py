"""Tensors from the host to a device in a way that the host never waits for."""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

_ALIGNMENT = 8
"""Bytes of the widest type sent: a view of bytes as that type must begin at a multiple of it."""


def send(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Return CPU tensors on a device, by one copy for all of them; on the CPU they stay themselves.

    A copy from ordinary memory, or one for each small tensor, would hold up the host each time: a
    step has dozens of them.
    """
    if device.type == "cpu":
        return list(tensors)
    sizes = [tensor.numel() * tensor.element_size() for tensor in tensors]
    places, total = [], 0
    for size in sizes:
        places.append(total)
        total += -(-size // _ALIGNMENT) * _ALIGNMENT
    packed = torch.empty(total, dtype=torch.uint8, pin_memory=device.type == "cuda")
    for tensor, place, size in zip(tensors, places, sizes, strict=True):
        packed[place : place + size] = tensor.contiguous().reshape(-1).view(torch.uint8)
    there = packed.to(device, non_blocking=True)
    return [
        there[place : place + size].view(tensor.dtype).reshape(tensor.shape)
        for tensor, place, size in zip(tensors, places, sizes, strict=True)
    ]


@functools.lru_cache(maxsize=256)
def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return numbers as a float32 tensor on a device, made once a process; not to be changed."""
    with torch.inference_mode(False):  # one made in inference could not be used in training
        return send([torch.tensor(values, dtype=torch.float32)], device)[0]
