"""Ctrl-C and SIGTERM: training finishes its step, saves a checkpoint, and ends by the signal."""

import signal
import threading
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_INTERRUPT_AT = 3


class StopSignals:
    """While it is entered, SIGINT and SIGTERM are only recorded; a third one interrupts at once.

    Three, because torchrun forwards a Ctrl-C that the terminal has sent to the processes as well.
    Signals reach the main thread only: elsewhere this records nothing.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._count = 0
        self._before: dict[signal.Signals, signal._HANDLER] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._record) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def flags(self) -> list[bool]:
        """Return for each signal whether this process got it, for the other ranks to be told."""
        return [self.received is number for number in _SIGNALS]

    @staticmethod
    def signal_of(flags: list[bool]) -> signal.Signals | None:
        """Return the signal that some rank got, of the flags of all; None: none did."""
        return next((number for number, got in zip(_SIGNALS, flags, strict=True) if got), None)

    def _record(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or signal.Signals(number)
        self._count += 1
        if self._count >= _INTERRUPT_AT:
            raise KeyboardInterrupt
