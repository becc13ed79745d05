"""What the processes of a run tell each other beside their tensors: who lives, and what went wrong.

It is a key-value store, not a collective: it answers when another process does not.
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

_FAILURE, _MOVES = "failure", "moves"
_JOIN_SECONDS, _NOTE_SECONDS = 300, 10
"""How long the store may take: for the processes to find each other, and for a note."""


class Board:
    """The notes of one process on the board that all of a run share.

    Args:
        store: Shared by the processes of this attempt alone; None: there is one process.
        rank: Of this process.
        world_size: Number of processes.
    """

    def __init__(self, store: Store | None, rank: int, world_size: int) -> None:
        self._store = HashStore() if store is None else store
        self._lock = threading.Lock()
        self.rank = rank
        self.world_size = world_size
        self.next_rank = (rank + 1) % world_size
        self._turn = 0

    def write(self, moved: int) -> int:
        """Say that this process lives and has moved so often; return how often all have."""
        with self._lock:
            self._turn += 1
            self._store.set(f"life/{self.rank}", str(self._turn))
            return self._store.add(_MOVES, moved)

    def life_of_next(self) -> str:
        """Return what the next process last wrote; "" before it has, or if this one is alone."""
        return "" if self.next_rank == self.rank else self._read(f"life/{self.next_rank}")

    def fail(self, what: str) -> None:
        """Write down why the run ends, unless it is written already."""
        with self._lock:
            self._store.compare_set(_FAILURE, "", what)

    def failure(self) -> str:
        """Return why the run ends; "" while it does not."""
        return self._read(_FAILURE)

    def say_where(self, place: str) -> None:
        """Write down where this process's training is in the program."""
        with self._lock:
            self._store.set(f"where/{self.rank}", place)

    def where_all_are(self) -> str:
        """Return what `say_where` wrote, of each process."""
        places = [self._read(f"where/{rank}") or "says nothing" for rank in range(self.world_size)]
        return "; ".join(f"rank {rank}: {place}" for rank, place in enumerate(places))

    def silent_ranks(self, seconds: float) -> list[int]:
        """Return the other processes that write nothing for so long."""
        before = self._lives()
        time.sleep(seconds)
        after = self._lives()
        return [r for r in after if r != self.rank and before[r] == after[r]]

    def _lives(self) -> dict[int, str]:
        return {rank: self._read(f"life/{rank}") for rank in range(self.world_size)}

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


def connected_board(*, attempt: str, rank: int, world_size: int) -> Board:
    """Return the board of the processes that torchrun started.

    Args:
        attempt: A name that no earlier attempt has used.
        rank: Of this process.
        world_size: Number of processes.
    """
    # A connection of its own: the process group's may be waiting.
    return Board(PrefixStore(f"wtours/{attempt}", _connect(_NOTE_SECONDS)), rank, world_size)


def _connect(seconds: float) -> Store:
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(address, port, is_master=False, timeout=timedelta(seconds=seconds))
