"""Leases: in order, of one video, short where there is little to do."""

import itertools
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from wtours.execution.leases import MAX_LEASE, leases


@dataclass(frozen=True)
class Timed:
    video_id: str
    number: int


@given(st.lists(st.integers(0, 40), max_size=8), st.integers(1, 20))
def test_every_task_is_in_one_lease_of_its_video_in_order(lengths, num_workers):
    tasks = [Timed(f"v{v}", n) for v, length in enumerate(lengths) for n in range(length)]
    found = list(leases(tasks, num_workers))
    assert list(itertools.chain.from_iterable(found)) == tasks
    assert all(1 <= len(lease) <= MAX_LEASE for lease in found)
    assert all(len({task.video_id for task in lease}) == 1 for lease in found)


def test_a_short_set_keeps_every_worker_busy_and_a_long_one_amortizes():
    video = [Timed("v", n) for n in range(1000)]
    assert {len(lease) for lease in leases(video[:16], 4)} == {1}
    assert max(map(len, leases(video, 4))) == MAX_LEASE


def test_of_an_endless_set_only_what_is_needed_is_taken():
    taken = []

    def endless():
        for number in itertools.count():
            taken.append(number)
            yield Timed("v", number)

    assert len(list(itertools.islice(leases(endless(), 2), 10))) == 10
    assert len(taken) < 200
