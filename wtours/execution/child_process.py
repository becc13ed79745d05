"""Child processes that start at once, and end with their parent."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from multiprocessing import forkserver, get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext


def forks_of_a_clean_process(imported: Iterable[str]) -> ForkServerContext:
    """Return the way to start processes: forks of one that has only imported some modules.

    That one is started here, and imports while this process goes on.

    A fork of this process, which has threads and perhaps CUDA, can hang; one that is spawned
    imports everything for itself, which takes it a second of a core and tens of megabytes.

    Args:
        imported: Names of modules. All processes that this one starts are forks of the same, which
            has imported what was asked for first.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload([*imported])
    resource_tracker.ensure_running()  # first: where it starts its process, it lets Ctrl-C in again
    with started_without_ctrl_c():
        forkserver.ensure_running()
    return context


@contextlib.contextmanager
def started_without_ctrl_c() -> Iterator[None]:
    """Keep Ctrl-C from the processes that are started inside: it is for their parent to act on.

    A process that only ignores it once its imports are done would end with a traceback before. One
    that comes to this process meanwhile is not lost: it comes at the end of the block.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def not_interrupted() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM come at the end of the block, in which processes are started.

    Of one that is only half started nobody knows: it would begin when its parent has gone, and end
    with a traceback. Signals reach the main thread only: elsewhere this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: came.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for got in came[:1]:
            signal.raise_signal(got)


def follow_parent(lifeline: Connection | None = None) -> None:
    """Leave Ctrl-C to the parent, and end this process when the parent ends, however it does.

    Args:
        lifeline: A pipe of the parent: when it is closed there, this process ends too.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    ends = [lifeline, parent and parent.sentinel]
    awaited = [end for end in ends if end is not None]
    # A thread, because the main one may be in a decoder or a network for minutes. Watching the
    # parent's process id is not enough: of a fork server's children it is the server's.
    threading.Thread(target=_exit_after, args=(awaited,), daemon=True).start()


def _exit_after(awaited: list[Connection | int]) -> None:
    if awaited:
        wait(awaited)
        os._exit(1)
