import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wtours.shards import ClipBatches, ClipSampler, ClipShare
from wtours.shards.sampler import permuted


@settings(deadline=None)
@given(st.integers(1, 500), st.integers(0, 3), st.integers(0, 2**32))
def test_each_epoch_has_every_clip_once(num_clips, epoch, seed):
    sampler = ClipSampler(num_clips, seed=seed)
    positions = range(epoch * num_clips, (epoch + 1) * num_clips)
    assert sorted(map(sampler.clip_at, positions)) == list(range(num_clips))


@settings(deadline=None)
@given(st.integers(1, 10**12), st.data())
def test_a_large_permutation_stays_in_range_and_repeats_itself(size, data):
    index = data.draw(st.integers(0, size - 1))
    assert 0 <= permuted(index, size, key="0/0/0") < size
    assert permuted(index, size, key="0/0/0") == permuted(index, size, key="0/0/0")


def test_the_order_is_the_one_that_was_recorded():
    # A checkpoint holds only a position, so another order in a later version would be another run.
    assert [ClipSampler(1000, seed=7).clip_at(p) for p in (0, 1, 2, 999, 1000)] == [
        35,
        784,
        475,
        598,
        212,
    ]


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {
        tuple(ClipSampler(50, seed=seed).clip_at(epoch * 50 + i) for i in range(50))
        for seed in range(4)
        for epoch in range(4)
    }
    assert len(orders) == 16


def test_every_order_of_four_clips_comes_up_about_as_often():
    counts: dict[tuple[int, ...], int] = {}
    for seed in range(2400):
        order = tuple(ClipSampler(4, seed=seed).clip_at(i) for i in range(4))
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == math.factorial(4)
    # Chi-square with 23 degrees of freedom: 49.7 is passed once in a thousand times.
    assert sum((count - 100) ** 2 / 100 for count in counts.values()) < 49.7


def test_first_clips_spread_evenly_over_a_large_set():
    num_clips = 3_000_000
    tenths = [0] * 10
    for position in range(5000):
        tenths[ClipSampler(num_clips, seed=0).clip_at(position) * 10 // num_clips] += 1
    assert sum((count - 500) ** 2 / 500 for count in tenths) < 27.9  # 9 degrees, once in a thousand


def test_ranks_and_another_number_of_ranks_share_one_global_order():
    sampler = ClipSampler(101, seed=3)
    order = [sampler.clip_at(p) for p in range(96)]

    def steps(first, last, ranks, batch=8):
        per_rank = batch // ranks
        return [
            ClipSampler(101, seed=3).clip_at(step * batch + rank * per_rank + i)
            for step in range(first, last)
            for rank in range(ranks)
            for i in range(per_rank)
        ]

    assert steps(0, 5, ranks=1) + steps(5, 9, ranks=4) + steps(9, 12, ranks=2) == order


def test_an_epoch_shorter_than_the_set_has_no_clip_twice_and_the_next_draws_anew():
    sampler = ClipSampler(100, seed=0, clips_per_epoch=30)
    epochs = [{sampler.clip_at(e * 30 + i) for i in range(30)} for e in range(3)]
    assert [len(epoch) for epoch in epochs] == [30, 30, 30]
    assert epochs[0] != epochs[1] != epochs[2]
    assert len(sampler) == 30
    assert [sampler.epoch_of(p) for p in (0, 29, 30)] == [0, 0, 1]


def test_an_epoch_longer_than_the_set_has_every_clip_as_often_as_can_be():
    sampler = ClipSampler(10, seed=0, clips_per_epoch=25)
    clips = [sampler.clip_at(p) for p in range(25)]
    assert sorted(clips[:10]) == sorted(clips[10:20]) == list(range(10))
    assert len(set(clips[20:])) == 5
    assert clips[:10] != clips[10:20]


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="num_clips must be >= 1, got 0"):
        ClipSampler(0, seed=0)
    with pytest.raises(ValueError, match="clips_per_epoch must be >= 1, got 0"):
        ClipSampler(1, seed=0, clips_per_epoch=0)
    with pytest.raises(ValueError, match="position must be >= 0, got -1"):
        ClipSampler(1, seed=0).clip_at(-1)


def mixture_of(sizes: dict[str, int], weights: dict[str, int]) -> list[ClipShare]:
    firsts = [0, *itertools.accumulate(sizes.values())]
    ranges = {name: range(a, a + n) for (name, n), a in zip(sizes.items(), firsts, strict=False)}
    return [ClipShare(name, ranges[name], weight) for name, weight in weights.items()]


