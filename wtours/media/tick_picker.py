"""Which frames the detector looks at: those that `wtours.media.sampling` gives, picked while
decoding."""

from fractions import Fraction
from typing import Generic, Protocol, TypeVar

from wtours.errors import UsageError
from wtours.media.sampling import tick_of

_US = 1_000_000
EVERY_FRAME = Fraction(_US)
"""A tick each microsecond, the resolution of pts: every frame has its own."""


class _Timed(Protocol):
    @property
    def pts_us(self) -> int: ...


TimedFrame = TypeVar("TimedFrame", bound=_Timed)


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
        raise UsageError(f"detect_fps {text!r}: give frames a second above 0, or native")
    return rate


class TickPicker(Generic[TimedFrame]):
    """Picks, in one pass, the frames of the ticks in [start_us, end_us).

    Push frames in time order, from the last one at or before `start_us` (where there is one) to the
    first one at or after `end_us`, then `finish`. Only the latest frame is kept. The frames on
    either side of a tick decide it, so ranges picked apart give together what one range gives.

    Args:
        rate: Ticks a second.
        start_us: First instant of the range.
        end_us: End of the range (not in it); None: to the end of the video.
    """

    def __init__(self, rate: Fraction, *, start_us: int, end_us: int | None) -> None:
        if rate <= 0:
            raise ValueError(f"rate must be > 0 ticks a second, got {rate}")
        self._rate = rate
        self._start_us = start_us
        self._end_us = end_us
        self._before: TimedFrame | None = None

    def push(self, frame: TimedFrame) -> list[TimedFrame]:
        """Return the picked frames that the next frame decides: none, one or two."""
        before, self._before = self._before, frame
        if before is not None and self._next_tick(before) == self._next_tick(frame):
            return []
        return self._between(before, frame)

    def finish(self) -> list[TimedFrame]:
        """Return the frame picked by a tick after the last frame, if any."""
        return self._between(self._before, None)

    def _next_tick(self, frame: TimedFrame) -> int:
        """Return the first tick at or after a frame, in whole numbers: most frames need no more."""
        return -(-frame.pts_us * self._rate.numerator // (self._rate.denominator * _US))

    def _between(self, before: TimedFrame | None, after: TimedFrame | None) -> list[TimedFrame]:
        """Return the frames of the ticks in [before, after)."""
        picked = []
        sides = [frame for frame in (before, after) if frame is not None]
        for tick in sorted({tick_of(frame.pts_us, self._rate) for frame in sides}):
            tick_us = tick * _US / self._rate
            if not self._in_range(tick_us):
                continue
            if (before is None or before.pts_us <= tick_us) and (
                after is None or tick_us < after.pts_us
            ):
                near = [frame for frame in sides if tick_of(frame.pts_us, self._rate) == tick]
                picked.append(min(near, key=lambda frame: abs(frame.pts_us - tick_us)))
        return picked

    def _in_range(self, tick_us: Fraction) -> bool:
        return self._start_us <= tick_us and (self._end_us is None or tick_us < self._end_us)
