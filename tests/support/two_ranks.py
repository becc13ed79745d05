"""Several processes in one group, for what ranks compute together."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def on_two_ranks(work: Callable[[int], Any], folder: Path) -> list[Any]:
    """Return what `work`, a function of a module, returns on rank 0 and on rank 1 of a group.

    Args:
        work: Takes the rank; returns tensors and plain values.
        folder: An empty one.
    """
    return on_ranks(2, work, folder)


def on_ranks(count: int, work: Callable[[int], Any], folder: Path) -> list[Any]:
    """Return the same of a group of so many ranks."""
    torch.multiprocessing.start_processes(
        _on_a_rank, (count, work, folder), nprocs=count, start_method="forkserver"
    )
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(count)]


def _on_a_rank(rank: int, count: int, work: Callable[[int], Any], folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=count
    )
    torch.save(work(rank), folder / f"{rank}.pt")
    dist.destroy_process_group()
