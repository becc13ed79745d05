from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wtours.shards.clip_starts import clip_offsets_us, clip_starts, nearest_rows, tolerance_us


def brute_force_starts(pts_us, shots, offsets_us, tolerance):
    """Return the starts frame by frame, as docs/reference/shards.md puts it."""
    starts = []
    for start, first in enumerate(pts_us):
        rows = []
        for offset in offsets_us:
            moment = first + offset
            rows.append(min(range(len(pts_us)), key=lambda row: (abs(pts_us[row] - moment), row)))
        near = all(
            abs(pts_us[row] - first - offset) <= tolerance
            for row, offset in zip(rows, offsets_us, strict=True)
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
