"""SimCLR, SwAV, VICReg, iBOT and AttMask in the training loop."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.support.shard_set import TINY, write_shard_set
from tests.support.two_ranks import on_two_ranks
from training.config.presets import resolve_config
from training.config.train import TrainConfig
from training.distributed.world import World
from training.engine.checkpoint import load_network
from training.engine.checkpoint_files import checkpoint_dir
from training.engine.metrics import read_metrics
from training.engine.setup import build_state, replicate
from training.engine.state import TrainState
from training.estimate import estimate
from training.methods.attmask import Attmask
from training.methods.base import Views, micro_batches
from training.methods.ibot import _project
from training.monitors.collapse import CollapseMonitor
from training.pretrain import pretrain
from training.schedules import Progress
from wtours.errors import UsageError

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
WORLD = World(0, 1, 0, CPU)
METHODS = {
    "simclr": ("data.local_crops=0", "simclr.output_dim=32"),
    "swav": ("swav.output_dim=16", "swav.queue_length=24", "swav.queue_start_epoch=0.5"),
    "vicreg": ("data.local_crops=0", "vicreg.output_dim=32"),
    "ibot": ("ibot.mask_ratio=[0.2, 0.6]",),
    "attmask": ("attmask.kind=hint", "ibot.mask_ratio=[0.2, 0.6]"),
}
WITH_TEACHER = ("ibot", "attmask")
CLIPS, FRAMES = 4, 3


def config_of(name: str, *overrides: str) -> TrainConfig:
    """Return the method's preset with a network of 48 channels on 32-pixel crops."""
    return resolve_config(name, None, [*TINY, *METHODS[name], *overrides])


def views_of(config: TrainConfig, seed: int = 0) -> Views:
    generator, data = torch.Generator().manual_seed(seed), config.data
    return Views(
        torch.randn(2, CLIPS, FRAMES, 3, 32, 32, generator=generator),
        torch.randn(data.local_crops, CLIPS, FRAMES, 3, 16, 16, generator=generator),
        torch.arange(CLIPS) + CLIPS * seed,
    )


def steps(state: TrainState, views: list[Views], world: World = WORLD) -> list[Tensor]:
    """Take SGD steps, in which sums of another order stay a little apart; return the losses."""
    replica, method = replicate(state, world), state.method
    optimizer = torch.optim.SGD(method.student.parameters(), lr=0.01)
    losses = []
    for step, some in enumerate(views):
        now = Progress(step, len(views), 2)
        output = replica(some, method.prepare(some, now))
        optimizer.zero_grad()
        output.loss.backward()
        for parameter in method.frozen(now):
            parameter.grad = None
        optimizer.step()
        method.after_step(now)
        losses.append(output.loss.detach())
    return losses


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shard_set(tmp_path_factory.mktemp("methods") / "shards")


def train(shards, run_dir, name, *overrides, **options):
    config = config_of(name, *overrides)
    report = pretrain(config, shards_dir=shards, run_dir=run_dir, world=WORLD, **options)
    return report, [line | {"time": 0} for line in read_metrics(run_dir / "metrics.jsonl")]


# In the loop


@pytest.mark.medium
@pytest.mark.parametrize("name", METHODS)
def test_a_run_that_is_interrupted_ends_as_one_that_is_not(shards, tmp_path, name):
    class Interrupted(Exception):
        pass

    def interrupt(status):
        if status.step == 6:
            raise Interrupted

    _, whole = train(shards, tmp_path / "whole", name)
    with pytest.raises(Interrupted):
        train(shards, tmp_path / "resumed", name, on_step=interrupt)
    report, resumed = train(shards, tmp_path / "resumed", name)
    assert report.started_at_step == 4
    assert resumed == whole
    for file in ("model.safetensors", "optimizer.safetensors"):
        ours, theirs = (checkpoint_dir(tmp_path / run, 12) / file for run in ("whole", "resumed"))
        assert ours.read_bytes() == theirs.read_bytes()
    if name == "swav":  # the queue was filled before the interruption, and used after it
        assert [line["queue_used"] for line in whole] == [0] * 4 + [1] * 8
    # What is exported and evaluated: the teacher, or the network that was trained.
    which = "teacher" if name in WITH_TEACHER else "student"
    _, evaluated = load_network(report.checkpoint)
    _, named = load_network(report.checkpoint, which)
    torch.testing.assert_close(evaluated.state_dict(), named.state_dict(), rtol=0, atol=0)


def write_images(folder: Path) -> str:
    for name, color in (("red", (200, 40, 40)), ("blue", (40, 40, 200))):
        (folder / name).mkdir(parents=True)
        for number in range(2):
            pixels = np.full((40, 40, 3), color, np.uint8) + np.uint8(number)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return str(folder)


