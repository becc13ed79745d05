"""The trainer against the plain version of a step: same weights, same clips, same numbers."""

from typing import Any

import pytest
import torch

from tests.support.plain_dora import plain_step
from training.config.presets import resolve_config
from training.methods.base import Views
from training.methods.dora import Dora
from training.schedules import Progress

NOW = Progress(step=3, steps=100, steps_per_epoch=1.0)
CONFIG = resolve_config(
    "official",
    None,
    [
        *("model.backbone=vit_tiny_patch16_224", "model.patch_size=8", "model.depth=3"),
        *("model.num_prototypes=5000", "model.head_hidden_dim=64", "model.drop_path_rate=0"),
        *("data.global_crop_pixels=48", "data.local_crop_pixels=24", "data.clip_length=3"),
    ],
)


def build() -> Any:
    torch.manual_seed(0)
    method: Any = Dora(CONFIG)
    with torch.no_grad():
        for network in (method.student, method.teacher):  # else all attention is flat
            for block in network.backbone.blocks:
                block.attn.qkv.weight.mul_(6)
        for weight in method.teacher.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.01)
        method.student.head.last_layer.weight_g.uniform_(0.5, 1.5)
    method.center = torch.linspace(-0.1, 0.1, 5000)
    return method


@pytest.fixture(scope="module")
def views():
    generator = torch.Generator().manual_seed(1)
    return Views(
        torch.randn(1, 2, 3, 3, 48, 48, generator=generator),
        torch.randn(4, 2, 3, 3, 24, 24, generator=generator),
        torch.arange(2),
    )


@pytest.fixture(scope="module")
def plain(views):
    method = build()
    step = plain_step(
        method.student,
        method.teacher,
        views.global_clips[0],
        views.local_crops,
        center=method.center[None],
        heads=method.draw_heads(NOW).tolist(),
    )
    step.loss.backward()
    return step, dict(method.student.named_parameters())


@pytest.mark.medium
def test_a_step_is_that_of_the_plain_version(views, plain):
    expected, parameters = plain
    method = build()
    targets = method.prepare(views, NOW)
    loss = method(views, targets).loss
    loss.backward()
    masks = torch.stack([torch.stack(m, 1) for m in expected.masks], 1)
    assert torch.equal(targets.masks[0], masks)
    assert loss.item() == pytest.approx(expected.loss.item(), rel=1e-5)
    for name, parameter in method.student.named_parameters():
        gradient = parameters[name].grad
        difference = (parameter.grad - gradient).norm() / gradient.norm()
        assert difference.item() < 1e-4, name
    method.after_step(NOW)
    torch.testing.assert_close(method.center, expected.center[0], rtol=1e-5, atol=1e-7)