def mixed(sizes, weights, **options) -> ClipSampler:
    options = {"seed": 0, **options}
    return ClipSampler(sum(sizes.values()), mixture=mixture_of(sizes, weights), **options)


names = st.sampled_from(["a", "b", "c", "d"])


@settings(deadline=None, max_examples=50)
@given(
    st.dictionaries(names, st.integers(1, 40), min_size=1),
    st.integers(1, 200),
    st.integers(0, 2),
    st.data(),
)
def test_a_mixture_keeps_its_weights_and_repeats_no_clip_before_it_must(sizes, epoch, skip, data):
    weights = {name: data.draw(st.integers(1, 7)) for name in sizes}
    sampler = mixed(sizes, weights, clips_per_epoch=epoch, seed=data.draw(st.integers(0, 99)))
    block, first = sum(weights.values()), skip * epoch
    clips = [sampler.clip_at(first + i) for i in range(epoch)]
    for share in sampler.mixture:
        for start in range(0, epoch - block + 1, block):
            drawn = [clip for clip in clips[start : start + block] if clip in share.clips]
            assert len(drawn) == share.weight
        counts = [clips.count(clip) for clip in share.clips]
        if -(-epoch // block) * share.weight <= len(share.clips):
            assert max(counts) <= 1
        if epoch % block == 0:
            assert max(counts) - min(counts) <= 1


def test_a_mixture_shuffles_the_videos_too_and_each_epoch_anew():
    sampler = mixed({"a": 50, "b": 50}, {"a": 1, "b": 1}, clips_per_epoch=40)
    of_a = [tuple(sampler.clip_at(e * 40 + i) < 50 for i in range(40)) for e in range(2)]
    assert of_a[0] != of_a[1]
    assert len(set(zip(of_a[0][::2], of_a[0][1::2], strict=True))) == 2  # (a, b) and (b, a)


def test_an_epoch_of_a_mixture_is_all_clips_of_its_videos():
    assert len(mixed({"a": 3, "b": 9}, {"b": 2})) == 9


def test_the_order_of_a_mixture_is_the_one_that_was_recorded():
    sampler = mixed({"a": 100, "b": 900}, {"a": 1, "b": 3}, seed=7)
    assert [sampler.clip_at(p) for p in (0, 1, 2, 3, 999, 1000)] == [965, 351, 81, 837, 729, 106]


@settings(deadline=None, max_examples=40)
@given(
    st.booleans(),
    st.lists(st.tuples(st.sampled_from([1, 2, 4]), st.integers(1, 5)), min_size=1, max_size=5),
)
def test_a_run_stopped_and_resumed_on_other_ranks_is_the_same_sequence(mix, parts):
    mixture = mixture_of({"a": 30, "b": 71}, {"a": 1, "b": 2}) if mix else ()

    def sampler():
        return ClipSampler(101, seed=3, clips_per_epoch=60, mixture=mixture)

    seen: list[int] = []
    step = 0
    for world_size, num_steps in parts:
        ranks = [
            list(ClipBatches(sampler(), 8, num_steps, step, rank, world_size))
            for rank in range(world_size)
        ]
        for batches in zip(*ranks, strict=True):
            seen += itertools.chain.from_iterable(batches)
        step += num_steps
    assert seen == [sampler().clip_at(position) for position in range(8 * step)]


def test_batches_say_how_many_they_are_and_refuse_what_does_not_divide():
    batches = ClipBatches(ClipSampler(9, seed=0), 4, num_steps=3)
    assert len(batches) == 3
    assert list(batches) == list(batches)
    with pytest.raises(ValueError, match=r"global_batch_size \(4\) must be a multiple of world_s"):
        ClipBatches(batches.sampler, 4, 1, world_size=3)
    with pytest.raises(ValueError, match=r"rank \(2\) must be 0 to 1"):
        ClipBatches(batches.sampler, 4, 1, rank=2, world_size=2)


def test_a_mixture_of_what_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"'a' has the clips range\(0, 4\), of 3 in all"):
        ClipSampler(3, seed=0, mixture=[ClipShare("a", range(4), 1)])
    with pytest.raises(ValueError, match="the weight of 'a' must be >= 1, got 0"):
        ClipSampler(3, seed=0, mixture=[ClipShare("a", range(3), 0)])
