"""`model.drop_hidden_patches`: the student does not compute what its masks hide."""

import functools
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.support.shard_set import TINY, write_shard_set
from tests.support.two_ranks import on_ranks
from training.config.presets import GpuMemory, resolve_config
from training.distributed.world import World
from training.engine.checkpoint_files import checkpoint_dir
from training.engine.metrics import read_metrics
from training.estimate import estimate
from training.flops import BackboneShape, clip_tflop
from training.gpu_memory import fit_memory
from training.methods.base import Views, micro_batches
from training.methods.registry import build_method
from training.pretrain import pretrain
from training.schedules import Progress
from wtours.errors import UsageError

CPU = torch.device("cpu")
ALONE = World(0, 1, 0, CPU)
NOW = Progress(step=0, steps=10, steps_per_epoch=1.0)
DROP = "model.drop_hidden_patches=true"
CLIPS = 5
pytestmark = pytest.mark.medium


def build(*overrides: str):
    torch.manual_seed(0)
    return build_method(resolve_config("official", None, [*TINY, *overrides]))


def some_views(num_views: int = 1) -> Views:
    generator = torch.Generator().manual_seed(1)
    return Views(
        torch.randn(num_views, CLIPS, 3, 3, 32, 32, generator=generator),
        torch.randn(6, CLIPS, 3, 3, 16, 16, generator=generator),
        torch.arange(CLIPS),
    )


def loss_and_gradients(method, views, targets):
    loss = method(views, targets).loss
    return loss, torch.autograd.grad(loss, list(method.student.parameters()))


def assert_alike(ours, theirs):
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-5, atol=0)
    for found, expected in zip(ours[1], theirs[1], strict=True):
        assert (found - expected).norm() < 1e-4 * expected.norm()


@pytest.mark.parametrize("num_views", [1, 2])
def test_masks_that_hide_nothing_give_the_ordinary_loss_and_gradients(num_views):
    overrides = [f"data.global_crops={num_views}", "model.drop_path_rate=0"]
    method, views = build(DROP, *overrides), some_views(num_views)
    targets = method.prepare(views, NOW)
    masks = torch.ones_like(targets.masks)
    every = replace(targets, masks=masks, num_visible=masks.sum(dim=-1).long())
    ours = loss_and_gradients(method, views, every)
    assert_alike(ours, loss_and_gradients(method, views, replace(every, num_visible=None)))
    dropped = loss_and_gradients(method, views, targets)[0]
    assert dropped != loss_and_gradients(method, views, replace(targets, num_visible=None))[0]


def test_a_mask_goes_with_its_object_its_frame_and_its_clip():
    """Patches that no mask of a frame shows may hold anything; others may not."""
    method, views = build(DROP, "model.drop_path_rate=0"), some_views()
    targets = method.prepare(views, NOW)
    seen = targets.masks[0].amax(dim=1).reshape(CLIPS, 3, 1, 4, 4)  # of any object
    pixels = seen.repeat_interleave(8, -2).repeat_interleave(8, -1)
    assert 0 < pixels.mean() < 1
    other = replace(views, global_clips=torch.where(pixels[None] > 0, views.global_clips, 9.0))
    assert method(other, targets).loss == method(views, targets).loss
    shown = replace(views, global_clips=torch.where(pixels[None] > 0, 9.0, views.global_clips))
    assert method(shown, targets).loss != method(views, targets).loss


@pytest.mark.parametrize("count", [2, 5])
def test_micro_batches_add_up_to_the_batch(count):
    method, views = build(DROP, "model.drop_path_rate=0"), some_views(1)
    targets = method.prepare(views, NOW)
    loss, gradients = loss_and_gradients(method, views, targets)
    parts = [
        (share, loss_and_gradients(method, some_views, some_targets))
        for some_views, some_targets, share in micro_batches(views, targets, count)
    ]
    total = sum(share * part[0] for share, part in parts)
    summed = [sum(share * part[1][i] for share, part in parts) for i in range(len(gradients))]
    assert_alike((total, summed), (loss, gradients))


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shard_set(tmp_path_factory.mktemp("hidden") / "shards")


