"""Ranges, lists, neighborhoods, distances and splits: what a clip may be, and in what order.

The index is an object in memory: no frame is read, and hypothesis may draw any times and cuts.
"""

import itertools
import json
import pickle
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from tests.support.shard_set import write_shard_set
from wtours.errors import ShardError, UsageError
from wtours.media.sampling import TickSampler
from wtours.shards import ClipBatches, ClipDataset, IntervalRange, ShardIndex
from wtours.shards.clip_starts import is_break, nearest_rows, range_starts, tolerance_us
from wtours.shards.split import SPLIT_FILE, frames_of_parts, split_shards

RANGE = IntervalRange(min=1.0, max=3.0)


@dataclass(frozen=True)
class Frame:
    """A decoded frame, as far as sampling is concerned."""

    pts_us: int
    is_corrupt: bool = False


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """Return a set of three videos of 60 s at one frame a second; each has cuts at 20 and 40 s."""
    folder = tmp_path_factory.mktemp("clips") / "set"
    found = ShardIndex.open(
        write_shard_set(folder, num_frames=60, size=(16, 16), videos=("a", "b", "c"))
    )
    found.shot[:] = np.tile(np.arange(60) // 20, 3)
    return found


def facts(dataset, key):
    """Return a clip's video, times in seconds and shots."""
    rows = dataset.clip_rows(key)
    pts = [int(dataset.index.pts_us[row]) // 1_000_000 for row in rows]
    return dataset.index.video_of(rows[0]).video_id, pts, dataset.index.shot[rows].tolist()


def test_each_clip_draws_its_interval_and_none_goes_over_a_cut(index):
    dataset = ClipDataset(index, clip_length=4, frame_interval_seconds=RANGE)
    sampler = dataset.sampler(seed=0)
    spans = set()
    for position in range(len(dataset)):
        _, pts, shots = facts(dataset, sampler.key_at(position))
        assert len(set(shots)) == 1
        assert len(set(pts)) == 4
        spans.add(pts[-1] - pts[0])
    assert spans == set(range(3, 10))
    # From each start the longest clip fits: 20 frames of a shot, less nine.
    assert len(dataset) == 9 * 11
    with pytest.raises(ValueError, match="each clip draws its interval"):
        dataset[0]


@given(
    gaps=st.lists(st.sampled_from([90_000, 100_000, 110_000, 300_000]), min_size=1, max_size=60),
    cuts=st.lists(st.booleans(), min_size=60, max_size=60),
    known=st.lists(st.booleans(), min_size=60, max_size=60),
    length=st.integers(2, 4),
    low=st.integers(120_000, 250_000),
    extra=st.integers(0, 300_000),
    draw=st.floats(0, 1, exclude_max=True),
)
def test_any_draw_from_a_start_has_near_frames_of_one_shot(
    gaps, cuts, known, length, low, extra, draw
):
    pts = np.cumsum([0, *gaps])
    shot = np.cumsum(cuts[: len(pts)]).astype(np.int32) if len(pts) <= 60 else None
    if shot is not None:
        shot = np.where(known[: len(pts)], shot, -1).astype(np.int32)
    near = 60_000
    starts = range_starts(
        pts,
        np.arange(len(pts), dtype=np.int32),
        shot,
        is_native=True,
        span_us=(length - 1) * (low + extra),
        shortest_us=low,
        tolerance_us=near,
    )
    interval = low + draw * extra
    for start in starts.tolist():
        moments = [round(pts[start] + i * interval) for i in range(length)]
        rows = [int(np.abs(pts - moment).argmin()) for moment in moments]
        assert all(
            abs(pts[row] - moment) <= near for row, moment in zip(rows, moments, strict=True)
        )
        assert len(set(rows)) == length
        if shot is not None:
            between = shot[rows[0] : rows[-1] + 1]
            assert len(set(between[between >= 0].tolist())) <= 1


@pytest.mark.parametrize(("source", "sampled"), [("60000/1001", 30), (30, 25), (30, 20), (25, 24)])
def test_frames_that_are_no_whole_number_of_source_frames_apart_miss_none(source, sampled):
    rate, period_us = Fraction(source), 1_000_000 / Fraction(source)
    sampler = TickSampler[Frame](Fraction(sampled))
    times = [round(number * period_us) for number in range(int(20 * rate))]
    taken = [one for pts in times for one in sampler.push(Frame(pts))] + sampler.finish()
    ticks = np.array([tick for tick, _ in taken])
    pts_us = np.array([frame.pts_us for _, frame in taken])
    assert (np.diff(ticks) == 1).all()
    near = tolerance_us(Fraction(sampled), rate)
    lost = len(ticks) // 2
    for kept, has_break in ((slice(None), False), (ticks != lost, True)):
        breaks = is_break(pts_us[kept], ticks[kept], None, is_native=False, tolerance_us=near)
        assert pts_us[kept][breaks].tolist() == ([pts_us[lost + 1]] if has_break else [])
    starts = range_starts(
        pts_us,
        ticks,
        None,
        is_native=False,
        span_us=900_000,
        shortest_us=100_000,
        tolerance_us=near,
    )
    # All but those at the end and a few whose last moment lies between two frames.
    assert len(starts) > 0.7 * len(ticks)
    for start in starts.tolist():
        for interval_us in (100_000, 211_111, 300_000):
            moments = pts_us[start] + interval_us * np.arange(4)
            rows = nearest_rows(pts_us, moments)
            assert (np.diff(rows) > 0).all()
            assert (np.abs(pts_us[rows] - moments) <= near + period_us / 2).all()


def test_a_range_shorter_than_the_sampling_has_no_clip(index):
    short = IntervalRange(min=0.2, max=2.0)
    with pytest.raises(ShardError, match=r"no clip of 2 frames 0.2 to 2 s apart"):
        ClipDataset(index, clip_length=2, frame_interval_seconds=short)
    with pytest.raises(ValueError, match="must be at most max"):
        IntervalRange(min=2, max=1)


def test_a_list_gives_each_gap(index):
    dataset = ClipDataset(index, clip_length=4, frame_interval_seconds=[1.0, 5.0, 2.0])
    assert facts(dataset, 0)[1] == [0, 1, 6, 8]
    with pytest.raises(ValueError, match="must have 3 intervals for a clip of 4 frames, got 1"):
        ClipDataset(index, clip_length=4, frame_interval_seconds=[1.0])
    for wrong in (0.0, float("nan"), float("inf"), -1.0, 1e13, 1e300):
        with pytest.raises(ValueError, match="frame_interval_seconds must be > 0"):
            ClipDataset(index, clip_length=2, frame_interval_seconds=[wrong])


def test_a_range_of_one_interval_is_that_interval(index):
    plain = ClipDataset(index, clip_length=3, frame_interval_seconds=2.0)
    ranged = ClipDataset(
        index, clip_length=3, frame_interval_seconds=IntervalRange(min=2.0, max=2.0)
    )
    assert ranged.starts.tolist() == plain.starts.tolist()
    assert all(ranged.clip_rows((n, 0.7)) == plain.clip_rows(n) for n in range(len(plain)))


@pytest.mark.parametrize("per_neighborhood", [1, 3, 4])
def test_every_rank_worker_and_resume_sees_the_same_clips(index, per_neighborhood):
    def batches(rank=0, world_size=1, first_step=0, num_steps=12):
        dataset = ClipDataset(index, clip_length=2, frame_interval_seconds=RANGE)
        sampler = dataset.sampler(
            seed=5, clips_per_epoch=24, clips_per_neighborhood=per_neighborhood
        )
        sampler = pickle.loads(pickle.dumps(sampler))  # as in a worker
        return list(
            ClipBatches(
                sampler, 12, num_steps, first_step=first_step, rank=rank, world_size=world_size
            )
        )

    alone = batches()
    assert batches(first_step=7, num_steps=5) == alone[7:]
    for world_size in (2, 3, 4):
        ranks = [batches(rank, world_size) for rank in range(world_size)]
        steps = zip(*ranks, strict=True)
        assert [list(itertools.chain(*step)) for step in steps] == alone
    keys = [key for step in alone for key in step]
    draws = [draw for _, draw in keys]
    assert len(set(draws)) == len(draws)
    assert 0.4 < np.mean(draws) < 0.6


def test_clips_of_a_neighborhood_are_near_distinct_and_of_one_shot(index):
    dataset = ClipDataset(index, clip_length=2)
    sampler = dataset.sampler(seed=1, clips_per_neighborhood=4, neighborhood_seconds=5)
    assert sampler.clips_per_epoch % 4 == 0
    assert len(dataset) - sampler.clips_per_epoch in range(4)
    seen = []
    for group in range(sampler.clips_per_epoch // 4):
        clips = [facts(dataset, sampler.key_at(4 * group + member)) for member in range(4)]
        video_id, (first, *_), shots = clips[0]
        seen.append((video_id, first))
        assert len({pts[0] for _, pts, _ in clips}) == 4
        for other, pts, others in clips:
            assert (other, others) == (video_id, shots)
            assert abs(pts[0] - first) <= 5
    assert len(set(seen)) == len(seen)  # no neighborhood's first clip comes twice in an epoch
    with pytest.raises(ValueError, match="must be a multiple of clips_per_neighborhood"):
        dataset.sampler(seed=1, clips_per_neighborhood=4, clips_per_epoch=10)


def test_a_neighborhood_of_one_clip_repeats_it(index):
    dataset = ClipDataset(index, clip_length=2, min_start_distance_seconds=40)
    sampler = dataset.sampler(seed=1, clips_per_neighborhood=2, neighborhood_seconds=1)
    assert sampler.clip_at(0) == sampler.clip_at(1)


@given(seconds=st.floats(0.5, 50))
def test_no_two_starts_are_nearer_than_the_distance(seconds, index):
    dataset = ClipDataset(index, clip_length=2, min_start_distance_seconds=seconds)
    for video in dataset.index.videos:
        starts = dataset.starts[(dataset.starts >= video.start) & (dataset.starts < video.stop)]
        pts = dataset.index.pts_us[starts]
        assert (np.diff(pts) >= round(seconds * 1e6)).all()
        every = ClipDataset(dataset.index, clip_length=2).starts
        own = every[(every >= video.start) & (every < video.stop)]
        # Nothing is left out that had room: each start left out is near to one before it.
        for row in set(own.tolist()) - set(starts.tolist()):
            before = pts[pts <= dataset.index.pts_us[row]]
            assert dataset.index.pts_us[row] - before[-1] < round(seconds * 1e6)


def test_an_epoch_has_as_many_clips_of_each_video(index):
    sampler = ClipDataset(index, clip_length=2).sampler(seed=3, clips_per_video=7)
    assert len(sampler) == 21
    dataset = ClipDataset(index, clip_length=2)
    for epoch in range(3):
        videos = [facts(dataset, sampler.clip_at(21 * epoch + i))[0] for i in range(21)]
        assert {video: videos.count(video) for video in "abc"} == {"a": 7, "b": 7, "c": 7}
    pairs = dataset.sampler(seed=3, clips_per_video=6, clips_per_neighborhood=2)
    videos = [facts(dataset, pairs.clip_at(i))[0] for i in range(18)]
    assert [videos.count(video) for video in "abc"] == [6, 6, 6]
    with pytest.raises(ValueError, match="clips_per_video goes without"):
        dataset.sampler(seed=0, clips_per_video=7, clips_per_epoch=3)
    with pytest.raises(
        ValueError, match=r"clips_per_video \(7\) must be a multiple of clips_per_n"
    ):
        dataset.sampler(seed=0, clips_per_video=7, clips_per_neighborhood=3)


@given(
    length=st.integers(1, 3),
    interval=st.sampled_from([1.0, 2.5, RANGE, IntervalRange(min=1.0, max=1.5), "list"]),
    distance=st.sampled_from([0.0, 3.0, 7.5]),
    size=st.integers(1, 3),
    order=st.sampled_from(["all", "epoch", "video", "mixture"]),
    is_split=st.booleans(),
    seed=st.integers(0, 9),
    ranks=st.sampled_from([1, 2, 3, 6]),
    stop=st.integers(0, 7),
)
def test_settings_together_are_one_stream_for_ranks_workers_and_resumes(
    index, length, interval, distance, size, order, is_split, seed, ranks, stop
):
    if is_split:
        split_shards(index, val_share=0.3, block_seconds=20, gap_seconds=2, seed=1)
    gaps: list[float] = [1.0, 2.0][: length - 1]
    of_order: dict[str, dict[str, Any]] = {
        "all": {},
        "epoch": {"clips_per_epoch": 6 * size},
        "video": {"clips_per_video": 2 * size},
        "mixture": {"mixture": {"a": 2, "b": 1}, "clips_per_epoch": 9 * size},
    }

    def worker():
        """Return dataset and sampler as another process has them."""
        dataset = ClipDataset(
            index,
            clip_length=length,
            frame_interval_seconds=gaps if interval == "list" else interval,
            min_start_distance_seconds=distance,
            split="train" if is_split else None,
        )
        sampler = dataset.sampler(
            seed=seed, clips_per_neighborhood=size, neighborhood_seconds=5, **of_order[order]
        )
        return dataset, pickle.loads(pickle.dumps(sampler))

    def clips(first_step=0, rank=0, world_size=1):
        dataset, sampler = worker()
        batches = ClipBatches(
            sampler, 6, 8 - first_step, first_step=first_step, rank=rank, world_size=world_size
        )
        return [[dataset.clip_rows(key) for key in batch] for batch in batches]

    alone = clips()
    assert clips(first_step=stop) == alone[stop:]
    shares = zip(*(clips(stop, rank, ranks) for rank in range(ranks)), strict=True)
    assert [list(itertools.chain(*share)) for share in shares] == alone[stop:]
    for rows in itertools.chain(*alone):
        assert len(rows) == length
        assert len(set(index.shot[rows].tolist())) == 1
        assert len({index.video_of(row).video_id for row in rows}) == 1


@pytest.mark.parametrize("seed", range(5))
def test_train_and_val_are_as_far_apart_as_asked(index, seed):
    split_shards(index, val_share=0.3, block_seconds=20, gap_seconds=6.5, seed=seed)
    held = {}
    for part in ("train", "val"):
        dataset = ClipDataset(
            index, clip_length=2, frame_interval_seconds=RANGE, across_cuts=True, split=part
        )
        assert dataset.split is not None
        assert dataset.split.part == part
        sampler = dataset.sampler(seed=0)
        frames = {
            (video, second)
            for n in range(len(dataset))
            for video, pts, _ in [facts(dataset, (n, sampler.draw_at(n)))]
            for second in pts
        }
        held[part] = frames
    assert min(len(frames) for frames in held.values()) > 10
    assert all(
        abs(second - other) >= 6.5
        for video, second in held["train"]
        for name, other in held["val"]
        if name == video
    )
    again = (index.directory / SPLIT_FILE).read_bytes()
    split_shards(index, val_share=0.3, block_seconds=20, gap_seconds=6.5, seed=seed)
    assert (index.directory / SPLIT_FILE).read_bytes() == again


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"block_seconds": 1e-7, "gap_seconds": 0},
            r"--gap-seconds \(0\) < --block-seconds \(1e-07\)",
        ),
        ({"block_seconds": 1, "gap_seconds": 0.9999996}, "a split needs"),
        (
            {"block_seconds": 1e-4, "gap_seconds": 0},
            "more than 100,000 blocks .* raise --block-seconds",
        ),
        ({"block_seconds": 100, "gap_seconds": 1}, "has a single block .* lower --block-seconds"),
    ],
)
def test_blocks_that_make_no_split_are_refused(tmp_path, options, said):
    own = ShardIndex.open(write_shard_set(tmp_path / "set", num_frames=60, size=(16, 16)))
    with pytest.raises(UsageError, match=said):
        split_shards(own, **options)
    assert not (tmp_path / "set" / SPLIT_FILE).exists()


