"""Child processes that end with their parent."""

import os
import signal
import threading
from multiprocessing import parent_process
from multiprocessing.connection import wait


def _follow_parent() -> None:
    """Leave Ctrl-C to the parent, which stops the pool after the tasks in hand; die with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None
    threading.Thread(target=_leave_after, args=(parent.sentinel,), daemon=True).start()


def _leave_after(sentinel: int) -> None:
    """End this process when its parent was killed; it would wait for tasks for ever."""
    wait([sentinel])
    os._exit(1)
