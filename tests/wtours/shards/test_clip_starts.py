from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wtours.media.sampling import TickSampler
from wtours.shards.clip_starts import (
    clip_offsets_us,
    clip_starts,
    is_break,
    nearest_rows,
    range_starts,
    tolerance_us,
)


def brute_force_starts(pts_us, shots, offsets_us, tolerance):
    """Return the starts frame by frame, as docs/reference/shards.md puts it."""
    gaps = np.diff(pts_us).tolist()
    stretches = [gaps[first : first + 8] for first in range(len(gaps) - 7)]

    def has_frame(moment, row):
        if abs(pts_us[row] - moment) <= tolerance:
            return True
        after = next((number for number, pts in enumerate(pts_us) if pts >= moment), 0)
        if not after:
            return False  # beyond the last
        around = stretches[max(0, after - 8) : after]
        period = max(map(min, around), default=0)
        return period > 1.1 * 2 * tolerance and gaps[after - 1] <= 1.5 * period

    starts = []
    for start, first in enumerate(pts_us):
        rows = []
        for offset in offsets_us:
            moment = first + offset
            rows.append(min(range(len(pts_us)), key=lambda row: (abs(pts_us[row] - moment), row)))
        near = all(
            has_frame(first + offset, row) for row, offset in zip(rows, offsets_us, strict=True)
        )
        known = [shots[row] for row in rows if shots[row] >= 0]
        one_shot = shots[start] < 0 or len(set(known)) == 1
        if near and one_shot and len(set(rows)) == len(rows):
            starts.append(start)
    return starts


times = st.lists(st.integers(0, 60), min_size=1, max_size=40, unique=True).map(sorted)


@settings(deadline=None)
@given(times, st.data(), st.integers(1, 4), st.integers(1, 12), st.integers(0, 6))
def test_clips_are_those_of_the_definition(times, data, clip_length, interval, tolerance):
    shots = sorted(data.draw(st.lists(st.integers(0, 3), min_size=len(times), max_size=len(times))))
    if data.draw(st.booleans()):
        shots = [-1] * len(times)
    offsets = [number * interval for number in range(clip_length)]
    starts = clip_starts(
        np.array(times), np.array(shots, np.int32), offsets_us=offsets, tolerance_us=tolerance
    )
    assert starts.tolist() == brute_force_starts(times, shots, offsets, tolerance)


@settings(deadline=None)
@given(times, st.lists(st.integers(-10, 80), max_size=20))
def test_the_nearest_row_is_the_earlier_of_two_as_near(times, moments):
    rows = nearest_rows(np.array(times), np.array(moments, dtype=np.int64)).tolist()
    expected = [min(range(len(times)), key=lambda row: (abs(times[row] - m), row)) for m in moments]
    assert rows == expected


def test_a_hole_takes_away_the_clips_that_need_it_and_no_others():
    pts_us = np.array([0, 33_333, 66_667, 100_000, 166_667, 200_000])  # none at 133 ms
    starts = clip_starts(pts_us, None, offsets_us=[0, 66_667, 133_333], tolerance_us=16_667)
    assert starts.tolist() == [1]


def test_a_clip_stays_inside_one_shot_unless_told_otherwise():
    pts_us, shot = np.arange(6) * 1_000_000, np.array([0, 0, 0, 1, 1, 1], np.int32)
    offsets = clip_offsets_us(3, 1.0)
    assert clip_starts(pts_us, shot, offsets_us=offsets, tolerance_us=1).tolist() == [0, 3]
    assert clip_starts(pts_us, None, offsets_us=offsets, tolerance_us=1).tolist() == [0, 1, 2, 3]


def test_near_is_half_the_larger_of_sampling_and_source_period():
    assert tolerance_us(Fraction(30), Fraction(60)) == 16_667
    assert tolerance_us(Fraction(30), Fraction(1)) == 500_001
    assert tolerance_us(None, Fraction(25)) == 20_001


def test_a_one_frame_a_second_video_has_clips_one_second_apart_and_none_half_a_second_apart():
    pts_us = np.arange(10) * 1_000_000
    near = tolerance_us(Fraction(30), Fraction(1))
    assert (
        len(clip_starts(pts_us, None, offsets_us=clip_offsets_us(8, 1.0), tolerance_us=near)) == 3
    )
    assert (
        len(clip_starts(pts_us, None, offsets_us=clip_offsets_us(8, 0.5), tolerance_us=near)) == 0
    )


@pytest.mark.parametrize(("length", "interval"), [(0, 1.0), (8, 0.0), (8, -1.0), (8, float("nan"))])
def test_a_clip_without_length_or_interval_is_refused(length, interval):
    with pytest.raises(ValueError, match="must be"):
        clip_offsets_us(length, interval)


class Shown(NamedTuple):
    pts_us: int
    is_corrupt: bool = False


