"""Batches of clips by DataLoader workers, starting at any step."""

import multiprocessing
from collections.abc import Iterator
from multiprocessing.context import BaseContext
from typing import Any

from torch.utils.data import DataLoader

from training.config.train import TrainConfig
from training.data.clips import Batch, ClipViews
from training.distributed.world import World
from wtours.errors import UsageError, WtoursError
from wtours.execution.child_process import follow_parent


def batches(
    views: ClipViews, world: World, config: TrainConfig, start_step: int, end_step: int
) -> Iterator[Batch]:
    """Yield this rank's batches of the steps [start_step, end_step).

    Raises:
        UsageError: the global batch cannot be divided by the number of ranks.
        ShardError: a shard is damaged.
    """
    global_batch_size = config.optim.global_batch_size
    if global_batch_size % world.world_size:
        raise UsageError(
            f"optim.global_batch_size ({global_batch_size}) must be a multiple of the number of "
            f"ranks ({world.world_size})"
        )
    num_workers = config.data.num_workers
    loader = DataLoader(
        views,
        batch_sampler=rank_positions(global_batch_size, world, range(start_step, end_step)),
        num_workers=num_workers,
        collate_fn=_unchanged,
        pin_memory=world.device.type == "cuda",
        multiprocessing_context=_worker_processes() if num_workers else None,
        worker_init_fn=_start_worker,
    )
    for batch in loader:
        if isinstance(batch, WtoursError):
            raise batch
        yield batch


def rank_positions(global_batch_size: int, world: World, steps: range) -> list[list[int]]:
    """Return the positions of one rank's clips, for each step.

    Step s has the positions [s * G, (s + 1) * G); each rank takes its contiguous share of them.
    """
    share = global_batch_size // world.world_size
    firsts = (step * global_batch_size + world.rank * share for step in steps)
    return [list(range(first, first + share)) for first in firsts]


def _worker_processes() -> BaseContext:
    """Return the way to start workers: forks of a clean process that has imported this module.

    Forking the training process, which has threads and perhaps CUDA, can deadlock the child.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _start_worker(worker: int) -> None:
    """Leave Ctrl-C to the training process, and do not outlive it."""
    follow_parent()


def _unchanged(batch: Any) -> Any:
    """Collate nothing: `ClipViews.__getitems__` has done it."""
    return batch