@pytest.mark.medium
@pytest.mark.parametrize("name", METHODS)
def test_overlays_knn_and_the_estimate_work(shards, tmp_path, name):
    images = write_images(tmp_path / "images")
    watch = (
        *("watch.overlay_every_steps=2", "watch.overlay_clips=1", "watch.knn_every_steps=2"),
        *(f"watch.knn_train={images}", f"watch.knn_val={images}", "watch.knn_k=1"),
    )
    _, lines = train(shards, tmp_path / "run", name, "optim.steps=2", *watch)
    assert lines[1]["knn_top1_percent"] == 100  # of the training images themselves
    assert len(list((tmp_path / "run" / "figures").glob("step-00000002-*.png"))) == 1
    found = estimate(config_of(name), shards_dir=shards, world=WORLD, processes=1)
    networks = 2 if name in WITH_TEACHER else 1
    student = build_state(config_of(name), WORLD).method.student
    sizes = [(p.numel(), 3 * p.requires_grad) for p in student.parameters()]
    assert found.state_bytes == 4 * sum(size * (networks + more) for size, more in sizes)
    assert found.activation_bytes > 0


LEARNING = (
    "watch.effective_rank_every_steps=1",
    *("optim.global_batch_size=8", "optim.steps=48", "optim.epochs=8", "optim.lr=2e-3"),
    *("optim.freeze_last_layer_epochs=0", "model.num_prototypes=16", "data.clip_length=2"),
    *("augment.jitter_probability=0", "augment.grey_probability=0", "data.local_crops=0"),
    *("swav.queue_length=64", "swav.epsilon=0.03", "checkpoint.every_steps=1000"),
)
SHARP = (
    *("loss.teacher_temp=0.01", "loss.warmup_teacher_temp=0.01"),
    *("ibot.patch_temp=0.01", "ibot.warmup_patch_temp=0.01"),
)
WITH_A_TEACHER = (
    *("data.local_crops=3", "optim.steps=80", "optim.lr=8e-3"),
    *("loss.teacher_centering=sinkhorn", "model.head_batch_norm=true", "optim.momentum=0.9"),
    *("optim.weight_decay_end=0.04", *SHARP),
)
RECIPES = {
    "simclr": (),
    "swav": ("data.local_crops=3", "optim.steps=160", "optim.lr=5e-4"),
    "vicreg": (),
    "ibot": WITH_A_TEACHER,
    "attmask": WITH_A_TEACHER,
}


