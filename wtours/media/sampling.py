"""Ticks: which source frame stands for which moment, in exact arithmetic.

At F frames a second, tick i is the moment i/F. A source frame belongs to the tick nearest to it,
floor(pts * F + 1/2), and each tick keeps the nearest of its frames:

    pts      0    20    40    60    80   100 ms      a source of 50 frames a second
    tick     0     1     1     2     2     3         F = 30: ticks at 0, 33.3, 66.7, 100 ms
    kept     x           x     x           x

So each source frame is kept at most once, a tick without a frame is a hole, and nothing depends on
where reading begins. `shard` and the object detector sample by this one rule.
"""

from fractions import Fraction
from typing import Generic, Protocol, TypeVar

from wtours.errors import UsageError

_US = 1_000_000
EVERY_FRAME = Fraction(_US)
"""A tick each microsecond, the resolution of pts: every frame has its own."""


class TimedFrame(Protocol):
    """A decoded frame, as far as choosing one is concerned."""

    @property
    def pts_us(self) -> int:
        """Microseconds from the video's first frame."""

    @property
    def is_corrupt(self) -> bool:
        """Whether the decoder concealed errors in it."""


FrameT = TypeVar("FrameT", bound=TimedFrame)


def parse_rate(text: str) -> Fraction:
    """Return frames a second from "1", "0.5", "30000/1001", or "native" (every frame).

    Raises:
        UsageError: it is none of these, or not above 0.
    """
    if text == "native":
        return EVERY_FRAME
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not 0 < rate <= EVERY_FRAME:
        raise UsageError(f"--detect-fps {text!r}: give frames a second above 0, or native")
    return rate


def tick_of(pts_us: int, rate: Fraction) -> int:
    """Return the tick that a frame belongs to: floor(pts * rate + 1/2)."""
    return (2 * pts_us * rate.numerator + _US * rate.denominator) // (2 * _US * rate.denominator)


def tick_period_us(rate: Fraction) -> int:
    """Return the time from one tick to the next in microseconds, rounded up."""
    return -(-_US * rate.denominator // rate.numerator)


class TickSampler(Generic[FrameT]):
    """Gives for each tick of [start_us, end_us) that has an undamaged frame the nearest one.

    Push frames in time order, from the last one before `start_us` (where there is one) to the first
    one at or after `end_us`, then `finish`. Only one frame is held. The frames on either side of a
    boundary decide its ticks, so ranges sampled apart give together what one range gives.

    Args:
        rate: Ticks a second.
        start_us: First instant of the range.
        end_us: End of the range (not in it); None: no end.
    """

    def __init__(self, rate: Fraction, *, start_us: int = 0, end_us: int | None = None) -> None:
        if rate <= 0:
            raise ValueError(f"rate must be > 0 ticks a second, got {rate}")
        self._rate = rate
        self._start_us, self._end_us = start_us, end_us
        self._nearest: tuple[int, int, FrameT] | None = None  # tick, distance from it, frame

    def push(self, frame: FrameT) -> list[tuple[int, FrameT]]:
        """Return (tick, frame) of the tick that this frame closes, if any; the earlier of two."""
        if frame.is_corrupt:
            return []
        numerator, denominator = self._rate.numerator, self._rate.denominator
        tick = tick_of(frame.pts_us, self._rate)
        # In units of 1 / (1e6 * denominator) ticks, so that it stays whole.
        distance = abs(frame.pts_us * numerator - tick * _US * denominator)
        closed = []
        if self._nearest is not None and tick != self._nearest[0]:
            closed = self.finish()
        if self._nearest is None or distance < self._nearest[1]:
            self._nearest = (tick, distance, frame)
        return closed

    def finish(self) -> list[tuple[int, FrameT]]:
        """Return (tick, frame) of the last tick, if any."""
        nearest, self._nearest = self._nearest, None
        return [] if nearest is None or not self._covers(nearest[0]) else [nearest[::2]]

    def _covers(self, tick: int) -> bool:
        tick_us = tick * _US / self._rate
        return self._start_us <= tick_us and (self._end_us is None or tick_us < self._end_us)
