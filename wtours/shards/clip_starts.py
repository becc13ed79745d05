"""Which frames make a clip: T frames of one video, Δ seconds apart, inside one shot.

A clip starts at any sampled frame; its i-th frame is the one nearest to start + i * Δ:

    pts      0   33   67  100  133  167  200 ms   sampled at 30 a second; at 133 is a hole
    Δ = 67   a        a         -                 from 0: no frame near 133, no clip
                 b         b         b            from 33: 100 and 167, a clip of 3

"Near" is within half the larger of the sampling period and the source's period: a 1 fps source
sampled at 30 ticks a second still has clips 1 s apart, and none 0.5 s apart.

A source of varying rate (a phone in low light, 60 and 24 frames a second in turn) has stretches
that are slower than its average: there the source's period is the one of the stretch. The times
tell: in a stretch 8 gaps in a row are longer than the period, while a missing frame makes one that
is longer than its neighbors, and rounding or jitter makes short ones among the long. Whole seconds
that `--where` leaves out are no slow stretch: of one, frames are at most half a second apart.
"""

import itertools
from collections.abc import Sequence
from fractions import Fraction
from typing import Annotated, Self

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

_US = 1_000_000
STRETCH_GAPS = 8
"""Gaps in a row that make a slower stretch. Of fewer, frames that were sampled at a rate that does
not divide a steady source's would have some: 55 a second, sampled at 30."""
_SLOWER = 1.1
_SLOWEST_US = 500_000
"""Between the frames of a slower stretch."""
_HOLE = 1.5
"""Of the period: a longer gap is nearer to two of them."""
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class IntervalRange(BaseModel):
    """An interval between frames that is drawn anew for each clip, uniformly from min to max.

    Raises:
        ValidationError: not 0 < min <= max.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    min: Seconds
    """In seconds."""
    max: Seconds
    """In seconds."""

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min ({self.min:g}) must be at most max ({self.max:g})")
        return self

    def at(self, draw: float) -> float:
        """Return the interval, in seconds, that a draw in [0, 1) gives."""
        return self.min + draw * (self.max - self.min)


FrameInterval = float | Sequence[float] | IntervalRange
"""Seconds between the frames of a clip: always the same, or one for each of the T - 1 gaps, or
drawn for each clip."""


def clip_offsets_us(
    clip_length: int, frame_interval_seconds: float | Sequence[float]
) -> tuple[int, ...]:
    """Return when each frame of a clip should be, in microseconds after its first.

    Raises:
        ValueError: clip_length is below 1, an interval is below a microsecond or 1e9 s or more, or
            a list has not clip_length - 1 of them.
    """
    if clip_length < 1:
        raise ValueError(f"clip_length must be >= 1, got {clip_length}")
    if isinstance(frame_interval_seconds, Sequence):
        if len(frame_interval_seconds) != clip_length - 1:
            raise ValueError(
                f"frame_interval_seconds must have {clip_length - 1} intervals for a clip of "
                f"{clip_length} frames, got {len(frame_interval_seconds)}"
            )
        moments = [0.0, *itertools.accumulate(frame_interval_seconds)]
        intervals: Sequence[float] = frame_interval_seconds
    else:
        moments = [number * frame_interval_seconds for number in range(clip_length)]
        intervals = (frame_interval_seconds,)
    for interval in intervals:
        if not 1 / _US <= interval < 1e9:  # a clip's moments fit in 64 bits
            raise ValueError(f"frame_interval_seconds must be > 0 and < 1e9, got {interval}")
    return tuple(round(moment * _US) for moment in moments)


def tolerance_us(sampling_rate: Fraction | None, source_rate: Fraction) -> int:
    """Return how far from its moment a clip's frame may be, in microseconds.

    Args:
        sampling_rate: Ticks a second of the shard set; None: native.
        source_rate: Frames a second of the video.
    """
    slower = source_rate if sampling_rate is None else min(sampling_rate, source_rate)
    return int(_US / slower / 2) + 1  # one more, since each pts was rounded to a microsecond


def nearest_rows(
    pts_us: NDArray[np.int64], moments_us: NDArray[np.int64] | NDArray[np.float64]
) -> NDArray[np.int64]:
    """Return for each moment the row of the nearest pts; the earlier of two as near.

    Args:
        pts_us: (N,) int64, increasing, N >= 1.
        moments_us: (M,) int64 or float64.
    """
    return _nearer(pts_us, moments_us, np.searchsorted(pts_us, moments_us))


def _nearer(
    pts_us: NDArray[np.int64],
    moments_us: NDArray[np.int64] | NDArray[np.float64],
    first_rows: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Return the nearest row, given for each moment the first row at or after it."""
    after = first_rows.clip(max=len(pts_us) - 1)
    before = (after - 1).clip(min=0)
    is_before = moments_us - pts_us[before] <= pts_us[after] - moments_us
    return np.where(is_before, before, after)


