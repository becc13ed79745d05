"""Running tasks in several processes of this machine."""

import contextlib
import itertools
import logging
import os
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, Self

from wtours.errors import WorkerDiedError
from wtours.execution.child_process import follow_parent, forks_of_a_clean_process, not_interrupted
from wtours.execution.executor import Result, Task

logger = logging.getLogger(__name__)

STOP_SECONDS = 30
"""How long a stopped command waits for running tasks: one that is cut off is only done again."""


class ProcessExecutor:
    """Runs tasks in worker processes, which live until its `with` block ends.

    Functions and tasks must be picklable: the processes are forks of a clean one, because a fork of
    a process with decoder or inference threads can hang.

    When a worker dies, the tasks that were running are run again, one at a time: so the one at
    fault is known, and the others are done. On Ctrl-C or SIGTERM the running tasks have
    `STOP_SECONDS` to finish; a second Ctrl-C ends them at once.

    Args:
        jobs: How many processes.
        say: Told in one line what a stopped command waits for.
    """

    def __init__(self, jobs: int, *, say: Callable[[str], None] = logger.warning) -> None:
        if jobs < 1:
            raise ValueError(f"jobs must be >= 1, got {jobs}")
        self.num_workers = jobs
        self._say = say
        self._pool: tuple[ProcessPoolExecutor, Connection] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close_pool()

    def map(
        self, function: Callable[[Task], Result], tasks: Iterable[Task]
    ) -> Generator[tuple[Task, Result], None, None]:
        """Yield (task, function(task)) as tasks finish; see `Executor`."""
        waiting = iter(tasks)
        running: dict[Future[Result], Task] = {}
        results: list[tuple[Task, Result]] = []
        suspects: list[Task] = []
        died: list[tuple[Task, str]] = []
        try:
            while True:
                # Never more than run at once: of a broken pool each of them is a suspect, and a
                # stopped command waits for no others.
                alone = bool(suspects)
                room = self.num_workers - len(running)
                batch = [suspects.pop()] if alone else itertools.islice(waiting, room)
                running |= {self._submit(function, task): task for task in batch}
                yield from results
                if not running:
                    break
                finished = wait(running, return_when=FIRST_COMPLETED).done
                cause = ""
                if any(map(_has_died, finished)):
                    finished = wait(running).done  # at once: the whole pool is broken
                    cause = self._close_pool()
                outcomes = {future: running.pop(future) for future in finished}
                dead = [task for future, task in outcomes.items() if _has_died(future)]
                if alone:
                    died += [(task, cause) for task in dead]
                else:
                    suspects += dead
                results = [(t, f.result()) for f, t in outcomes.items() if not _has_died(f)]
        except Exception:
            wait(running)  # the stage may go on with another item: none of this one still writes
            raise
        except BaseException:
            self._stop(running)
            raise
        if died:
            raise WorkerDiedError(*zip(*died, strict=True))

    def _submit(
        self, function: Callable[[Task], Result], task: Task, attempts: int = 10
    ) -> Future[Result]:
        is_new = self._pool is None
        pool, _ = self._pool = self._pool or self._open_pool()
        try:
            with not_interrupted():
                return pool.submit(function, task)
        # A worker died while it had nothing to do, or the process that they are forks of.
        except (BrokenProcessPool, EOFError, ConnectionError) as error:
            if is_new and attempts > 1:  # one that was just killed passes for alive for a moment
                self._close_pool()
                time.sleep(0.1)
                return self._submit(function, task, attempts - 1)
            future: Future[Result] = Future()
            future.set_exception(BrokenProcessPool(str(error)))
            return future

    def _open_pool(self) -> tuple[ProcessPoolExecutor, Connection]:
        lifeline, ours = Pipe(duplex=False)
        # What is imported here for the stage, its tasks need too.
        own = [name for name in [*sys.modules] if name.partition(".")[0] == "wtours"]
        imported = ("__main__", *own)
        context = forks_of_a_clean_process(imported)
        arguments = (lifeline, dict(os.environ))
        return ProcessPoolExecutor(self.num_workers, context, _start_worker, arguments), ours

    def _stop(self, running: Mapping[Future[Any], object]) -> None:
        """Give the running tasks a while to finish, then end the workers."""
        # The second Ctrl-C sets a flag: as an exception it could leave a lock of the pool held, and
        # closing the pool would then wait for ever.
        pressed: list[int] = []  # a lock of an Event could be held when the handler runs
        in_main = threading.current_thread() is threading.main_thread()
        before = (
            signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
            if in_main
            else None
        )
        try:
            unfinished = [str(task) for future, task in running.items() if not future.done()]
            if unfinished:
                names = textwrap.shorten(", ".join(unfinished), 300, placeholder=" …")
                self._say(
                    f"stopping: waiting up to {STOP_SECONDS} s for {names}; Ctrl-C again ends "
                    f"{'it' if len(unfinished) == 1 else 'them'} at once; finished parts are kept"
                )
                deadline = time.monotonic() + STOP_SECONDS
                with contextlib.suppress(SystemExit):  # SIGTERM: likewise at once
                    while not all(future.done() for future in running):
                        if pressed or time.monotonic() > deadline:
                            break
                        time.sleep(0.02)
            self._close_pool()
        finally:
            if in_main:
                signal.signal(signal.SIGINT, before)

    def _close_pool(self) -> str:
        """End the workers; a task that runs is cut off. Return the signal that ended one, or ""."""
        if self._pool is None:
            return ""
        pool, lifeline = self._pool
        self._pool = None
        lifeline.close()
        # concurrent.futures tells nobody how a worker ended; its processes know, once joined.
        workers = list((getattr(pool, "_processes", None) or {}).values())
        pool.shutdown(wait=True, cancel_futures=True)
        return next(filter(None, (signal_name(worker.exitcode) for worker in workers)), "")


def _start_worker(lifeline: Connection, environment: Mapping[str, str]) -> None:
    """Take this process's environment, not that which the clean process was started with."""
    os.environ.clear()
    os.environ.update(environment)
    follow_parent(lifeline)


def signal_name(exit_code: int | None) -> str:
    """Return "SIGSEGV" for the exit code -11 of a process; "" if no fault of its own ended it."""
    if exit_code is None or exit_code >= 0 or -exit_code == signal.SIGTERM:
        return ""
    return {one.value: one.name for one in signal.Signals}.get(-exit_code, f"signal {-exit_code}")


def _has_died(future: Future[Any]) -> bool:
    return isinstance(future.exception(), BrokenProcessPool)
