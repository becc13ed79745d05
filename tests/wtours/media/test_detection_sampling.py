from dataclasses import dataclass
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.sampling import nearest_per_tick
from wtours.errors import UsageError
from wtours.media.sampling import EVERY_FRAME, TickSampler, parse_rate, tick_of


@dataclass(frozen=True)
class Timed:
    pts_us: int
    is_corrupt: bool = False


def pick(pts, rate, bounds=(0,)):
    """Pick in ranges that begin at `bounds`, each pushed from the frame before to the one after."""
    picked = []
    for start, end in zip(bounds, [*bounds[1:], None], strict=True):
        sampler = TickSampler[Timed](rate, start_us=start, end_us=end)
        before = [p for p in pts if p < start][-1:]
        inside = [p for p in pts if p >= start and (end is None or p < end)]
        after = [] if end is None else [p for p in pts if p >= end][:1]
        for p in [*before, *inside, *after]:
            picked += sampler.push(Timed(p))
        picked += sampler.finish()
    return [frame.pts_us for _, frame in picked]


def brute_force(pts, rate):
    chosen = []
    for tick in range(tick_of(pts[-1], rate) + 1):
        time = tick * 1_000_000 / rate
        half = Fraction(500_000) / rate
        near = [p for p in pts if time - half <= p < time + half]
        chosen += sorted(near, key=lambda p: (abs(p - time), p))[:1]
    return chosen


def test_30_and_60_frames_a_second_give_one_frame_a_second():
    for rate in (30, 60):
        pts = [round(i * 1_000_000 / rate) for i in range(5 * rate)]
        # The tick at 5 s is nearest to the last frame, so that one stands for it.
        assert pick(pts, Fraction(1)) == [0, 1_000_000, 2_000_000, 3_000_000, 4_000_000, pts[-1]]


def test_a_frame_serves_one_tick_and_a_gap_is_a_hole():
    assert pick([0, 1_000_000, 2_000_000], Fraction(4)) == [0, 1_000_000, 2_000_000]
    assert pick([0, 1_000_000, 5_200_000], Fraction(1)) == [0, 1_000_000, 5_200_000]


def test_the_earlier_of_two_equally_near_frames_is_taken():
    assert pick([0, 900_000, 1_100_000], Fraction(1)) == [0, 900_000]


def test_the_last_tick_may_lie_after_the_last_frame():
    assert pick([0, 600_000], Fraction(1)) == [0, 600_000]


@given(
    pts=st.lists(st.integers(0, 9_000_000), min_size=1, max_size=40, unique=True).map(sorted),
    rate=st.sampled_from([Fraction(1), Fraction(3, 10), Fraction(30000, 1001), Fraction(2)]),
    bounds=st.lists(st.integers(1, 9_500_000), max_size=4, unique=True).map(sorted),
)
def test_ranges_give_together_what_the_whole_gives_and_what_the_definition_says(pts, rate, bounds):
    whole = pick(pts, rate)
    assert whole == brute_force(pts, rate)
    assert pick(pts, rate, bounds=(0, *bounds)) == whole
    # Shards sample by the same rule.
    assert [f.pts_us for _, f in nearest_per_tick([Timed(p) for p in pts], rate)] == whole


def test_native_takes_every_frame_once():
    pts = [0, 1, 16_683, 16_684, 50_050]
    assert parse_rate("native") == EVERY_FRAME
    assert pick(pts, EVERY_FRAME) == pts


@pytest.mark.parametrize("text", ["0", "-1", "fast", "1/0", "nan", "", "2000000"])
def test_a_rate_that_makes_no_sense_is_refused(text):
    with pytest.raises(UsageError, match=r"--detect-fps '.*frames a second above 0, or native"):
        parse_rate(text)


def test_rates_are_exact():
    assert parse_rate("30000/1001") == Fraction(30000, 1001)
    assert parse_rate("0.1") == Fraction(1, 10)