def test_a_part_without_a_frame_is_refused_and_frames_are_counted(tmp_path):
    own = ShardIndex.open(write_shard_set(tmp_path / "set", num_frames=24, size=(16, 16)))
    outcomes = set()
    for seed in range(12):
        try:  # blocks of 11 s: the third has the last two frames, both in a gap of 6 s
            content = split_shards(own, block_seconds=11, gap_seconds=6, seed=seed)
        except UsageError as error:
            outcomes.add(str(error).partition(":")[0])
            continue
        frames = frames_of_parts(own, content)
        assert frames == {part: _held(own, part) for part in ("train", "val")}
        assert min(frames.values()) > 0
        outcomes.add("split")
    assert outcomes == {"val would have no frame", "split"}


def _held(index, part):
    """Count the frames of a part as clips of one frame."""
    return len(ClipDataset(index, clip_length=1, split=part))


def test_a_split_that_is_missing_damaged_or_of_other_videos_is_one_line(index, tmp_path):
    folder = write_shard_set(tmp_path / "set", num_frames=40, size=(16, 16), videos=("a",))
    own = ShardIndex.open(folder)
    with pytest.raises(ShardError, match=r"has no split.json; run `wtours shards split set`"):
        ClipDataset(own, clip_length=2, split="train")
    with pytest.raises(UsageError, match="a single block"):
        split_shards(own, block_seconds=100)
    split_shards(own, block_seconds=20, gap_seconds=2)
    content = json.loads((folder / SPLIT_FILE).read_text())
    with pytest.raises(ShardError, match="has no part 'test'; it has train, val"):
        ClipDataset(own, clip_length=2, split="test")
    changes: tuple[tuple[object, str], ...] = (
        (content | {"videos": ["b"], "blocks": []}, "was made of other videos"),
        (content | {"format": 2}, "is damaged .format"),
        (content | {"blocks": content["blocks"][::-1]}, "overlap, or are out of order"),
        ([], "is damaged .the file"),
    )
    for change, said in changes:
        (folder / SPLIT_FILE).write_text(json.dumps(change))
        with pytest.raises(ShardError, match=said) as refused:
            ClipDataset(own, clip_length=2, split="train")
        assert "\n" not in str(refused.value)
