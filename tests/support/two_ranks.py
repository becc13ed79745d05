"""Two processes in one group, for what ranks compute together."""

import multiprocessing
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
    # Forks of a clean process that has imported torch, as the loader's workers are: two new
    # processes would both import it.
    multiprocessing.get_context("forkserver").set_forkserver_preload(["training.pretrain"])
    torch.multiprocessing.start_processes(
        _on_a_rank, (work, folder), nprocs=2, start_method="forkserver"
    )
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def _on_a_rank(rank: int, work: Callable[[int], Any], folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save(work(rank), folder / f"{rank}.pt")
    dist.destroy_process_group()
