import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.support.shard_set import TINY, write_shard_set
from training.config.presets import resolve_config
from training.data.clips import crop_frames, open_clips
from training.data.loader import batches, rank_positions
from training.distributed.world import World
from training.engine.setup import open_views, run_length
from wtours.errors import ShardError, TrainingError, UsageError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shard_set(tmp_path_factory.mktemp("data") / "shards")


def batches_of(shards, *, rank=0, world_size=1, start=0, end=4, overrides=()):
    config = resolve_config("official", None, [*TINY, *overrides])
    views = open_views(shards, config)
    world = World(rank, world_size, rank, CPU)
    return list(batches(views, world, config, position=4 * start, steps=end - start))


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
    ranks = [rank_positions(6, World(rank, 3, rank, CPU), 12, 2) for rank in range(3)]
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
    views = open_views(shards, config)
    described = views.describe(5)
    clip = clips[views.sampler.clip_at(5)]
    assert described["video_id"] == clip.video_id == "street"
    assert described["pts_us"] == list(clip.pts_us)
    assert described["frame_index"] == [pts // 1_000_000 for pts in clip.pts_us]


def length_of(shards, *overrides):
    config = resolve_config("official", None, [*TINY, *overrides])
    return run_length(config, open_views(shards, config))


def test_an_epoch_has_whole_batches_and_steps_stretch_it(shards):
    by_epochs = length_of(shards, "optim.steps=null", "optim.epochs=100")  # 22 clips, 4 a step
    assert (by_epochs.steps, by_epochs.steps_per_epoch) == (500, 5)
    fewer = length_of(shards, "optim.steps=null", "optim.epochs=100", "data.clips_per_epoch=9")
    assert (fewer.steps, fewer.steps_per_epoch) == (200, 2)
    by_steps = length_of(shards, "optim.steps=200", "optim.epochs=100")
    assert (by_steps.steps, by_steps.steps_per_epoch) == (200, 2)


def test_too_few_clips_for_a_batch_name_both_numbers(shards):
    message = r"an epoch of 22 clips .* a batch of 128: --set optim\.global_batch_size=22"
    with pytest.raises(TrainingError, match=message):
        length_of(shards, "optim.global_batch_size=128")


def test_a_mixture_draws_videos_by_their_weights_on_any_number_of_ranks(tmp_path):
    shards = write_shard_set(tmp_path / "shards", videos=("alley", "beach", "canal"))
    config = resolve_config("official", None, [*TINY, "data.mixture={canal: 3, alley: 1}"])
    views = open_views(shards, config)
    drawn = [views.describe(position)["video_id"] for position in range(44)]
    for first in range(0, 44, 4):
        assert sorted(drawn[first : first + 4]) == ["alley", "canal", "canal", "canal"]
    assert len(views.sampler) == 44  # an epoch: the clips of both videos
    assert run_length(config, views).steps_per_epoch == 12 / 4
    halves = [
        list(batches(views, World(rank, 2, rank, CPU), config, position=0, steps=2))
        for rank in range(2)
    ]
    positions = [torch.cat([half[step].positions for half in halves]) for step in range(2)]
    assert torch.cat(positions).tolist() == list(range(8))


@pytest.mark.parametrize(
    ("mixture", "error", "message"),
    [
        ("{nowhere: 1}", ShardError, "no clip of 'nowhere' to mix in; it has street"),
        ("{street: 0}", UsageError, "data.mixture.street=0"),
        ("street", UsageError, "data.mixture='street'"),
    ],
)
def test_a_mixture_of_what_is_not_there_is_refused(shards, mixture, error, message):
    with pytest.raises(error, match=message):
        batches_of(shards, overrides=[f"data.mixture={mixture}"])


def test_a_batch_that_the_ranks_cannot_share_is_a_usage_error(shards):
    with pytest.raises(
        UsageError, match=r"\(4\) must be a multiple of the number of processes \(3\)"
    ):
        batches_of(shards, world_size=3)


@pytest.mark.parametrize("workers", ["0", pytest.param("1", marks=pytest.mark.medium)])
def test_a_damaged_shard_is_one_line_with_and_without_workers(tmp_path, workers):
    directory = write_shard_set(tmp_path / "shards")
    config = resolve_config("official", None, [*TINY, f"data.num_workers={workers}"])
    views = open_views(directory, config)
    tar = directory / "street-00000.tar"
    tar.write_bytes(bytes(tar.stat().st_size))
    with pytest.raises(ShardError, match="is damaged") as caught:
        list(batches(views, World(0, 1, 0, CPU), config, position=0, steps=4))
    assert "\n" not in str(caught.value)
