import math
from dataclasses import replace

import pytest
import torch

from training.dora import DoraSettings, Views, dora_step_loss
from training.head import DinoHead
from training.loss import LossSettings
from training.teacher import Network, make_teacher
from training.tracking import TrackingSettings
from training.vit import build_backbone

NUM_PROTOTYPES = 16


def build(batch_norm=False):
    torch.manual_seed(0)
    backbone = build_backbone(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, embed_dim=48, num_heads=3
    )
    head = DinoHead(48, NUM_PROTOTYPES, hidden_dim=32, bottleneck_dim=8, batch_norm=batch_norm)
    student = Network(backbone, head)
    return student, make_teacher(student)


def some_views():
    generator = torch.Generator().manual_seed(1)
    return Views(
        torch.randn(2, 3, 3, 32, 32, generator=generator),
        torch.randn(4, 2, 3, 3, 16, 16, generator=generator),
    )


def step(student, teacher, views, settings=None):
    return dora_step_loss(
        student,
        teacher,
        views,
        settings=settings or DoraSettings(),
        center=torch.zeros(NUM_PROTOTYPES),
        teacher_temp=0.04,
        heads=torch.tensor([2, 0, 1]),
    )


PAPER = DoraSettings(
    tracking=TrackingSettings(mask="soft"),
    loss=LossSettings(local_crops_skipped=0, reduction="sum", object_weights="mean"),
)
BALANCED = DoraSettings(loss=LossSettings(teacher_centering="sinkhorn"))


@pytest.mark.parametrize("settings", [DoraSettings(), PAPER, BALANCED], ids=repr)
@pytest.mark.parametrize("batch_norm", [False, True])
def test_every_weight_of_the_student_learns_and_none_of_the_teacher(settings, batch_norm):
    student, teacher = build(batch_norm)
    parts = step(student, teacher, some_views(), settings)
    parts.total.backward()
    for name, parameter in student.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not parts.center.requires_grad
    assert 0 < parts.teacher_entropy.item() < math.log(NUM_PROTOTYPES)
    assert parts.masked_divergence.item() > 0
    assert parts.local_divergence.item() > 0
    assert 0 < parts.mask_coverage.item() < 1


def test_the_skipped_local_crop_changes_nothing():
    student, teacher = build()
    views = some_views()
    other = replace(views, local_crops=views.local_crops.clone())
    other.local_crops[0] = 0
    assert step(student, teacher, views).total == step(student, teacher, other).total
    other.local_crops[1] = 0
    assert step(student, teacher, views).total != step(student, teacher, other).total


def test_one_local_crop_which_is_skipped_leaves_the_masked_clips():
    student, teacher = build()
    views = replace(some_views(), local_crops=some_views().local_crops[:1])
    settings = DoraSettings(loss=LossSettings(object_weights="mean"))
    parts = step(student, teacher, views, settings)
    torch.testing.assert_close(parts.total, parts.masked)


def test_half_precision_changes_the_loss_by_less_than_a_percent():
    student, teacher = build()
    expected = step(student, teacher, some_views()).total.item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parts = step(student, teacher, some_views())
    assert parts.total.dtype == parts.center.dtype == torch.float32
    assert parts.total.item() == pytest.approx(expected, rel=0.01)
