"""Child processes that end with their parent."""

import os
import signal
import threading
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait


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
