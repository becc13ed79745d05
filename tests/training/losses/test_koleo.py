"""The KoLeo term against its formula, and in the methods that take it."""

import math

import pytest
import torch

from tests.support.shard_set import TINY
from tests.support.steps_on_device import make_batch
from training.config.presets import resolve_config
from training.config.train import TrainConfig
from training.data.multi_crop import make_global
from training.distributed.world import World
from training.engine.setup import build_state
from training.engine.step import Gradients, compute_gradients
from training.losses.koleo import koleo
from training.models.vit import encode
from training.schedules import Progress
from wtours.errors import UsageError


def by_hand(view: torch.Tensor) -> float:
    """DINOv2: -mean over rows of log min distance to another row, of unit length."""
    rows = [row / row.norm() for row in view]
    nearest = [
        min(float((row - other).norm()) for j, other in enumerate(rows) if j != i)
        for i, row in enumerate(rows)
    ]
    return -sum(math.log(distance) for distance in nearest) / len(rows)


def test_it_is_the_mean_over_views_of_the_formula():
    tokens = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0))
    expected = sum(by_hand(view) for view in tokens) / 2
    assert koleo(tokens).item() == pytest.approx(expected, rel=1e-5)


def test_its_gradient_drives_the_nearest_apart():
    tokens = torch.tensor([[[1.0, 0.0], [1.0, 0.1], [-1.0, 0.0]]], requires_grad=True)
    koleo(tokens).backward()
    assert tokens.grad is not None
    moved = (tokens - 0.01 * tokens.grad).detach()
    assert koleo(moved) < koleo(tokens)
    assert (moved[0, 0] - moved[0, 1]).norm() > (tokens[0, 0] - tokens[0, 1]).norm()


def step(preset: str, *overrides: str) -> Gradients:
    config: TrainConfig = resolve_config(preset, None, [*TINY, *overrides])
    world = World(0, 1, 0, torch.device("cpu"))
    now, state = Progress(0, 12, 3), build_state(config, world)
    return compute_gradients(
        state, state.method, make_batch(config, 0), now, config=config, world=world
    )


@pytest.mark.parametrize("preset", ["official", "dino", "ibot"])
def test_the_loss_of_a_step_has_the_term_with_its_weight(preset):
    plain, spread = step(preset), step(preset, "loss.koleo_weight=0.1")
    term = spread.output.metrics["loss_koleo"]
    assert spread.output.loss.item() == pytest.approx((plain.output.loss + 0.1 * term).item())
    assert spread.norm != plain.norm
    assert "loss_koleo" not in plain.output.metrics


def test_the_two_views_of_an_image_are_not_driven_apart():
    config = resolve_config("dino", None, [*TINY, "loss.koleo_weight=0.1"])
    world, batch = World(0, 1, 0, torch.device("cpu")), make_batch(config, 0)
    state = build_state(config, world)
    clips = make_global(batch.frames, batch.draws, pixels=config.data.global_crop_pixels)
    with torch.no_grad():
        tokens = encode(state.method.student.backbone, clips.flatten(0, 2))
    views = tokens.reshape(2, -1, tokens.shape[-1])
    gradients = compute_gradients(
        state, state.method, batch, Progress(0, 12, 3), config=config, world=world
    )
    assert gradients.output.metrics["loss_koleo"].item() == pytest.approx(koleo(views).item())
    assert koleo(views).item() != pytest.approx(koleo(views.reshape(1, -1, 48)).item())


def test_methods_without_the_term_refuse_its_weight():
    with pytest.raises(UsageError, match=r"method=simclr needs loss.koleo_weight=0"):
        resolve_config("simclr", None, ["loss.koleo_weight=0.1"])


def test_it_takes_no_micro_batches():
    with pytest.raises(UsageError, match=r"must be 1 for loss.koleo_weight=0.1, whose loss"):
        step("official", "loss.koleo_weight=0.1", "optim.accumulation_steps=2")
