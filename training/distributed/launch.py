"""Joining and leaving the process group that torchrun started."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import torch
import torch.distributed as dist

from training.distributed.collectives import broadcast
from training.distributed.store import connected_store, torchrun_store
from training.distributed.world import World
from wtours.errors import TrainingError, UsageError
from wtours.text import docs_page


@contextmanager
def joined_world(timeout_seconds: float = 1800.0) -> Iterator[World]:
    """Join the processes that torchrun started (its environment says which), then leave them.

    Without torchrun there is one process. The device is CUDA where there is one for each process
    of this node, else the CPU; they talk through nccl or gloo.

    Args:
        timeout_seconds: After which a process that waits for the others gives up.

    Raises:
        TrainingError: torchrun started more processes here than there are CUDA devices.
        UsageError: the environment of some launcher says that there are others, but not where.
    """
    rank, world_size, local_rank = (
        int(os.environ.get(name, default))
        for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
    )
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if rank >= world_size or (world_size > 1 and missing):
        lacks = f"without {' and '.join(missing)}" if world_size > 1 and missing else "do not fit"
        raise UsageError(
            f"RANK={rank} and WORLD_SIZE={world_size} {lacks}: start several processes by torchrun "
            f"({docs_page('reference/training')}), or unset both for a single one"
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
    store = connected_store(attempt=attempt, rank=rank, world_size=world_size)
    yield replace(world, store=store)
    # Not after an error: leaving waits for processes that may be gone.
    dist.destroy_process_group()


def _pick_device(local_rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise TrainingError(
            f"local rank {local_rank} has no CUDA device, there are {torch.cuda.device_count()}: "
            f"use --nproc-per-node {torch.cuda.device_count()}, or CUDA_VISIBLE_DEVICES= for CPUs"
        )
    return torch.device("cuda", local_rank)
