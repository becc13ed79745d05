"""Sampling a whole sequence at once, for the tests of `TickSampler`."""

from collections.abc import Iterable, Iterator
from fractions import Fraction

from wtours.media.sampling import FrameT, TickSampler


def nearest_per_tick(frames: Iterable[FrameT], rate: Fraction) -> Iterator[tuple[int, FrameT]]:
    """Yield (tick, frame) for each tick with an undamaged frame: the nearest, the earlier of two.

    Args:
        frames: In time order; the corrupt ones are skipped.
        rate: Ticks a second.
    """
    sampler = TickSampler[FrameT](rate)
    for frame in frames:
        yield from sampler.push(frame)
    yield from sampler.finish()
