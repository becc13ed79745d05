"""A run's c10d key-value store: the ranks' heartbeats, and the failure that ends them all.

Unlike a collective, it answers when another process does not.
"""

import os
import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch's public names for these have no types
    from torch._C._distributed_c10d import HashStore, PrefixStore, Store, TCPStore
else:
    from torch.distributed import HashStore, PrefixStore, Store, TCPStore

_FAILURE, _BEATS = "failure", "beats"
_JOIN_SECONDS, _ACCESS_SECONDS = 300, 10
"""Timeouts of the store: for the processes to find each other, and for an access."""


class RunStore:
    """One rank's access to the store of this attempt's processes; None: there is one process."""

    def __init__(self, store: Store | None, rank: int, world_size: int) -> None:
        self._store = HashStore() if store is None else store
        self._lock = threading.Lock()
        self.rank = rank
        self.world_size = world_size
        self.next_rank = (rank + 1) % world_size
        self._heartbeats = 0

    def beat(self, progress: int) -> int:
        """Record a heartbeat and the progress since the last one; return all ranks' progress."""
        with self._lock:
            self._heartbeats += 1
            self._store.set(f"heartbeat/{self.rank}", str(self._heartbeats))
            return self._store.add(_BEATS, progress)

    def last_heartbeat(self) -> str:
        """Return the next rank's last heartbeat; "" before its first, or with one rank."""
        return "" if self.next_rank == self.rank else self._read(f"heartbeat/{self.next_rank}")

    def fail(self, reason: str) -> None:
        """Record why the run ends, unless a reason is recorded already."""
        with self._lock:
            self._store.compare_set(_FAILURE, "", reason)

    def failure(self) -> str:
        """Return why the run ends; "" while it does not."""
        return self._read(_FAILURE)

    def record_location(self, location: str) -> None:
        """Record where in the program this rank's training thread is."""
        with self._lock:
            self._store.set(f"location/{self.rank}", location)

    def locations(self) -> str:
        """Return the location that each rank recorded."""
        all_ranks = range(self.world_size)
        return "; ".join(f"rank {r}: {self._read(f'location/{r}') or 'unknown'}" for r in all_ranks)

    def silent_ranks(self, seconds: float) -> list[int]:
        """Return the other ranks without a heartbeat in the next `seconds`."""
        before = self._all_heartbeats()
        time.sleep(seconds)
        after = self._all_heartbeats()
        return [r for r in after if r != self.rank and before[r] == after[r]]

    def _all_heartbeats(self) -> dict[int, str]:
        return {rank: self._read(f"heartbeat/{rank}") for rank in range(self.world_size)}

    def _read(self, key: str) -> str:
        with self._lock:
            return self._store.get(key).decode() if self._store.check([key]) else ""


def torchrun_store() -> Store | None:
    """Return the store in which the processes of one attempt find each other, apart from others'.

    torchrun's own store outlives an attempt that failed, with the addresses of dead processes in
    it: a process of the next attempt that is quick could try those. None: nothing need be kept
    apart, or there are several nodes, which count their attempts each for itself.
    """
    is_one_node = os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or not is_one_node:
        return None
    return PrefixStore(
        f"attempt/{os.environ['TORCHELASTIC_RESTART_COUNT']}", _connect(_JOIN_SECONDS)
    )


def connected_store(*, attempt: str, rank: int, world_size: int) -> RunStore:
    """Return the store of the processes that torchrun started."""
    # A connection of its own: the process group's may be waiting.
    return RunStore(PrefixStore(f"wtours/{attempt}", _connect(_ACCESS_SECONDS)), rank, world_size)


def _connect(seconds: float) -> Store:
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(address, port, is_master=False, timeout=timedelta(seconds=seconds))
