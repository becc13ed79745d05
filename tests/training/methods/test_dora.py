import math
from dataclasses import replace

import pytest
import torch

from training.losses.dino import LossSettings
from training.methods.base import Views
from training.methods.dora import DoraSettings, in_parts, learn, teach
from training.methods.object_tracking import TrackingSettings, apply_masks
from training.methods.student_teacher import Network, make_teacher
from training.models.projection_heads import DinoHead
from training.models.vit import build_backbone, encode

NUM_PROTOTYPES = 16


def build(batch_norm=False):
    torch.manual_seed(0)
    backbone = build_backbone(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, embed_dim=48, num_heads=3
    )
    head = DinoHead(48, NUM_PROTOTYPES, hidden_dim=32, bottleneck_dim=8, batch_norm=batch_norm)
    student = Network(backbone, head)
    return student, make_teacher(student)


def some_views(num_views=1):
    generator = torch.Generator().manual_seed(1)
    return Views(
        torch.randn(num_views, 2, 3, 3, 32, 32, generator=generator),
        torch.randn(4, 2, 3, 3, 16, 16, generator=generator),
    )


def lesson_of(teacher, views, settings, **options):
    return teach(
        teacher,
        views.global_clips,
        settings=settings,
        center=torch.zeros(NUM_PROTOTYPES),
        teacher_temp=0.04,
        heads=torch.tensor([2, 0, 1]),
        **options,
    )


def step(student, teacher, views, settings=None):
    settings = settings or DoraSettings()
    return learn(student, views, lesson_of(teacher, views, settings), settings)


PAPER = DoraSettings(
    tracking=TrackingSettings(mask="soft"),
    loss=LossSettings(local_crops_skipped=0, reduction="sum", object_weights="mean"),
)
BALANCED = DoraSettings(loss=LossSettings(teacher_centering="sinkhorn"))


DINO = DoraSettings(
    method="dino",
    loss=LossSettings(local_crops_skipped=0, reduction="pairs", object_weights="mean"),
)


@pytest.mark.parametrize(
    ("settings", "num_views"),
    [(DoraSettings(), 1), (DoraSettings(), 2), (PAPER, 2), (BALANCED, 1), (DINO, 2)],
    ids=["official", "official on two views", "paper", "balanced", "dino"],
)
@pytest.mark.parametrize("batch_norm", [False, True])
def test_every_weight_of_the_student_learns_and_none_of_the_teacher(
    settings, num_views, batch_norm
):
    student, teacher = build(batch_norm)
    parts = step(student, teacher, some_views(num_views), settings)
    parts.total.backward()
    for name, parameter in student.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not parts.center.requires_grad
    assert 0 < parts.teacher_entropy.item() < math.log(NUM_PROTOTYPES)
    assert parts.masked_divergence.item() > 0
    assert parts.local_divergence.item() > 0
    assert (parts.mask_coverage.item() == 1) == (settings is DINO)
    assert 0 < parts.mask_coverage.item() <= 1


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


def cross_entropies(student_logits, targets):
    """H(teacher, student) of each frame, (T,), the mean over clips, written out."""
    log_probabilities = (student_logits / 0.1).log_softmax(-1)
    return -(targets * log_probabilities).sum(-1).mean(0)


def logits_of(student, clip):
    """The student's logits of (B, T, 3, H, W), (B, T, K)."""
    return student.head(encode(student.backbone, clip.flatten(0, 1))).unflatten(0, clip.shape[:2])


def paper_sums(student, views, lesson):
    """Equations 8 to 10 as they stand: loops over views u and v, objects and local crops."""
    total = torch.zeros(())
    for u in (0, 1):
        for v in (0, 1):
            if u != v:
                masked_clips = apply_masks(views.global_clips[v], lesson.masks[v])
                for masked_clip in masked_clips:
                    logits = logits_of(student, masked_clip)
                    total = total + cross_entropies(logits, lesson.targets[u])
    for v in (0, 1):
        for crop in views.local_crops:
            total = total + cross_entropies(logits_of(student, crop), lesson.targets[v])
    return total.mean()


def test_two_views_give_equations_8_to_10():
    student, teacher = build()
    views = some_views(2)
    lesson = lesson_of(teacher, views, PAPER)
    assert lesson.masks.shape == (2, 2, 3, 3, 16)
    assert not torch.equal(lesson.masks[0], lesson.masks[1])
    expected = paper_sums(student, views, lesson)
    torch.testing.assert_close(learn(student, views, lesson, PAPER).total, expected)


def test_the_masks_of_a_view_are_those_that_it_has_alone():
    _, teacher = build()
    views = some_views(2)
    both = lesson_of(teacher, views, PAPER)
    for number in range(2):
        alone = replace(views, global_clips=views.global_clips[number : number + 1])
        torch.testing.assert_close(lesson_of(teacher, alone, PAPER).masks[0], both.masks[number])


def test_dino_pairs_every_student_view_with_every_other_teacher_view():
    student, teacher = build()
    views = some_views(2)
    lesson = lesson_of(teacher, views, DINO)
    assert lesson.masks is None
    seen = [logits_of(student, clip) for clip in (*views.global_clips, *views.local_crops)]
    pairs = [
        cross_entropies(seen[v], lesson.targets[u]).mean()
        for u in range(2)
        for v in range(len(seen))
        if u != v
    ]
    assert len(pairs) == 2 * (1 + 4)
    torch.testing.assert_close(learn(student, views, lesson, DINO).total, sum(pairs) / len(pairs))


@pytest.mark.parametrize("settings", [DoraSettings(), BALANCED], ids=["binary masks", "balanced"])
@pytest.mark.parametrize("num_parts", [2, 3, 9])
def test_gradients_of_parts_add_up_to_those_of_the_batch(settings, num_parts):
    student, teacher = build()
    generator = torch.Generator().manual_seed(1)
    views = Views(
        torch.randn(2, 5, 3, 3, 32, 32, generator=generator),
        torch.randn(4, 5, 3, 3, 16, 16, generator=generator),
    )
    whole = step(student, teacher, views, settings)
    whole.total.backward()
    expected = [parameter.grad for parameter in student.parameters()]
    student.zero_grad(set_to_none=True)
    lesson = lesson_of(teacher, views, settings, num_parts=num_parts)
    total = 0.0
    parts = list(in_parts(views, lesson, num_parts))
    assert len(parts) == min(num_parts, 5)
    for some_views, some_lesson in parts:
        share = some_views.global_clips.shape[1] / 5
        part = learn(student, some_views, some_lesson, settings)
        (part.total * share).backward()
        total += part.total.item() * share
    assert total == pytest.approx(whole.total.item(), rel=1e-5)
    for parameter, gradient in zip(student.parameters(), expected, strict=True):
        difference = (parameter.grad - gradient).norm() / gradient.norm()
        assert difference.item() < 1e-4