def clip_starts(
    pts_us: NDArray[np.int64],
    shot: NDArray[np.int32] | None,
    *,
    offsets_us: Sequence[int],
    tolerance_us: int,
) -> NDArray[np.int64]:
    """Return the rows of one video at which a clip starts, increasing.

    Args:
        pts_us: (N,) int64, increasing: the video's sampled frames.
        shot: (N,) int32, the shot of each frame, negative where not known (any shot will do);
            None: clips may go across cuts.
        offsets_us: See `clip_offsets_us`.
        tolerance_us: See `tolerance_us`.
    """
    starts = np.arange(len(pts_us))
    valid = np.ones(len(pts_us), dtype=bool)
    previous = starts
    reach = _reach_us(pts_us, tolerance_us)
    for offset in offsets_us[1:]:
        moments = pts_us + offset
        rows, is_near = _near(pts_us, moments, reach, tolerance_us)
        valid &= is_near
        valid &= rows > previous  # a frame twice is no clip
        if shot is not None:
            valid &= (shot[rows] == shot) | (shot[rows] < 0) | (shot < 0)
        previous = rows
    return starts[valid]


def is_break(
    pts_us: NDArray[np.int64],
    frame_index: NDArray[np.int32],
    shot: NDArray[np.int32] | None,
    *,
    is_native: bool,
    tolerance_us: int,
    longest_pause_us: int = 0,
) -> NDArray[np.bool_]:
    """Return before which frames of one video others are missing, or a cut lies.

    Ticks alone do not say it, since a source of 24 frames a second has none for each fifth of 30,
    nor do the times: of 59.94 source frames a second sampled at 30 every other one is taken, 33.4
    ms apart, although the ticks are 33.3 ms apart. With "native" ordinals do, but for what the
    source left out itself.

    Args:
        pts_us: As in `clip_starts`.
        frame_index: (N,) int32, the tick of each frame; with "native" its ordinal.
        shot: As in `clip_starts`.
        is_native: Whether the frames have ordinals.
        tolerance_us: See `tolerance_us`.
        longest_pause_us: With "native", the source may be so long without a frame.
    """
    gaps = np.diff(pts_us, prepend=pts_us[:1])
    found: NDArray[np.bool_] = np.diff(frame_index, prepend=frame_index[:1]) > 1
    is_long = gaps > _HOLE * _periods_us(pts_us, tolerance_us)
    if is_native:
        found |= is_long & (gaps > longest_pause_us)
    else:
        found &= is_long
    if shot is not None:
        known = np.flatnonzero(shot >= 0)
        found[known[1:]] |= shot[known[1:]] != shot[known[:-1]]
    return found


def range_starts(
    pts_us: NDArray[np.int64],
    frame_index: NDArray[np.int32],
    shot: NDArray[np.int32] | None,
    *,
    is_native: bool,
    span_us: int,
    shortest_us: int,
    tolerance_us: int,
) -> NDArray[np.int64]:
    """Return the rows at which a clip starts whatever interval of a range is drawn.

    From there on, for the longest span, frames follow each other without a hole, inside one shot:
    so each moment has a frame, and two moments have two, since no gap is longer than the shortest
    interval.

    Args:
        pts_us: As in `clip_starts`.
        frame_index: As in `is_break`.
        shot: As in `clip_starts`.
        is_native: As in `is_break`.
        span_us: From the first to the last frame at the longest interval.
        shortest_us: The shortest interval; where it is shorter than the sampling period, no clip
            has its frames, and none starts.
        tolerance_us: See `tolerance_us`.
    """
    if shortest_us + 2 < 2 * tolerance_us or not len(pts_us):  # a tolerance is rounded up
        return np.empty(0, np.int64)
    ends = is_break(pts_us, frame_index, shot, is_native=is_native, tolerance_us=tolerance_us)
    ends |= np.diff(pts_us, prepend=pts_us[0]) > max(shortest_us, 2 * tolerance_us)
    stretch = np.cumsum(ends)
    last, is_near = _near(pts_us, pts_us + span_us, _reach_us(pts_us, tolerance_us), tolerance_us)
    return np.flatnonzero(is_near & (stretch[last] == stretch))


