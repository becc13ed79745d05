"""What a walk may be asked to be, and the times that follow."""

import dataclasses
from fractions import Fraction

import pytest

from wtours.synthetic import WalkSpec


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seconds": 0.0}, r"seconds \(0.0\) must hold"),
        ({"seconds": float("nan")}, r"seconds \(nan\)"),
        ({"width": 321}, r"width \(321\) must be even"),
        ({"height": 10_000}, r"height \(10000\) must be even, from 64 to 4096"),
        ({"frame_rate": 0}, r"frame_rate \(0\) must be from 1 to 240"),
        ({"seed": -1}, r"seed \(-1\)"),
        ({"light_start": 1.2}, r"light_start \(1.2\)"),
        ({"light_end": 0.1}, r"light_end \(0.1\)"),
        ({"light_start": 0.4, "light_end": 0.6}, r"light must fall"),
        ({"cut_seconds": (4.0, 4.5)}, r"a street of 15 frames; each needs 30"),
        ({"cut_seconds": (6.0, 3.0)}, r"a street of -90 frames"),
        ({"cut_seconds": (0.5,)}, r"a street of 15 frames"),
        ({"cut_seconds": (9.5,)}, r"a street of 15 frames"),
    ],
)
def test_an_impossible_walk_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(WalkSpec(seconds=10), **change)


def test_frames_cuts_and_times_follow_from_an_odd_frame_rate():
    spec = WalkSpec(seconds=10, frame_rate=Fraction(30000, 1001), cut_seconds=(2, 5))
    assert spec.num_frames == 300
    assert spec.cut_frames == (60, 150)
    assert [spec.pts_us(index) for index in (0, 1, 60)] == [0, 33367, 2002000]
    assert [spec.street_of(index) for index in (0, 59, 60, 149, 150, 299)] == [0, 0, 1, 1, 2, 2]


def test_the_light_falls_linearly_from_the_first_frame_to_the_last():
    spec = WalkSpec(seconds=1, frame_rate=5, light_start=0.9, light_end=0.5)
    light = [spec.lightness(index) for index in range(spec.num_frames)]
    assert light == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5])