def stretches(*parts, unit_us=1, jitter_us=0):
    """Return times of stretches of (frames a second, seconds), and their average rate."""
    periods = np.concatenate([np.full(rate * seconds, 1e6 / rate) for rate, seconds in parts])
    off_us = np.random.default_rng(0).uniform(-jitter_us, jitter_us, len(periods))
    pts_us = np.rint((np.cumsum(periods) - periods[0] + off_us - off_us[0]) / unit_us) * unit_us
    seconds = sum(seconds for _, seconds in parts)
    return pts_us.astype(np.int64), Fraction(len(periods), seconds)


def taken(pts_us, fps):
    """Return the frames that a set of so many frames a second has, and their numbers."""
    if fps is None:
        return pts_us, np.arange(len(pts_us), dtype=np.int32)
    sampler = TickSampler[Shown](Fraction(fps))
    found = [kept for pts in pts_us.tolist() for kept in sampler.push(Shown(pts))]
    found += sampler.finish()
    return (
        np.array([frame.pts_us for _, frame in found]),
        np.array([tick for tick, _ in found], np.int32),
    )


def breaks(pts_us, numbers, fps, average):
    tolerance = tolerance_us(fps and Fraction(fps), average)
    found = is_break(
        pts_us,
        numbers,
        None,
        is_native=fps is None,
        tolerance_us=tolerance,
        longest_pause_us=500_000,
    )
    return np.flatnonzero(found).tolist()


VARYING = [[(30, 4), (15, 4), (30, 4)], [(60, 3), (24, 3), (60, 3), (15, 3)]]


@pytest.mark.parametrize("fps", [None, 30])
@pytest.mark.parametrize("jitter_us", [0, 4_000])
@pytest.mark.parametrize("parts", VARYING)
def test_a_slower_stretch_is_no_row_of_holes(parts, jitter_us, fps):
    pts_us, average = stretches(*parts, jitter_us=jitter_us)
    frames, numbers = taken(pts_us, fps)
    assert breaks(frames, numbers, fps, average) == []
    tolerance = tolerance_us(fps and Fraction(fps), average)
    ends = range_starts(
        frames,
        numbers,
        None,
        is_native=fps is None,
        span_us=300_000,
        shortest_us=100_000,
        tolerance_us=tolerance,
    )
    assert len(ends) == np.count_nonzero(frames <= frames[-1] - 300_000 + tolerance)


@pytest.mark.parametrize("fps", [None, 30])
@pytest.mark.parametrize("parts", VARYING)
@pytest.mark.parametrize("interval", [0.1, 0.237, 0.5])
def test_each_moment_of_a_slower_stretch_has_a_frame(parts, fps, interval):
    pts_us, average = stretches(*parts)
    frames, _ = taken(pts_us, fps)
    tolerance = tolerance_us(fps and Fraction(fps), average)
    offsets = clip_offsets_us(8, interval)
    starts = clip_starts(frames, None, offsets_us=offsets, tolerance_us=tolerance)
    whole = np.count_nonzero(frames <= frames[-1] - offsets[-1] + tolerance)
    assert whole - 1 <= len(starts) <= whole + 1  # at the end the tolerance is of the stretch


@pytest.mark.parametrize("fps", [None, 30])
@pytest.mark.parametrize("rate", [24, 30, 48, 60])
def test_times_in_whole_milliseconds_are_no_holes(rate, fps):
    frames, numbers = taken(stretches((rate, 6), unit_us=1000)[0], fps)
    assert breaks(frames, numbers, fps, Fraction(rate)) == []


@pytest.mark.parametrize("fps", [None, 30])
def test_a_missing_frame_is_a_hole_in_each_stretch(fps):
    pts_us, average = stretches((30, 4), (15, 4), (30, 4))
    frames, numbers = taken(pts_us, fps)
    missing = [40, 150, 153, 160, 200]
    frames, numbers = np.delete(frames, missing), np.delete(numbers, missing)
    before = [row - number for number, row in enumerate(missing)]
    assert breaks(frames, numbers, fps, average) == before


def test_a_pause_of_the_source_is_a_break_beyond_half_a_second_where_every_frame_is_taken():
    pts_us, average = stretches((30, 4))
    pts_us[40:] += 400_000
    pts_us[80:] += 600_000
    assert breaks(pts_us, np.arange(120, dtype=np.int32), None, average) == [80]


@settings(deadline=None, max_examples=60)
@given(st.integers(5, 120), st.sampled_from([None, 10, 24, 30, 50]), st.sampled_from([1, 1000]))
def test_a_steady_source_has_no_slower_stretch(rate, fps, unit_us):
    frames, _ = taken(stretches((rate, 3), unit_us=unit_us)[0], fps)
    tolerance = tolerance_us(fps and Fraction(fps), Fraction(rate))
    for interval in (0.05, 0.237):
        offsets = clip_offsets_us(3, interval)
        starts = clip_starts(frames, None, offsets_us=offsets, tolerance_us=tolerance)
        expected = brute_force_starts(frames.tolist(), [-1] * len(frames), offsets, tolerance)
        assert starts.tolist() == expected
