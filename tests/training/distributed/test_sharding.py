"""FSDP2 against DDP: the same run, its checkpoints read by all that read DDP's."""

import functools
import shutil
from pathlib import Path

import pytest
import torch

from tests.support.shard_set import TINY, write_shard_set
from tests.support.two_ranks import on_ranks
from training.config.presets import resolve_config
from training.distributed.sharding import is_sharded, local
from training.distributed.world import World
from training.engine.checkpoint import load_network
from training.engine.checkpoint_files import checkpoint_dir, find_checkpoint
from training.engine.metrics import read_metrics
from training.engine.setup import build_state, replicate
from training.pretrain import pretrain
from wtours.errors import UsageError

CPU = torch.device("cpu")
STEPS = (
    *("optim.steps=6", "checkpoint.every_steps=1", "checkpoint.keep_last=9"),
    "watch.loggers=[]",
)
pytestmark = pytest.mark.medium


def train_on(ranks, run_dir, shards, folder, *overrides):
    """Train the run on so many ranks; return its metrics."""
    folder.mkdir()
    work = functools.partial(_train, ranks, str(run_dir), str(shards), (*STEPS, *overrides))
    if ranks == 1:
        work(0)
    else:
        on_ranks(ranks, work, folder)
    return read_metrics(run_dir / "metrics.jsonl")


def _train(ranks, run_dir, shards, overrides, rank):
    config = resolve_config("official", None, [*TINY, *overrides])
    world = World(rank, ranks, rank, CPU)
    pretrain(config, shards_dir=Path(shards), run_dir=Path(run_dir), world=world)


def without_time(lines):
    return [
        {name: value for name, value in line.items() if name not in ("time", "effective_rank")}
        for line in lines
    ]


def close(lines, others, rel):
    assert len(lines) == len(others) == 6
    for line, other in zip(without_time(lines), without_time(others), strict=True):
        assert line == {name: pytest.approx(value, rel=rel) for name, value in other.items()}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shard_set(tmp_path_factory.mktemp("sharding") / "shards")


@pytest.fixture(scope="module")
def by_ddp(shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    return folder / "run", train_on(2, folder / "run", shards, folder / "ranks")


@pytest.fixture(scope="module")
def by_fsdp(shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fsdp")
    lines = train_on(2, folder / "run", shards, folder / "ranks", "optim.parallel=fsdp2")
    return folder / "run", lines


def test_two_ranks_of_fsdp_train_as_two_of_ddp(by_ddp, by_fsdp):
    close(by_fsdp[1], by_ddp[1], rel=1e-6)
    ours, theirs = (
        load_network(find_checkpoint(run), "student")[1].state_dict()
        for run in (by_fsdp[0], by_ddp[0])
    )
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(
    ("begun_by", "ranks", "parallel"),
    [("fsdp", 1, "ddp"), ("fsdp", 2, "ddp"), ("ddp", 2, "fsdp2"), ("fsdp", 4, "fsdp2")],
)
def test_a_run_goes_on_by_other_means_and_on_other_ranks(
    shards, by_ddp, by_fsdp, tmp_path, begun_by, ranks, parallel
):
    run, lines = by_ddp if begun_by == "ddp" else by_fsdp
    shutil.copytree(run, tmp_path / "run")
    for step in range(3, 7):
        shutil.rmtree(checkpoint_dir(tmp_path / "run", step))
    again = train_on(
        ranks, tmp_path / "run", shards, tmp_path / "ranks", f"optim.parallel={parallel}"
    )
    assert again[2]["time"]["resumed_from"] == 2
    same_ranks = ("loss", "loss_masked", "loss_local", "teacher_entropy", "gradient_norm")
    for line, other in zip(again, lines, strict=True):
        for name in same_ranks:
            assert line[name] == pytest.approx(other[name], rel=1e-4), (name, line["step"])


def _parts(rank):
    config = resolve_config("official", None, [*TINY, "optim.parallel=fsdp2"])
    state, world = build_state(config, World(rank, 2, rank, CPU)), World(rank, 2, rank, CPU)
    whole = sum(p.numel() for p in state.method.parameters())
    fired: list[str] = []
    for block in state.method.student.backbone.blocks:
        block.register_forward_hook(lambda *_: fired.append("block"))
    method = replicate(state, world)
    assert is_sharded(method)
    mine = sum(local(p).numel() for p in state.method.parameters())
    kept = sum(len(group["params"]) for group in state.optimizer.param_groups)
    trained = sum(p.requires_grad for p in state.method.student.parameters())
    state.method.student.backbone.blocks[0](torch.zeros(1, 17, 48))
    return {"share": mine / whole, "groups": kept == trained, "fired": fired}


def test_each_rank_keeps_its_part_of_the_weights_and_hooks_fire(tmp_path):
    for found in on_ranks(2, _parts, tmp_path):
        assert 0.49 < found["share"] < 0.51
        assert found["groups"]
        assert found["fired"] == ["block"]


@pytest.mark.parametrize(
    "override", ["optim.name=lars", "optim.precision=float16", "watch.overlay_every_steps=5"]
)
def test_what_needs_all_weights_in_one_process_is_refused(override):
    key = override.partition("=")[0]
    with pytest.raises(UsageError, match=rf"optim.parallel=fsdp2 goes without {key}.*: "):
        resolve_config("official", None, ["optim.parallel=fsdp2", override])
