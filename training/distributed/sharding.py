"""Weights, gradients and moments divided over the ranks (FSDP2), and how to look at them.

A divided tensor is a DTensor, of which each rank has its rows. Outside of the forward and backward
pass there is nothing else: what a rank may do alone it does to its part, what needs the whole is
asked for by all ranks together.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from training.distributed.collectives import all_sum


def shard(module: nn.Module, parts: Iterable[nn.Module], *, methods: Sequence[str]) -> None:
    """Divide the weights of a module, equal on all ranks, over them; each part is made whole alone.

    The parameters become other objects: an optimizer of the old ones is of no more use.

    Args:
        module: Its forward pass makes whole what is in none of the parts.
        parts: Modules that are called, such as blocks: whole only while they compute.
        methods: Of the module, that also need its weights whole.
    """
    device = next(module.parameters()).device
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for part in parts:
        fully_shard(part, mesh=mesh)
    fully_shard(module, mesh=mesh)
    for method in methods:
        register_fsdp_forward_method(module, method)


def is_sharded(module: nn.Module) -> bool:
    """Return whether `shard` has divided the module."""
    return isinstance(module, FSDPModule)


def local(tensor: Tensor) -> Tensor:
    """Return this rank's part, which shares its memory; of what is not divided the tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """Return all of a tensor; of one that is divided on all ranks together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def divided_like(value: Tensor, other: Tensor) -> Tensor:
    """Return a tensor that every rank has, divided as another of its shape; else as it is."""
    if not isinstance(other, DTensor) or value.shape != other.shape:
        return value
    return distribute_tensor(value, other.device_mesh, other.placements, src_data_rank=None)


def whole_norms(tensors: Sequence[Tensor]) -> Tensor:
    """Return the L2 norms of whole tensors, (n,), by one exchange if they are divided."""
    norms = torch.stack(torch._foreach_norm([local(tensor) for tensor in tensors]))
    divided = any(isinstance(tensor, DTensor) for tensor in tensors)
    return all_sum(norms.square()).sqrt() if divided else norms


@contextmanager
def whole_weights(module: nn.Module, network: nn.Module) -> Iterator[None]:
    """While entered, on all ranks together, have a network of a module whole.

    Each rank may then run it as often as it has batches, without the others.
    """
    if not isinstance(module, FSDPModule):
        yield
        return
    parts = [part for part in network.modules() if isinstance(part, FSDPModule)]
    for part in (module, *parts):
        part.unshard()
    for part in parts:
        part.set_reshard_after_forward(False)
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(True)
        for part in (module, *parts):
            part.reshard()
