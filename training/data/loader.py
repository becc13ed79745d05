"""Batches by DataLoader workers: of clips, starting at any step, or of any other items."""

import errno
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch.utils.data import DataLoader, Dataset

from training.config.train import TrainConfig
from training.data.clips import Batch, ClipViews
from training.distributed.world import World
from wtours.errors import TrainingError, UsageError, WtoursError
from wtours.execution.child_process import follow_parent, forks_of_a_clean_process
from wtours.storage.os_errors import SHARED_MEMORY


def batches(
    views: ClipViews, world: World, config: TrainConfig, *, position: int, steps: int
) -> Iterator[Batch]:
    """Yield this rank's batches of so many steps, the first of which begins at a position.

    Raises:
        UsageError: the global batch cannot be divided by the number of ranks.
        ShardError: a shard is damaged.
        TrainingError: a worker was killed, or has no shared memory.
    """
    clips_per_rank(config, world.world_size)  # or one line, before a worker starts
    return read_by_workers(
        views,
        rank_positions(config.optim.global_batch_size, world, position, steps),
        collate=_unchanged,
        num_workers=config.data.num_workers,
        world=world,
        option="data.num_workers=",
    )


def read_by_workers(
    data: Dataset[Any],
    numbers: Sequence[list[int]],
    *,
    collate: Callable[[Any], Any],
    num_workers: int,
    world: World,
    option: str,
) -> Iterator[Any]:
    """Yield batches in their order, read by forks of a clean process.

    Args:
        data: Items by number; picklable. What its processes cannot raise in one line is an item.
        numbers: Of the items of each batch.
        collate: Makes a batch of items, or gives back the error that is one of them.
        num_workers: Processes; 0: this one reads.
        world: This process among those of the run.
        option: What sets their number, as it is typed before the number.

    Raises:
        WtoursError: the item of a batch that is one.
        TrainingError: a worker was killed, or has no shared memory.
    """
    imported = [__name__, type(data).__module__]
    loader = DataLoader(
        data,
        batch_sampler=numbers,
        num_workers=num_workers,
        collate_fn=collate,
        pin_memory=world.device.type == "cuda",
        multiprocessing_context=forks_of_a_clean_process(imported) if num_workers else None,
        worker_init_fn=_start_worker,
    )
    for batch in _received(loader, world.rank, option):
        if isinstance(batch, WtoursError):
            raise batch
        yield batch


def clips_per_rank(config: TrainConfig, ranks: int) -> int:
    """Return how many clips of a step each rank has.

    Raises:
        UsageError: the global batch cannot be divided by the number of ranks.
    """
    total = config.optim.global_batch_size
    if ranks < 1 or total % ranks:
        raise UsageError(
            f"optim.global_batch_size ({total}) must be a multiple of the number of processes "
            f"({ranks})"
        )
    return total // ranks


def _received(loader: "DataLoader[Any]", rank: int, option: str) -> Iterator[Any]:
    """Yield what the workers send; what ends a worker is one line."""
    try:
        yield from loader
    except (RuntimeError, OSError, EOFError) as error:
        # A worker that dies while it hands over a batch's memory shows as a lost connection, or as
        # an EOFError, which click would take for a Ctrl-D.
        is_lost = isinstance(error, EOFError | ConnectionError)
        text = "DataLoader worker ended in mid-batch" if is_lost else str(error)
        if "shared memory" in text or getattr(error, "errno", None) == errno.ENOSPC:
            free = shutil.disk_usage(SHARED_MEMORY).free / 2**20
            raise TrainingError(
                f"rank {rank}: the loader's workers need more shared memory than {SHARED_MEMORY} "
                f"has ({free:.0f} MiB free): enlarge it (docker run --shm-size=8g), or set "
                f"{option}0"
            ) from error
        if "DataLoader worker" in text:
            raise TrainingError(
                f"rank {rank}: a worker of the loader was lost ({text.splitlines()[0]}): out of "
                f"memory? Take fewer, or none ({option}0) to decode in this process"
            ) from error
        raise


def rank_positions(
    global_batch_size: int, world: World, position: int, steps: int
) -> list[list[int]]:
    """Return the positions of one rank's clips, for each of so many steps from a position on.

    A step has the next G positions; each rank takes its contiguous share of them.
    """
    share = global_batch_size // world.world_size
    first = position + world.rank * share
    firsts = (first + step * global_batch_size for step in range(steps))
    return [list(range(first, first + share)) for first in firsts]


def _start_worker(worker: int) -> None:
    """Leave Ctrl-C to the process that reads, and do not outlive it."""
    follow_parent()


def _unchanged(batch: Any) -> Any:
    """Collate nothing: `ClipViews.__getitems__` has done it."""
    return batch
