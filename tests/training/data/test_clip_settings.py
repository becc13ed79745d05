"""`data.*`: what a run sees of its shard set, and what its checkpoints say of it."""

import numpy as np
import pytest

from tests.support.shard_set import write_shard_set
from training.config.sections import DataConfig
from training.data.clips import ShardClips
from training.data.source import DataIdentity
from wtours.errors import ShardError
from wtours.shards import IntervalRange, ShardIndex
from wtours.shards.schema import set_sha256
from wtours.shards.split import split_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("settings") / "set"
    return write_shard_set(folder, num_frames=60, size=(16, 16), videos=("a", "b"))


def seen(shards, **data):
    """Return the times in seconds of the first clips of a run."""
    config = DataConfig(**data)
    clips = ShardClips(shards, config)
    sampler = clips.sampler(config, seed=0)
    described = [clips.describe(sampler.key_at(position)) for position in range(24)]
    return [(d["video_id"], [t // 1_000_000 for t in d["pts_us"]]) for d in described]


def test_a_config_says_what_the_clips_are(shards):
    ranged = seen(shards, clip_length=3, frame_interval_seconds={"min": 1, "max": 4})
    assert {times[-1] - times[0] for _, times in ranged} > {3, 5}
    listed = seen(shards, clip_length=3, frame_interval_seconds=[2, 5])
    assert {(b - a, c - b) for _, (a, b, c) in listed} == {(2, 5)}
    near = seen(shards, clip_length=2, clips_per_neighborhood=4, neighborhood_seconds=6)
    for group in range(6):
        clips = near[4 * group : 4 * group + 4]
        assert len({video for video, _ in clips}) == 1
        assert np.ptp([times[0] for _, times in clips]) <= 12
    spaced = seen(shards, clip_length=2, min_start_distance_seconds=10)
    assert {times[0] % 10 for _, times in spaced} == {0}
    even = [video for video, _ in seen(shards, clip_length=2, clips_per_video=3)]
    assert all(sorted(even[n : n + 6]) == ["a"] * 3 + ["b"] * 3 for n in range(0, 24, 6))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            {"frame_interval_seconds": [1.0]},
            "data.frame_interval_seconds lists 1 interval, and a clip of 8",
        ),
        ({"frame_interval_seconds": {"min": 2, "max": 1}}, "must be at most max"),
        ({"frame_interval_seconds": {"min": 0, "max": 1}}, "greater than 0"),
        ({"clips_per_video": 2, "clips_per_epoch": 4}, "goes without"),
        ({"clips_per_epoch": 5, "clips_per_neighborhood": 2}, "must be a multiple"),
        (
            {"clips_per_video": 5, "clips_per_neighborhood": 2},
            r"data\.clips_per_video \(5\) must be a multiple of data\.clips_per_neighborhood",
        ),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(data, said):
    with pytest.raises(ValueError, match=said):
        DataConfig(**data)


def test_the_range_comes_back_from_a_saved_config():
    data = DataConfig(frame_interval_seconds=IntervalRange(min=0.25, max=0.5))
    assert DataConfig.model_validate(data.model_dump(mode="json")) == data
    assert data.mean_interval_seconds == 0.375


def test_a_checkpoint_names_the_set_by_its_hash_and_older_ones_still_open(shards):
    index = ShardIndex.open(shards)
    identity = ShardClips(shards, DataConfig(clip_length=2)).identity
    assert identity.recorded() == {
        "index_sha256": index.dataset.index.sha256,
        "num_clips": 118,
        "set_sha256": set_sha256(index.dataset.shards),
    }
    older = DataIdentity(identity.index_sha256, identity.num_clips)
    assert older.is_of(identity)
    assert identity.is_of(older)
    assert not identity.is_of(DataIdentity(identity.index_sha256, 118, set_sha256="0" * 64))


def test_another_split_is_other_data(shards):
    with pytest.raises(ShardError, match=r"has no split\.json"):
        ShardClips(shards, DataConfig(clip_length=2, split="train"))
    index, identities = ShardIndex.open(shards), []
    for seed in (0, 3):
        split_shards(index, val_share=0.3, block_seconds=20, gap_seconds=4, seed=seed)
        identities.append(ShardClips(shards, DataConfig(clip_length=2, split="train")).identity)
    assert identities[0].set_sha256 == identities[1].set_sha256
    assert not identities[0].is_of(identities[1])