SETTINGS = (DROP, "optim.steps=4", "checkpoint.every_steps=1", "model.drop_path_rate=0")


def _train(ranks, run_dir, shards, overrides, rank):
    config = resolve_config("official", None, [*TINY, *SETTINGS, *overrides])
    pretrain(
        config, shards_dir=Path(shards), run_dir=Path(run_dir), world=World(rank, ranks, rank, CPU)
    )


def train(shards, run_dir, *overrides, ranks=1, folder=None):
    work = functools.partial(_train, ranks, str(run_dir), str(shards), overrides)
    if ranks == 1:
        work(0)
    else:
        on_ranks(ranks, work, folder)
    return read_metrics(run_dir / "metrics.jsonl")


@pytest.fixture(scope="module")
def alone(shards, tmp_path_factory):
    run = tmp_path_factory.mktemp("alone") / "run"
    return run, train(shards, run)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_two_ranks_train_as_one(shards, alone, tmp_path, parallel):
    overrides = (f"optim.parallel={parallel}",)
    lines = train(shards, tmp_path / "run", *overrides, ranks=2, folder=tmp_path)
    for ours, theirs in zip(lines, alone[1], strict=True):
        assert 0 < ours["mask_coverage"] < 1
        for name in ("loss", "loss_masked", "loss_local", "mask_coverage", "gradient_norm"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4), name


def test_a_run_that_is_stopped_ends_in_the_same_bytes(shards, tmp_path):
    def interrupt(status):
        if status.step == 2:
            raise KeyboardInterrupt

    config = resolve_config("official", None, [*TINY, *SETTINGS, "model.drop_path_rate=0.3"])
    run, whole = tmp_path / "run", tmp_path / "whole"
    with pytest.raises(KeyboardInterrupt):
        pretrain(config, shards_dir=shards, run_dir=run, world=ALONE, on_step=interrupt)
    for folder in (run, whole):
        pretrain(config, shards_dir=shards, run_dir=folder, world=ALONE)
    for name in ("model.safetensors", "optimizer.safetensors"):
        ours, theirs = (checkpoint_dir(folder, 4) / name for folder in (run, whole))
        assert ours.read_bytes() == theirs.read_bytes()


def test_the_multiplications_of_a_step_follow_its_masks(alone):
    config = resolve_config("official", None, [*TINY, *SETTINGS])
    count = functools.partial(clip_tflop, config, BackboneShape(48, 2, 8), as_computed=True)
    for line in alone[1]:
        step = line["time"]["tflop_per_second"] * line["time"]["seconds"]
        assert step == pytest.approx(4 * count(visible_share=line["mask_coverage"]))
        assert step < 4 * count()


def test_the_estimate_says_on_what_it_depends_and_memory_is_for_all_patches(shards):
    config = resolve_config("official", None, [*TINY, DROP])
    usual = resolve_config("official", None, [*TINY])
    found, whole = (
        estimate(one, shards_dir=shards, world=ALONE, processes=1) for one in (config, usual)
    )
    assert found.activation_bytes < whole.activation_bytes
    assert "mask_coverage" in found.notes[1]
    assert "mask_coverage" not in " ".join(whole.notes)
    needed = [
        fit_memory(one, GpuMemory(1e12), shards_dir=shards, world=ALONE, processes=1).needed_bytes
        for one in (config, usual)
    ]
    assert needed[0] == needed[1]


@pytest.mark.parametrize(
    ("preset", "override", "message"),
    [
        *((name, "seed=0", f"goes without method={name}: its student sees whole images")
          for name in ("dino", "simclr", "swav", "vicreg")),
        *((name, "seed=0", f"goes without method={name}: its student fills in the patches")
          for name in ("ibot", "attmask")),
        ("official", "tracking.mask=soft", "goes without tracking.mask=soft: it dims patches"),
        ("official", "tracking.mask=literal", "goes without tracking.mask=literal"),
    ],
)  # fmt: skip
def test_where_nothing_is_hidden_it_is_refused(preset, override, message):
    with pytest.raises(UsageError, match=f"model.drop_hidden_patches {message}"):
        resolve_config(preset, None, [DROP, override])
