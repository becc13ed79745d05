"""What ends a run soon, and says why, when one of its processes fails, is lost or hangs.

A thread in each process records a heartbeat in the store that all share (torchrun's key-value
store) once a second, and whether its training has made progress. It watches the next rank's
heartbeat and everyone's progress. The first to find something wrong, or to end with an error,
records why; every process reads it, reports it, and exits. torchrun may then start them all again
(`--max-restarts`).
"""

import contextlib
import faulthandler
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist

from training.config.sections import FaultsConfig
from training.distributed.store import RunStore
from training.distributed.world import World
from wtours.errors import TrainingError, WtoursError

_GRACE_SECONDS = 5.0
"""For the training thread to end by itself, with its own files closed, once the end is decided."""
_STALL_FACTOR, _STALL_AT_LEAST = 10.0, 40.0
_SILENCE_SECONDS = 3.0
"""After a broken connection: a process that lives has a heartbeat each second."""


class Watchdog:
    """Watches the thread that enters it until that leaves; ends the process if need be."""

    def __init__(self, store: RunStore, faults: FaultsConfig) -> None:
        self.before_exit: Callable[[], object] = lambda: None
        """Called before this process is ended from here, for at most five seconds."""
        self._store = store
        self._faults = faults
        self._interval = min(1.0, faults.silence_seconds / 4)
        self._beats, self._beat_at, self._slowest = 0, time.monotonic(), 0.0
        self._watched_thread = threading.get_ident()
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._store.beat(progress=0)  # before any wait for the others: one stopped now is missed
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join()

    def beat(self) -> None:
        """Report progress: a step or a long sub-task finished."""
        now = time.monotonic()
        if self._beats > 1:  # the first two steps compile
            self._slowest = max(self._slowest, now - self._beat_at)
        self._beats, self._beat_at = self._beats + 1, now

    def _stall_seconds(self) -> float:
        if self._beats <= 1:
            return self._faults.first_step_seconds
        if self._faults.stall_seconds is not None:
            return self._faults.stall_seconds
        return max(_STALL_AT_LEAST, _STALL_FACTOR * self._slowest)

    def _watch(self) -> None:
        # Waits are counted in turns of this loop, not by the clock: a process that was suspended
        # (Ctrl-Z) and goes on must not blame the others, nor itself, for the time between.
        stalled = silent = unreachable = 0
        beats_seen, all_beats, heartbeat = 0, -1, ""
        while not self._left.wait(self._interval):
            try:
                if failure := self._store.failure():
                    self._end(failure)
                    return
                progress, beats_seen = self._beats - beats_seen, self._beats
                beats_before, all_beats = all_beats, self._store.beat(progress)
                heartbeat_before, heartbeat = heartbeat, self._store.last_heartbeat()
            except RuntimeError:  # the store is gone, and with it the machine that holds it
                unreachable += 1
                if unreachable * self._interval >= self._faults.silence_seconds:
                    self._end("torchrun's store does not answer: its machine or network is gone")
                    return
                continue
            unreachable = 0
            stalled = stalled + 1 if all_beats == beats_before else 0
            silent = silent + 1 if heartbeat and heartbeat == heartbeat_before else 0
            if silent * self._interval >= self._faults.silence_seconds:
                self._store.fail(
                    f"rank {self._store.next_rank} has sent no heartbeat for "
                    f"{self._faults.silence_seconds:g} s: it was killed, stopped or cut off"
                )
            elif stalled * self._interval >= self._stall_seconds():
                self._blame_the_stalled()

    def _blame_the_stalled(self) -> None:
        """Record where each process is: the one that is not waiting for the others hangs."""
        self._store.record_location(self._location())
        self._left.wait(2 * self._interval)  # the others come to the same conclusion
        faulthandler.dump_traceback(all_threads=True)
        self._store.fail(
            f"no step has ended for {self._stall_seconds():.0f} s; {self._store.locations()}"
        )

    def _location(self) -> str:
        frame = sys._current_frames().get(self._watched_thread)
        stack = traceback.extract_stack(frame) if frame is not None else []
        ours = [entry for entry in stack if "site-packages" not in entry.filename]
        named = [
            f"{entry.name} ({entry.filename}:{entry.lineno})" for entry in (ours or stack)[-2:]
        ]
        return " > ".join(named) or "unknown"

    def _end(self, failure: str) -> None:
        if self._left.wait(_GRACE_SECONDS):
            return  # the training thread has failed too, and says so itself
        saver = threading.Thread(target=self._run_before_exit, daemon=True)
        saver.start()
        saver.join(_GRACE_SECONDS)
        sys.stderr.write(f"error: rank {self._store.rank} ends: {failure}\n")
        sys.stderr.flush()
        os._exit(1)

    def _run_before_exit(self) -> None:
        with contextlib.suppress(Exception):
            self.before_exit()


@contextlib.contextmanager
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