@pytest.mark.medium
@pytest.mark.parametrize("name", METHODS)
def test_a_method_learns_and_does_not_collapse(tmp_path, name):
    videos = ("one", "two", "three", "four")
    shards = write_shard_set(tmp_path / "shards", videos=videos)
    _, lines = train(shards, tmp_path / "run", name, *LEARNING, *RECIPES[name])

    def mean(metric: str, part: slice) -> float:
        return float(np.mean([line[metric] for line in lines[part]]))

    first, last = slice(0, len(lines) // 8), slice(-len(lines) // 8, None)
    assert mean("loss", last) < 0.9 * mean("loss", first)
    # Not by one answer for all: the embeddings of the frames stay apart, in several directions.
    assert mean("embedding_spread", last) > 0.1
    assert mean("effective_rank", last) > 1.8
    uniform = math.log(16)  # the cross-entropies and the code entropy of a collapse
    if name == "swav":
        assert mean("loss", last) < 0.95 * uniform
        assert mean("code_entropy", last) < 0.9 * uniform
    if name == "vicreg":
        assert mean("loss_variance", last) < 0.8 * mean("loss_variance", first)
    if name in WITH_TEACHER:
        assert mean("loss_masked", last) < 0.9 * uniform
        assert mean("loss_patch", last) < mean("loss_patch", first)
        assert mean("teacher_mean_entropy", last) > 0.5 * uniform
        assert mean("patch_mean_entropy", last) > 0.5 * uniform


# A run that is too short


@pytest.mark.parametrize(
    ("name", "override", "said"),
    [
        ("ibot", "seed=0", ["loss.teacher_temp=0.07 is never", "ibot.patch_temp=0.07 is never"]),
        ("ibot", "loss.warmup_teacher_temp_epochs=5", ["loss.teacher_temp", "ibot.patch_temp"]),
        ("ibot", "loss.warmup_teacher_temp_epochs=4", []),  # as many as the run has
        ("attmask", "ibot.patch_temp=0.04", ["loss.teacher_temp=0.07 is never"]),
        ("swav", "optim.freeze_last_layer_epochs=4", ["the prototypes are never trained"]),
        ("swav", "optim.freeze_last_layer_epochs=3.5", []),
        ("simclr", "optim.freeze_last_layer_epochs=4", []),  # it has no such layer
    ],
)
def test_what_a_run_is_too_short_for_is_said(name, override, said):
    method = build_state(config_of(name, override), WORLD).method
    lines = method.out_of_reach(Progress(step=0, steps=12, steps_per_epoch=3.0))
    assert len(lines) == len(said)
    assert all(part in line for part, line in zip(said, lines, strict=True))


@pytest.mark.medium
@pytest.mark.parametrize(("length", "is_used"), [(108, True), (109, False)])
def test_a_queue_that_a_run_never_fills_is_said(shards, tmp_path, caplog, length, is_used):
    # Of 12 steps 10 fill it, by 12 images each, and 9 of these come before the last step.
    _, lines = train(shards, tmp_path, "swav", f"swav.queue_length={length}")
    assert any(line["queue_used"] for line in lines) == is_used
    assert ("the queue is never used" in caplog.text) != is_used


# Two ranks against one


RANKED = {
    **dict.fromkeys(METHODS, ()),
    "ibot_balanced": ("loss.teacher_centering=sinkhorn", "model.head_batch_norm=true"),
    "swav_uneven": ("swav.queue_length=20",),  # a step has 12 images
    "ibot_half_masked": ("ibot.masked_probability=0.2", "loss.teacher_centering=sinkhorn"),
}


def ranked_config(case: str) -> TrainConfig:
    return config_of(case.partition("_")[0], *RANKED[case])


def on_a_rank(rank: int) -> dict[str, tuple[Tensor, dict[str, Any]]]:
    half = slice(rank * CLIPS // 2, (rank + 1) * CLIPS // 2)
    world, results = World(rank, 2, rank, CPU), {}
    for case in RANKED:
        config = ranked_config(case)
        state = build_state(config, world)
        losses = steps(state, [views_of(config, seed).clips(half) for seed in range(4)], world)
        results[case] = (torch.stack(losses), state.method.state_dict())
    return results


@pytest.mark.medium
def test_two_ranks_train_as_one(tmp_path):
    ranks = on_two_ranks(on_a_rank, tmp_path)
    for case in RANKED:
        config = ranked_config(case)
        state = build_state(config, WORLD)
        losses = torch.stack(steps(state, [views_of(config, seed) for seed in range(4)]))
        (first, weights), (second, of_second) = (results[case] for results in ranks)
        torch.testing.assert_close((first + second) / 2, losses, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(weights, of_second, rtol=1e-5, atol=1e-6)
        expected = state.method.state_dict()
        assert weights.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(weights[key], value, rtol=1e-3, atol=1e-4)
        if case == "swav":
            assert expected["queue"].abs().sum() > 0


# iBOT and AttMask


@pytest.mark.parametrize("name", WITH_TEACHER)
def test_micro_batches_add_up_to_the_batch(name):
    config = config_of(name)
    method, views = build_state(config, WORLD).method, views_of(config)
    targets = method.prepare(views, Progress(0, 10, 2))
    whole = method(views, targets)
    parts = [
        (method(some, of_some), share) for some, of_some, share in micro_batches(views, targets, 3)
    ]
    total = sum(output.loss.item() * share for output, share in parts)
    assert total == pytest.approx(whole.loss.item(), rel=1e-5)
    patches = sum(output.metrics["loss_patch"].item() * share for output, share in parts)
    assert patches == pytest.approx(whole.metrics["loss_patch"].item(), rel=1e-5)


def test_a_step_without_any_masked_patch_has_a_loss_and_gradients():
    config = config_of("ibot", "ibot.masked_probability=0", "loss.teacher_centering=sinkhorn")
    state = build_state(config, WORLD)
    (loss,) = steps(state, [views_of(config)])
    assert loss.isfinite()
    assert all(p.isfinite().all() for p in state.method.parameters())


def test_the_head_sees_other_patches_only_where_that_changes_something():
    patches, hidden = torch.randn(5, 16, 48), torch.rand(5, 16) < 0.3
    for overrides, rows in (((), int(hidden.sum())), (("model.head_batch_norm=true",), 5 * 16)):
        head = build_state(config_of("ibot", *overrides), WORLD).method.student.head
        seen: list[Tensor] = []
        handle = head.mlp.register_forward_hook(lambda *hook, seen=seen: seen.append(hook[2]))
        of_cls, of_patches = _project(
            head, torch.randn(2, 48), patches, hidden.flatten().nonzero()[:, 0]
        )
        handle.remove()
        assert [len(output) for output in seen] == [2 + rows]
        assert (len(of_cls), len(of_patches)) == (2, int(hidden.sum()))
        if not head.has_batch_norm:
            every = head.project(patches.flatten(0, 1))
            torch.testing.assert_close(of_patches, every[hidden.flatten()])


def attmask(*overrides: str) -> tuple[Attmask, TrainConfig]:
    config = config_of("attmask", "attmask.kind=high", *overrides)
    method = build_state(config, WORLD).method
    assert isinstance(method, Attmask)
    return method, config


def test_attmask_draws_a_share_for_the_step_and_coins_for_the_position():
    method, config = attmask("ibot.masked_probability=0.6")
    views, other_clips = views_of(config, 0), views_of(config, 1)
    coins = []
    for now in (Progress(0, 10, 2), Progress(1, 10, 2)):
        ratio, _ = method.draw_ratios(now)
        hidden = method.prepare(views, now).hidden
        assert set(hidden.sum(dim=-1).unique().tolist()) == {0, int(16 * ratio)}
        coins.append(hidden.any(dim=-1))
    assert torch.equal(*coins)
    of_others = method.prepare(other_clips, Progress(0, 10, 2)).hidden.any(dim=-1)
    assert not torch.equal(coins[0], of_others)


def test_attmasks_masks_lie_where_the_teacher_looks():
    method, config = attmask("ibot.masked_probability=1")
    views = views_of(config)
    _, _, attention = method.encode_frames(views.global_clips.flatten(0, 2))
    assert attention is not None
    hidden = method.prepare(views, Progress(0, 10, 2)).hidden.flatten(0, 2)
    masked = attention.masked_fill(~hidden, math.inf).amin(dim=1)
    shown = attention.masked_fill(hidden, -math.inf).amax(dim=1)
    assert (masked >= shown).all()


@pytest.mark.parametrize("name", METHODS)
def test_the_loss_in_bfloat16_is_that_in_float32_to_a_percent(name):
    losses = []
    for half in (False, True):
        method, views = build_state(config_of(name), WORLD).method, views_of(config_of(name))
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = method(views, method.prepare(views, Progress(0, 10, 2))).loss
        loss.backward()
        assert loss.dtype == torch.float32
        losses.append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=0.01)


# What is refused, and what is said of a collapse


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("simclr", "optim.accumulation_steps=2", "compares all clips of a step"),
        ("swav", "optim.accumulation_steps=2", "compares all clips of a step"),
        ("vicreg", "optim.accumulation_steps=2", "compares all clips of a step"),
        ("simclr", "data.global_crops=1", "method=simclr needs data.global_crops=2"),
        ("ibot", "data.global_crops=1", "method=ibot needs data.global_crops=2"),
        ("vicreg", "data.local_crops=2", "method=vicreg needs data.local_crops=0"),
        ("simclr", "optim.global_batch_size=1", "no image has a negative"),
        ("simclr", "simclr.siblings=friends", "simclr.siblings='friends'"),
        ("simclr", "simclr.temperature=0", "simclr.temperature=0"),
        ("swav", "swav.epsilon=-1", "swav.epsilon=-1"),
        ("swav", "swav.queue_length=-1", "swav.queue_length=-1"),
        ("ibot", "ibot.mask_ratio=[0.5, 0.1]", "mask_ratio"),
        ("ibot", "ibot.mask_ratio=[0.5, 1.0]", "mask_ratio"),
        ("attmask", "attmask.kind=medium", "attmask.kind='medium'"),
        ("attmask", "attmask.hint_share=2", "attmask.hint_share=2"),
    ],
)
def test_wrong_settings_are_one_line(name, override, message):
    with pytest.raises(UsageError) as refusal:
        build_state(config_of(name, override), WORLD)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_vicreg_of_one_image_is_refused():
    with pytest.raises(UsageError, match="two images in a step"):
        build_state(config_of("vicreg", "optim.global_batch_size=1", "data.clip_length=1"), WORLD)


@pytest.mark.parametrize(
    ("name", "metrics", "advice"),
    [
        ("simclr", {"embedding_spread": 0.01}, "simclr.temperature"),
        ("swav", {"code_entropy": math.log(64)}, "swav.epsilon"),
        ("vicreg", {"loss_variance": 1.98}, "vicreg.variance_weight"),
        ("vicreg", {"effective_rank": 1.0}, "vicreg.covariance_weight"),
        ("ibot", {"patch_entropy": math.log(64)}, "ibot.patch_temp"),
        ("attmask", {"patch_mean_entropy": 0.0}, "loss.teacher_centering=sinkhorn"),
        ("ibot", {"mask_coverage": 0.001}, "ibot.mask_ratio"),
    ],
)
def test_the_warning_of_a_collapse_names_settings_that_the_method_has(name, metrics, advice):
    monitor = CollapseMonitor(config_of(name))
    said = [text for step in range(60) for text in monitor.update(step, metrics)]
    assert len(said) == 1
    assert advice in said[0]
    if name not in WITH_TEACHER:
        assert "teacher" not in said[0]
