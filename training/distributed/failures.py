"""Failures that end a run, in one line that names the process: out of memory, a lost process."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from training.config.sections import FaultsConfig
from training.distributed.store import RunStore
from training.distributed.watchdog import Watchdog
from training.distributed.world import World
from wtours.errors import TrainingError, WtoursError

_SILENCE_SECONDS = 3.0
"""After a broken connection: a process that lives has a heartbeat each second."""


@contextmanager
def failure_guard(world: World, faults: FaultsConfig) -> Iterator[Watchdog]:
    """Guard a run: a process that is lost, or hangs, ends all of them.

    Raises:
        TrainingError: this process has no memory left, or lost the connection to another one.
    """
    store = world.store or RunStore(None, rank=0, world_size=1)
    with Watchdog(store, faults) as watchdog:
        try:
            yield watchdog
        except Exception as error:
            reason = _explain(error, store)
            store.fail(str(reason or error).split("\n", 1)[0])
            if reason is None:
                raise
            raise reason from error


def _explain(error: Exception, store: RunStore) -> TrainingError | None:
    if isinstance(error, WtoursError):
        return None
    text = str(error) if isinstance(error, RuntimeError) else ""
    # Of a GPU, of Python, or of torch on the CPU.
    no_memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
    if no_memory or "can't allocate memory" in text:
        detail = str(error).split("\n", 1)[0]
        return TrainingError(
            f"rank {store.rank} is out of memory ({detail}): raise optim.accumulation_steps, set "
            f"model.activation_checkpointing=true, or lower optim.global_batch_size"
        )
    is_lost = isinstance(error, dist.DistError) or "gloo" in text or "NCCL" in text
    if store.world_size > 1 and is_lost:
        return TrainingError(f"rank {store.rank} ends: {_who_was_lost(store)}")
    return None


def _who_was_lost(store: RunStore) -> str:
    try:
        # One that ended with an error has written it down; one that was killed writes no more.
        silent = [] if store.failure() else store.silent_ranks(_SILENCE_SECONDS)
        failure = store.failure()
    except RuntimeError:
        return "the connection to the others is lost, and torchrun's store does not answer"
    if failure:
        return failure
    lost = ", ".join(f"rank {rank}" for rank in silent) or "another process"
    return f"{lost} was lost: killed, or cut off"
