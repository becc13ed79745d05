"""This process among those of the run."""

from dataclasses import dataclass

import torch

from training.distributed.store import RunStore


@dataclass(frozen=True)
class World:
    """This process among those of the run."""

    rank: int
    world_size: int
    local_rank: int
    device: torch.device
    store: RunStore | None = None
    """For heartbeats and failures, beside the tensors; None: there is one process."""

    @property
    def is_main(self) -> bool:
        """Return whether this is the process that writes the run's files."""
        return self.rank == 0


def best_device() -> torch.device:
    """Return CUDA where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
