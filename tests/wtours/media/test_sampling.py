from dataclasses import dataclass
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.sampling import nearest_per_tick
from tests.support.sharded_videos import expected_ticks
from wtours.media.sampling import tick_of, tick_period_us


@dataclass(frozen=True)
class At:
    pts_us: int
    is_corrupt: bool = False


rates = st.sampled_from(
    [Fraction(30), Fraction(30000, 1001), Fraction(1), Fraction(24), Fraction(7, 3)]
)
times = st.lists(st.integers(0, 3_000_000), min_size=1, max_size=60, unique=True).map(sorted)


def test_the_nearest_frame_of_each_tick_is_kept_by_hand():
    frames = [At(ms * 1000) for ms in (0, 20, 40, 60, 80, 100)]  # 50 frames a second
    kept = [(tick, f.pts_us) for tick, f in nearest_per_tick(frames, Fraction(30))]
    assert kept == [(0, 0), (1, 40_000), (2, 60_000), (3, 100_000)]


def test_of_two_frames_as_near_the_earlier_is_kept():
    frames = [At(900_000), At(1_100_000)]
    assert list(nearest_per_tick(frames, Fraction(1))) == [(1, At(900_000))]


def test_a_corrupt_frame_leaves_its_tick_to_the_next_nearest_or_to_nobody():
    frames = [At(0), At(20_000), At(40_000, is_corrupt=True), At(100_000, is_corrupt=True)]
    assert list(nearest_per_tick(frames, Fraction(30))) == [(0, At(0)), (1, At(20_000))]


@settings(deadline=None)
@given(st.integers(0, 10**11), rates)
def test_a_frame_belongs_to_the_tick_at_most_half_a_period_away(pts_us, rate):
    distance = Fraction(pts_us, 1_000_000) * rate - tick_of(pts_us, rate)
    assert Fraction(-1, 2) <= distance < Fraction(1, 2)


@settings(deadline=None)
@given(times, rates)
def test_what_is_kept_is_what_the_definition_says_tick_by_tick(pts_us, rate):
    kept = {tick: f.pts_us for tick, f in nearest_per_tick(map(At, pts_us), rate)}
    assert kept == expected_ticks(pts_us, rate)


@settings(deadline=None)
@given(times, rates, st.integers(100_000, 2_000_000))
def test_segments_read_with_a_margin_of_one_tick_give_what_the_whole_gives(pts_us, rate, length):
    margin = tick_period_us(rate)
    whole = list(nearest_per_tick(map(At, pts_us), rate))
    parts = []
    for start in range(0, pts_us[-1] + 1, length):
        seen = [At(p) for p in pts_us if start - margin <= p < start + length + margin]
        kept = nearest_per_tick(seen, rate)
        parts += [(tick, f) for tick, f in kept if start <= f.pts_us < start + length]
    assert parts == whole