def spaced_starts(pts_us: NDArray[np.int64], distance_us: int) -> NDArray[np.int64]:
    """Return which of increasing times are kept so that no two are nearer than `distance_us`.

    The first is kept, then always the next that is far enough.
    """
    kept, row = [], 0
    while row < len(pts_us):
        kept.append(row)
        row = int(np.searchsorted(pts_us, pts_us[row] + distance_us))
    return np.array(kept, np.int64)


def _first_rows(pts_us: NDArray[np.int64], moments_us: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for each moment the first row at or after it, as searchsorted does.

    The moments are the pts, all later by the same. At a steady rate that is as many rows further
    for every frame, which is quicker to check than to search for; the others are searched for.
    """
    if not len(pts_us):
        return np.empty(0, np.int64)
    shift = np.searchsorted(pts_us, moments_us[0])
    rows = np.arange(shift, shift + len(pts_us)).clip(max=len(pts_us) - 1)
    wrong = (pts_us[rows] < moments_us) | (pts_us[rows - 1] >= moments_us)
    rows[wrong] = np.searchsorted(pts_us, moments_us[wrong])
    return rows


def _near(
    pts_us: NDArray[np.int64],
    moments_us: NDArray[np.int64],
    reach_us: NDArray[np.int64],
    tolerance_us: int,
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return for moments that are the pts plus an offset the nearest rows, and which are near."""
    first_rows = _first_rows(pts_us, moments_us)
    rows = _nearer(pts_us, moments_us, first_rows)
    off_us = np.abs(pts_us[rows] - moments_us)
    is_near = off_us <= tolerance_us
    others = np.flatnonzero(~is_near)  # few, where the source is steady
    is_near[others] = off_us[others] <= reach_us[first_rows[others]]
    return rows, is_near


def longest_reach_us(pts_us: NDArray[np.int64], tolerance_us: int) -> int:
    """Return how far from its moment a frame of a clip may be, anywhere in a video."""
    return int(_reach_us(pts_us, tolerance_us).max())


def _reach_us(pts_us: NDArray[np.int64], tolerance_us: int) -> NDArray[np.int64]:
    """Return (N + 1,) how far from it a moment's frame may be, by the first row at or after it.

    The tolerance or more.

    Any moment in a gap of a slower stretch has a frame, unless one is missing there.
    """
    reach = np.full(len(pts_us) + 1, tolerance_us)
    gaps = np.diff(pts_us, prepend=pts_us[:1])
    periods = _periods_us(pts_us, tolerance_us)
    inside = (periods > 2 * tolerance_us) & (gaps <= _HOLE * periods)
    reach[:-1][inside] = gaps[inside] // 2 + 1
    return reach


def _periods_us(pts_us: NDArray[np.int64], tolerance_us: int) -> NDArray[np.int64]:
    """Return (N,) the period of the frames before each one: of the video, or a slower stretch.

    That of a gap in a stretch is the longest that 8 gaps in a row, it among them, are not below.
    """
    period = 2 * tolerance_us
    periods = np.full(len(pts_us), period)
    gaps = np.diff(pts_us)
    if np.count_nonzero(gaps > _SLOWER * period) < STRETCH_GAPS:
        return periods
    least = sliding_window_view(gaps, STRETCH_GAPS).min(axis=1)
    least = np.pad(least, STRETCH_GAPS - 1)
    longest = sliding_window_view(least, STRETCH_GAPS).max(axis=1)
    is_slower = (longest > _SLOWER * period) & (longest <= _SLOWEST_US)
    periods[1:][is_slower] = longest[is_slower]
    return periods
