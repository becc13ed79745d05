"""A download queue: several items at a time in threads; an item may be requeued for later.

Threads, since a download waits and does not compute. They are daemons: Ctrl-C leaves at once, and
what lies on the disk is resumed by the next run as after a kill.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from wtours.acquire.rate_limit import HostBusyError

Item = TypeVar("Item")
Result = TypeVar("Result")
_GRACE_SECONDS = 2.0


class StoppedError(BaseException):
    """Ends a thread whose run is over, through whatever catches an Exception."""


def run_queue(
    work: Callable[[Item], Result], items: Sequence[Item], *, jobs: int, stop: threading.Event
) -> Iterator[tuple[Item, Result]]:
    """Yield (item, work(item)) in order of completion, at most `jobs` at a time.

    An item whose work raises HostBusyError is requeued after its `wait_seconds`; the others go on.
    Any other exception of `work` is raised here. However it ends, `stop` is set.
    """
    waiting: list[tuple[float, Item]] = [(0.0, item) for item in items]
    outcomes: queue.SimpleQueue[tuple[Item, Result | None, BaseException | None]] = (
        queue.SimpleQueue()
    )
    threads: list[threading.Thread] = []
    num_running = 0

    def run(item: Item) -> None:
        try:
            outcomes.put((item, work(item), None))
        except BaseException as error:  # handed to the thread that asked
            outcomes.put((item, None, error))

    try:
        while waiting or num_running:
            now = time.monotonic()
            for ready in [entry for entry in waiting if entry[0] <= now][: jobs - num_running]:
                waiting.remove(ready)
                thread = threading.Thread(target=run, args=ready[1:], daemon=True)
                threads.append(thread)
                thread.start()
                num_running += 1
            timeout = None
            if waiting and num_running < jobs:
                next_at = min(not_before for not_before, _ in waiting)
                timeout = max(0.0, next_at - time.monotonic()) + 0.001
            try:
                item, result, error = outcomes.get(timeout=timeout)
            except queue.Empty:
                continue
            num_running -= 1
            if isinstance(error, HostBusyError):
                waiting.append((time.monotonic() + error.wait_seconds, item))
            elif error is not None:
                raise error
            else:
                yield item, result  # type: ignore[misc]
    finally:
        stop.set()
        deadline = time.monotonic() + _GRACE_SECONDS
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
