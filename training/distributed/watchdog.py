"""Signs of life: a run of several processes ends soon, and says why, when one of them is lost.

A thread in each process writes on a board that all share (torchrun's key-value store), once a
second, that it lives and whether its training has moved. It watches the next process and the
movement of all. The first to find something wrong, or to end with an error, writes down what; every
process reads it, says it, and ends. torchrun may then start them all again (`--max-restarts`).
"""

import contextlib
import faulthandler
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable

from training.config.sections import FaultsConfig
from training.distributed.store import Board

_GRACE_SECONDS = 5.0
"""For the training thread to end by itself, with its own files closed, once the end is decided."""
_STALL_FACTOR, _STALL_AT_LEAST = 10.0, 40.0


class Heartbeat:
    """Watches over the thread that enters it until that leaves; ends the process if need be.

    Args:
        board: What the processes of the run share.
        faults: How long is too long.
    """

    def __init__(self, board: Board, faults: FaultsConfig) -> None:
        self.before_exit: Callable[[], object] = lambda: None
        """Called before this process is ended from here, for at most five seconds."""
        self._board = board
        self._faults = faults
        self._interval = min(1.0, faults.silence_seconds / 4)
        self._moves, self._moved_at, self._slowest = 0, time.monotonic(), 0.0
        self._watched_thread = threading.get_ident()
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        self._board.write(moved=0)  # before any wait for the others: who is stopped now is missed
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join()

    def beat(self) -> None:
        """Say that training has moved: a step is done, or a part of something long."""
        now = time.monotonic()
        if self._moves > 1:  # the first two steps compile
            self._slowest = max(self._slowest, now - self._moved_at)
        self._moves, self._moved_at = self._moves + 1, now

    def _stall_seconds(self) -> float:
        if self._moves <= 1:
            return self._faults.first_step_seconds
        if self._faults.stall_seconds is not None:
            return self._faults.stall_seconds
        return max(_STALL_AT_LEAST, _STALL_FACTOR * self._slowest)

    def _watch(self) -> None:
        # Waits are counted in turns of this loop, not by the clock: a process that was suspended
        # (Ctrl-Z) and goes on must not blame the others, nor itself, for the time between.
        still = silent = deaf = 0
        moves_seen, moves_of_all, life_of_next = 0, -1, ""
        while not self._left.wait(self._interval):
            try:
                if failure := self._board.failure():
                    self._end(failure)
                    return
                moved, moves_seen = self._moves - moves_seen, self._moves
                before, moves_of_all = moves_of_all, self._board.write(moved)
                was, life_of_next = life_of_next, self._board.life_of_next()
            except RuntimeError:  # the board is gone, and with it the machine that holds it
                deaf += 1
                if deaf * self._interval >= self._faults.silence_seconds:
                    self._end("torchrun's store does not answer: its machine or network is gone")
                    return
                continue
            deaf = 0
            still = still + 1 if moves_of_all == before else 0
            silent = silent + 1 if life_of_next and life_of_next == was else 0
            if silent * self._interval >= self._faults.silence_seconds:
                self._board.fail(
                    f"rank {self._board.next_rank} has given no sign of life for "
                    f"{self._faults.silence_seconds:g} s: it was killed, stopped or cut off"
                )
            elif still * self._interval >= self._stall_seconds():
                self._blame_the_stalled()

    def _blame_the_stalled(self) -> None:
        """Write down where each process is: the one that is not waiting for the others hangs."""
        self._board.say_where(self._where())
        self._left.wait(2 * self._interval)  # the others come to the same conclusion
        faulthandler.dump_traceback(all_threads=True)
        self._board.fail(
            f"no step has ended for {self._stall_seconds():.0f} s; {self._board.where_all_are()}"
        )

    def _where(self) -> str:
        frame = sys._current_frames().get(self._watched_thread)
        stack = traceback.extract_stack(frame) if frame is not None else []
        ours = [entry for entry in stack if "site-packages" not in entry.filename]
        named = [
            f"{entry.name} ({entry.filename}:{entry.lineno})" for entry in (ours or stack)[-2:]
        ]
        return " > ".join(named) or "nowhere"

    def _end(self, failure: str) -> None:
        if self._left.wait(_GRACE_SECONDS):
            return  # the training thread has failed too, and says so itself
        saver = threading.Thread(target=self._last_words, daemon=True)
        saver.start()
        saver.join(_GRACE_SECONDS)
        sys.stderr.write(f"error: rank {self._board.rank} ends: {failure}\n")
        sys.stderr.flush()
        os._exit(1)

    def _last_words(self) -> None:
        with contextlib.suppress(Exception):
            self.before_exit()
