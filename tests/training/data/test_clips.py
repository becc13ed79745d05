import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.support.shard_set import TINY, write_shard_set
from training.config.presets import resolve_config
from training.data.clips import crop_frames, open_clips, steps_in_epoch
from training.data.loader import RankPositions, batches
from training.distributed.world import World
from training.engine.setup import build_views
from wtours.errors import ShardError, TrainingError, UsageError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shard_set(tmp_path_factory.mktemp("data") / "shards")


def batches_of(shards, *, rank=0, world_size=1, start=0, end=4, overrides=()):
    config = resolve_config("official", None, [*TINY, *overrides])
    views = build_views(open_clips(shards, config.data), config)
    return list(batches(views, World(rank, world_size, rank, CPU), config, start, end))


def assert_equal(first, second):
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_two_ranks_get_the_halves_of_one_ranks_batch(shards):
    whole = batches_of(shards)
    halves = [batches_of(shards, rank=rank, world_size=2) for rank in range(2)]
    for step, batch in enumerate(whole):
        assert batch.frames.shape == (4, 3, 3, 40, 40)
        assert batch.frames.dtype == torch.uint8
        for rank in range(2):
            assert_equal(halves[rank][step].frames, batch.frames[2 * rank : 2 * rank + 2])
            for ours, all_of_them in zip(
                halves[rank][step].draws.local_color, batch.draws.local_color, strict=True
            ):
                assert_equal(ours, all_of_them[2 * rank : 2 * rank + 2])


def test_starting_later_gives_the_same_batches_from_there(shards):
    assert_equal(batches_of(shards, start=0, end=12)[4:], batches_of(shards, start=4, end=12))


@pytest.mark.medium
def test_the_number_of_workers_changes_nothing(shards):
    assert_equal(batches_of(shards, overrides=["data.num_workers=2"]), batches_of(shards))


def test_positions_of_all_ranks_are_the_global_batches_in_order():
    ranks = [list(RankPositions(6, rank, 3, range(2, 4))) for rank in range(3)]
    assert [ranks[r][0] for r in range(3)] == [[12, 13], [14, 15], [16, 17]]
    assert [ranks[r][1] for r in range(3)] == [[18, 19], [20, 21], [22, 23]]


def test_a_frame_crop_is_bilinear_without_antialias_to_half_a_level():
    frames = np.random.default_rng(0).integers(0, 256, (2, 50, 70, 3), np.uint8)
    ours = crop_frames(list(frames), np.array([5, 9, 40, 50]), pixels=32)
    images = torch.from_numpy(frames[:, 5:45, 9:59]).permute(0, 3, 1, 2).float()
    expected = F.interpolate(images, (32, 32), mode="bilinear")
    assert (ours.float() - expected).abs().max() <= 1.0
    assert (ours.float() - expected).abs().mean() < 0.35


def test_a_position_is_described_so_that_its_clip_can_be_found_again(shards):
    config = resolve_config("official", None, list(TINY))
    clips = open_clips(shards, config.data)
    views = build_views(clips, config)
    described = views.describe(5)
    clip = clips[views.sampler.clip_at(5)]
    assert described["video_id"] == clip.video_id == "street"
    assert described["pts_us"] == list(clip.pts_us)
    assert described["frame_index"] == [pts // 1_000_000 for pts in clip.pts_us]


def test_too_few_clips_for_a_batch_name_both_numbers():
    data = resolve_config("official", None, []).data
    assert steps_in_epoch(300, data, global_batch_size=128) == 2
    with pytest.raises(TrainingError, match=r"an epoch of 22 clips .* a batch of 128: lower optim"):
        steps_in_epoch(22, data, global_batch_size=128)


def test_a_batch_that_the_ranks_cannot_share_is_a_usage_error(shards):
    with pytest.raises(UsageError, match=r"\(4\) must be a multiple of the number of ranks \(3\)"):
        batches_of(shards, world_size=3)


@pytest.mark.parametrize("workers", ["0", pytest.param("1", marks=pytest.mark.medium)])
def test_a_damaged_shard_is_one_line_with_and_without_workers(tmp_path, workers):
    directory = write_shard_set(tmp_path / "shards")
    config = resolve_config("official", None, [*TINY, f"data.num_workers={workers}"])
    views = build_views(open_clips(directory, config.data), config)
    tar = directory / "street-00000.tar"
    tar.write_bytes(bytes(tar.stat().st_size))
    with pytest.raises(ShardError, match="is damaged") as caught:
        list(batches(views, World(0, 1, 0, CPU), config, 0, 4))
    assert "\n" not in str(caught.value)
