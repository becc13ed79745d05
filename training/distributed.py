"""The processes of a run: who they are, and what they compute together.

With one process nothing is communicated and every helper returns what it was given.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from training.board import Board, connected_board, torchrun_store
from wtours.errors import TrainingError

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process among those of the run."""

    rank: int
    world_size: int
    local_rank: int
    device: torch.device
    board: Board | None = None
    """For notes to the others beside the tensors; None: there are no others."""

    @property
    def is_main(self) -> bool:
        """Return whether this is the process that writes the run's files."""
        return self.rank == 0


@contextmanager
def joined_world(timeout_seconds: float = 1800.0) -> Iterator[World]:
    """Join the processes that torchrun started (its environment says which), then leave them.

    Without torchrun there is one process. The device is CUDA where there is one for each process
    of this node, else the CPU; they talk through nccl or gloo.

    Args:
        timeout_seconds: After which a process that waits for the others gives up.

    Raises:
        TrainingError: torchrun started more processes here than there are CUDA devices.
    """
    rank, world_size, local_rank = (
        int(os.environ.get(name, default))
        for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
    )
    world = World(rank, world_size, local_rank, _pick_device(local_rank))
    if world.device.type == "cuda":
        torch.cuda.set_device(world.device)
    if world_size == 1:
        yield world
        return
    is_cuda = world.device.type == "cuda"
    dist.init_process_group(
        "nccl" if is_cuda else "gloo",
        device_id=world.device if is_cuda else None,
        timeout=timedelta(seconds=timeout_seconds),
        store=torchrun_store(),
        rank=rank,
        world_size=world_size,
    )
    # A name that tells this attempt from one before it.
    attempt = broadcast(secrets.token_hex(8), world)
    board = connected_board(attempt=attempt, rank=rank, world_size=world_size)
    yield replace(world, board=board)
    # Not after an error: leaving waits for processes that may be gone.
    dist.destroy_process_group()


def all_sum(value: Tensor) -> Tensor:
    """Return the sum over ranks of each rank's tensor; no gradient."""
    return _all_reduce(value, dist.ReduceOp.SUM)


def all_max(value: Tensor) -> Tensor:
    """Return the elementwise maximum over ranks of each rank's tensor; no gradient."""
    return _all_reduce(value, dist.ReduceOp.MAX)


def all_mean(value: Tensor) -> Tensor:
    """Return the mean over ranks of each rank's tensor; no gradient."""
    return all_sum(value) / dist.get_world_size() if _is_joined() else value


def any_rank(flags: list[bool], world: World) -> list[bool]:
    """Return, for each flag, whether any rank raised it: the same answer on every rank."""
    if not _is_joined():
        return flags
    return [bool(flag) for flag in all_max(torch.tensor(flags, device=world.device).int())]


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


def _all_reduce(value: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
    if not _is_joined():
        return value
    total = value.detach().clone()
    dist.all_reduce(total, op=operation)
    return total


def _is_joined() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _pick_device(local_rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise TrainingError(
            f"local rank {local_rank} has no CUDA device, there are {torch.cuda.device_count()}: "
            f"use --nproc-per-node {torch.cuda.device_count()}, or CUDA_VISIBLE_DEVICES= for CPUs"
        )
    return torch.device("cuda", local_rank)
