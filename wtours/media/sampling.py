"""Ticks: which source frame stands for which moment, in exact arithmetic.

At F frames a second, tick i is the moment i/F. A source frame belongs to the tick nearest to it,
floor(pts * F + 1/2), and each tick keeps the nearest of its frames:

    pts      0    20    40    60    80   100 ms      a source of 50 frames a second
    tick     0     1     1     2     2     3         F = 30: ticks at 0, 33.3, 66.7, 100 ms
    kept     x           x     x           x

So each source frame is kept at most once, a tick without a frame is a hole, and nothing depends on
where one begins to read.
"""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Protocol, TypeVar

_US = 1_000_000


class TimedFrame(Protocol):
    """A decoded frame, as far as choosing one is concerned."""

    @property
    def pts_us(self) -> int:
        """Microseconds from the video's first frame."""

    @property
    def is_corrupt(self) -> bool:
        """Whether the decoder concealed errors in it."""


FrameT = TypeVar("FrameT", bound=TimedFrame)


def tick_of(pts_us: int, rate: Fraction) -> int:
    """Return the tick that a frame belongs to: floor(pts * rate + 1/2)."""
    return (2 * pts_us * rate.numerator + _US * rate.denominator) // (2 * _US * rate.denominator)


def tick_period_us(rate: Fraction) -> int:
    """Return the time from one tick to the next in microseconds, rounded up."""
    return -(-_US * rate.denominator // rate.numerator)


def nearest_per_tick(frames: Iterable[FrameT], rate: Fraction) -> Iterator[tuple[int, FrameT]]:
    """Yield (tick, frame) for each tick that has a whole frame: the nearest, the earlier of two.

    Args:
        frames: In time order; the corrupt ones are passed over.
        rate: Ticks a second.
    """
    kept: tuple[int, int, FrameT] | None = None  # tick, distance from it, frame
    for frame in frames:
        if frame.is_corrupt:
            continue
        tick = tick_of(frame.pts_us, rate)
        # In units of 1 / (1e6 * denominator) ticks, so that it stays whole.
        distance = abs(frame.pts_us * rate.numerator - tick * _US * rate.denominator)
        if kept is not None and tick != kept[0]:
            yield kept[0], kept[2]
            kept = None
        if kept is None or distance < kept[1]:
            kept = (tick, distance, frame)
    if kept is not None:
        yield kept[0], kept[2]
