"""Ctrl-C and SIGTERM: finish the step, save, then leave the way the signal asks for."""

import signal
import threading
from types import FrameType

from training.distributed.collectives import any_rank
from training.distributed.world import World

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PATIENCE = 3


class StopSignals:
    """While it is entered, SIGINT and SIGTERM are only noted; a third one interrupts at once.

    Three, because torchrun passes a Ctrl-C on to processes that the terminal has told already.
    Signals reach the main thread only: elsewhere this notes nothing.
    """

    def __init__(self) -> None:
        self.noted: signal.Signals | None = None
        self._count = 0
        self._before: dict[signal.Signals, signal._HANDLER] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.noted = self.noted or signal.Signals(number)
        self._count += 1
        if self._count >= _PATIENCE:
            raise KeyboardInterrupt


def agreed(
    finite: bool, noted: signal.Signals | None, world: World
) -> tuple[bool, signal.Signals | None]:
    """Return what all ranks together do after a step: the same answer on every rank.

    Args:
        finite: Whether this rank's loss and gradients are.
        noted: The signal that this rank got.
        world: This process.

    Returns:
        Whether every rank's were finite, and a signal that some rank got.
    """
    broken, *got = any_rank([not finite, *(noted is number for number in _SIGNALS)], world)
    signals = [number for number, was_got in zip(_SIGNALS, got, strict=True) if was_got]
    return not broken, signals[0] if signals else None
