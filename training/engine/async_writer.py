"""Background writes, so that training need not wait for the disk."""

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

LOG = logging.getLogger(__name__)


class BackgroundWriter:
    """Runs one write at a time in a thread; a context manager that waits for it at its end.

    What a write raised is raised by the next call, whichever that is: no error is lost. While this
    waits for a write to end, `while_waiting` is called once a second.
    """

    def __init__(self, while_waiting: Callable[[], None] = lambda: None) -> None:
        self._while_waiting = while_waiting
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self.in_flight: Future[None] | None = None

    def __enter__(self) -> "BackgroundWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.finish()
        except Exception as error:
            if kind is None:
                raise
            LOG.warning("and in the background: %s", error)  # beside the error under way
        finally:
            self._thread.shutdown()

    def start(self, write: Callable[[], None]) -> None:
        """Start a write, after the one before has ended."""
        self.finish()
        self.in_flight = self._thread.submit(write)

    def check(self) -> None:
        """Raise what the last write raised, if it has ended; do not wait for it."""
        if self.in_flight is not None and self.in_flight.done():
            self.finish()

    def finish(self) -> None:
        """Wait for the last write, and raise what it raised."""
        if self.in_flight is not None:
            in_flight, self.in_flight = self.in_flight, None
            while not wait([in_flight], timeout=1).done:
                self._while_waiting()
            in_flight.result()
