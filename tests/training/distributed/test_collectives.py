"""Several processes against one: what they compute together is what one computes alone."""

import contextlib

import pytest
import torch

from tests.support.forked_ranks import forked_ranks
from tests.support.shard_set import TINY, write_shard_set
from tests.support.two_ranks import on_two_ranks
from training.config.presets import resolve_config
from training.distributed.collectives import all_max, all_mean, all_sum, broadcast
from training.distributed.world import World
from training.engine.metrics import read_metrics
from training.pretrain import pretrain

ALONE = World(0, 1, 0, torch.device("cpu"))


def test_one_process_alone_gets_back_what_it_gave():
    value = torch.tensor([1.0, 2.0])
    assert all_sum(value) is all_max(value) is all_mean(value) is value
    assert broadcast("text", ALONE) == "text"


def together(rank):
    world = World(rank, 2, rank, torch.device("cpu"))
    value = torch.tensor([float(rank), 3.0 - rank])
    return [
        all_sum(value).tolist(),
        all_max(value).tolist(),
        all_mean(value).tolist(),
        broadcast("ö" if rank == 0 else "ignored", world),
        broadcast("", world),
    ]


@pytest.mark.medium
def test_two_processes_get_the_same_answer(tmp_path):
    expected = [[1.0, 5.0], [1.0, 3.0], [0.5, 2.5], "ö", ""]
    assert on_two_ranks(together, tmp_path) == [expected] * 2


def pretrain_on_two(shards, run_dir, overrides):
    pairs = [part for pair in (*TINY, *overrides) for part in ("--set", pair)]
    words = ("pretrain", shards, "--run", run_dir, *pairs)
    with forked_ranks(*words, folder=run_dir.with_name("ranks")) as ranks:
        said = [rank.end() for rank in ranks]
        assert [rank.exitcode for rank in ranks] == [0, 0], said
    return read_metrics(run_dir / "metrics.jsonl")


def pretrain_alone(shards, run_dir, overrides, *, stop_after=None):
    def interrupt(status):
        if status.step == stop_after:
            raise KeyboardInterrupt

    config = resolve_config("official", None, [*TINY, *overrides])
    with contextlib.suppress(KeyboardInterrupt):
        pretrain(config, shards_dir=shards, run_dir=run_dir, world=ALONE, on_step=interrupt)
    return read_metrics(run_dir / "metrics.jsonl")


def assert_close(ours, theirs):
    """Compare steps of runs whose sums have another order.

    1e-7 relative in one step; AdamW's first steps are sign-like and enlarge it from step to step.
    """
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for our, their in zip(ours, theirs, strict=True):
        assert our["lr"] == their["lr"]
        for name in ("loss", "loss_masked", "loss_local", "teacher_entropy", "mask_coverage"):
            assert our[name] == pytest.approx(their[name], rel=1e-4), (name, our["step"])


@pytest.mark.medium
@pytest.mark.parametrize(("views", "parts"), [(1, 1), (2, 2)])
def test_two_processes_train_as_one_with_the_same_global_batch(tmp_path, views, parts):
    shards = write_shard_set(tmp_path / "shards")
    overrides = ["optim.steps=6", f"data.global_crops={views}"]
    one = pretrain_alone(shards, tmp_path / "one", overrides)
    overrides += [f"optim.accumulation_steps={parts}"]
    assert_close(pretrain_on_two(shards, tmp_path / "two", overrides), one)


@pytest.mark.medium
def test_two_processes_go_on_with_a_run_of_one_with_batch_norm_and_sinkhorn(tmp_path):
    shards = write_shard_set(tmp_path / "shards")
    overrides = ["optim.steps=6", "checkpoint.every_steps=1"]
    overrides += ["model.head_batch_norm=true", "loss.teacher_centering=sinkhorn"]
    one = pretrain_alone(shards, tmp_path / "one", overrides)
    begun = pretrain_alone(shards, tmp_path / "both", overrides, stop_after=2)
    assert begun == [line | {"time": begun[i]["time"]} for i, line in enumerate(one[:2])]
    both = pretrain_on_two(shards, tmp_path / "both", overrides)
    assert both[:2] == begun
    assert_close(both, one)
