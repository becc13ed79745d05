"""Collectives over the ranks of a run; no-ops when there is one rank."""

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from training.distributed.world import World

T = TypeVar("T")


def all_sum(value: Tensor) -> Tensor:
    """Return the sum over ranks of each rank's tensor; no gradient."""
    return _all_reduce(value, dist.ReduceOp.SUM)


def all_max(value: Tensor) -> Tensor:
    """Return the elementwise maximum over ranks of each rank's tensor; no gradient."""
    return _all_reduce(value, dist.ReduceOp.MAX)


def all_mean(value: Tensor) -> Tensor:
    """Return the mean over ranks of each rank's tensor; no gradient."""
    return all_sum(value) / dist.get_world_size() if _is_joined() else value


def all_gather(value: Tensor) -> Tensor:
    """Return every rank's rows, rank by rank: (ranks * M, ...) of (M, ...), M alike on all ranks.

    Gradients flow back to the rank whose rows they are of, summed over the ranks that used them:
    where each rank differentiates its own loss and DDP averages the gradients, the result is the
    gradient of the mean loss.
    """
    rows: Tensor = _AllGather.apply(value) if _is_joined() else value
    return rows


def own_rank() -> int:
    """Return this process's rank; 0 when there is one."""
    return dist.get_rank() if _is_joined() else 0


def num_ranks() -> int:
    """Return the number of ranks of the run."""
    return dist.get_world_size() if _is_joined() else 1


def broadcast(text: str, world: World) -> str:
    """Return rank 0's text on every rank."""
    if not _is_joined():
        return text
    data = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8) if text else torch.empty(0)
    length = torch.tensor([len(data)], device=world.device)
    dist.broadcast(length, src=0)
    buffer = torch.empty(int(length), dtype=torch.uint8, device=world.device)
    if world.is_main:
        buffer.copy_(data)
    dist.broadcast(buffer, src=0)
    return bytes(buffer.tolist()).decode()


def gathered(value: T) -> list[T]:
    """Return every rank's value, by rank; a small picklable one."""
    if not _is_joined():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Wait until every rank is here."""
    if _is_joined():
        dist.barrier()


class _AllGather(torch.autograd.Function):
    """The rows of all ranks; the gradient of a rank's rows is the sum of what all ranks have."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        ctx.num_rows = len(value)
        rows = [torch.empty_like(value) for _ in range(dist.get_world_size())]
        dist.all_gather(rows, value.contiguous())
        return torch.cat(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.narrow(0, dist.get_rank() * ctx.num_rows, ctx.num_rows)


def _all_reduce(value: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
    if not _is_joined():
        return value
    total = value.detach().clone()
    dist.all_reduce(total, op=operation)
    return total


def _is_joined() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
