"""The trainer against the plain version of a step: same weights, same clips, same numbers."""

from typing import Any

import pytest
import torch

from tests.support.plain_dora import plain_step
from training.methods.base import Views
from training.methods.dora import DoraSettings, learn, teach
from training.methods.student_teacher import Network, make_teacher
from training.models.projection_heads import DinoHead
from training.models.vit import build_backbone

HEADS = [2, 0, 1]


def networks() -> tuple[Any, Any]:
    torch.manual_seed(0)
    backbone = build_backbone("vit_tiny_patch16_224", img_size=48, patch_size=8, depth=3)
    student: Any = Network(backbone, DinoHead(192, 5000, hidden_dim=64, bottleneck_dim=32))
    teacher: Any = make_teacher(student)
    with torch.no_grad():
        for network in (student, teacher):  # else all attention is flat
            for block in network.backbone.blocks:
                block.attn.qkv.weight.mul_(6)
        for weight in teacher.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.01)
        student.head.last_layer.weight_g.uniform_(0.5, 1.5)
    return student, teacher


@pytest.fixture(scope="module")
def views():
    generator = torch.Generator().manual_seed(1)
    return Views(
        torch.randn(1, 2, 3, 3, 48, 48, generator=generator),
        torch.randn(4, 2, 3, 3, 24, 24, generator=generator),
    )


@pytest.fixture(scope="module")
def plain(views):
    student, teacher = networks()
    step = plain_step(
        student,
        teacher,
        views.global_clips[0],
        views.local_crops,
        center=torch.linspace(-0.1, 0.1, 5000)[None],
        heads=HEADS,
    )
    step.loss.backward()
    return step, dict(student.named_parameters())


@pytest.mark.medium
def test_a_step_is_that_of_the_plain_version(views, plain):
    expected, parameters = plain
    student, teacher = networks()
    lesson = teach(
        teacher,
        views.global_clips,
        settings=DoraSettings(),
        center=torch.linspace(-0.1, 0.1, 5000),
        teacher_temp=0.04,
        heads=torch.tensor(HEADS),
    )
    parts = learn(student, views, lesson, DoraSettings())
    parts.total.backward()
    assert lesson.masks is not None
    assert torch.equal(lesson.masks[0], torch.stack([torch.stack(m, 1) for m in expected.masks], 1))
    assert parts.total.item() == pytest.approx(expected.loss.item(), rel=1e-5)
    torch.testing.assert_close(parts.center, expected.center[0], rtol=1e-5, atol=1e-7)
    for name, parameter in student.named_parameters():
        gradient = parameters[name].grad
        difference = (parameter.grad - gradient).norm() / gradient.norm()
        assert difference.item() < 1e-4, name
