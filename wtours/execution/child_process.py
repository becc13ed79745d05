"""Child processes that start at once, and end with their parent."""

import os
import signal
import threading
from collections.abc import Iterable
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext


def forks_of_a_clean_process(imported: Iterable[str]) -> ForkServerContext:
    """Return the way to start processes: forks of one that has only imported some modules.

    A fork of this process, which has threads and perhaps CUDA, can hang; one that is spawned
    imports everything for itself, which takes it a second of a core and tens of megabytes.

    Args:
        imported: Names of modules. All processes that this one starts are forks of the same, which
            has imported what was asked for first.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload([*imported])
    return context


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
