import math
from dataclasses import replace

import pytest
import torch

from training.config.presets import resolve_config
from training.methods.base import Views, micro_batches
from training.methods.object_tracking import apply_masks
from training.methods.registry import build_method
from training.models.vit import encode
from training.schedules import Progress

NUM_PROTOTYPES = 16
NOW = Progress(step=0, steps=10, steps_per_epoch=1.0)
SMALL = (
    *("model.backbone=vit_tiny_patch16_224", "model.patch_size=8", "model.depth=2"),
    *("model.embed_dim=48", "model.num_heads=3", "model.drop_path_rate=0"),
    *(f"model.num_prototypes={NUM_PROTOTYPES}", "model.head_hidden_dim=32"),
    *("data.clip_length=3", "data.global_crop_pixels=32", "data.local_crop_pixels=16"),
)
TWO_VIEWS = ("data.global_crops=2",)
BALANCED = ("loss.teacher_centering=sinkhorn",)
PAPER = (
    *(*TWO_VIEWS, "tracking.mask=soft", "loss.local_crops_skipped=0"),
    *("loss.reduction=sum", "loss.object_weights=mean"),
)


def build(*overrides, preset="official"):
    torch.manual_seed(0)
    return build_method(resolve_config(preset, None, [*SMALL, *overrides]))


def some_views(num_views=1, num_clips=2):
    generator = torch.Generator().manual_seed(1)
    return Views(
        torch.randn(num_views, num_clips, 3, 3, 32, 32, generator=generator),
        torch.randn(4, num_clips, 3, 3, 16, 16, generator=generator),
        torch.arange(num_clips),
    )


def step(method, views):
    """The loss of a step, and its metrics."""
    targets = method.prepare(views, NOW)
    output = method(views, targets)
    return output.loss, output.metrics | targets.metrics()


@pytest.mark.parametrize(
    ("preset", "overrides", "num_views"),
    [
        ("official", (), 1),
        ("official", TWO_VIEWS, 2),
        ("official", PAPER, 2),
        ("official", BALANCED, 1),
        ("official", ("tracking.mask=random_blocks",), 1),
        ("dino", (), 2),
    ],
    ids=["official", "official on two views", "paper", "balanced", "random blocks", "dino"],
)
@pytest.mark.parametrize("batch_norm", ["false", "true"])
def test_every_weight_of_the_student_learns_and_none_of_the_teacher(
    preset, overrides, num_views, batch_norm
):
    method = build(*overrides, f"model.head_batch_norm={batch_norm}", preset=preset)
    loss, metrics = step(method, some_views(num_views))
    loss.backward()
    for name, parameter in method.student.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    assert all(parameter.grad is None for parameter in method.teacher.parameters())
    floor = metrics["teacher_entropy"].item()
    assert 0 < floor < math.log(NUM_PROTOTYPES)
    assert metrics["loss_masked"].item() > floor  # a cross-entropy is above the entropy
    assert metrics["loss_local"].item() > floor
    assert (metrics["mask_coverage"].item() == 1) == (preset == "dino")
    assert 0 < metrics["mask_coverage"].item() <= 1
    assert ("mask_overlap" in metrics) == (preset != "dino")


def test_after_a_step_the_teacher_and_the_center_move_and_not_before():
    method, views = build("optim.momentum=0.75"), some_views()
    for _ in range(2):  # a step that ends before it has moved leaves no trace
        step(method, views)
    assert method.center.tolist() == [0.0] * NUM_PROTOTYPES
    logits = method.teacher.head(encode(method.teacher.backbone, views.global_clips.flatten(0, 2)))
    with torch.no_grad():
        for parameter in method.student.parameters():
            parameter.add_(1.0)
    before = [parameter.clone() for parameter in method.teacher.parameters()]
    method.after_step(NOW)
    torch.testing.assert_close(method.center, 0.1 * logits.mean(dim=0))
    for parameter, old in zip(method.teacher.parameters(), before, strict=True):
        torch.testing.assert_close(parameter, old + 0.25)
    assert method.state_dict().keys() == {
        "center",
        *(
            f"{owner}.{key}"
            for owner in ("student", "teacher")
            for key in method.student.state_dict()
        ),
    }


def test_the_last_layer_is_frozen_in_the_first_epochs():
    method = build("optim.freeze_last_layer_epochs=2")
    last = {id(parameter) for parameter in method.student.head.last_layer.parameters()}
    frozen = [{id(p) for p in method.frozen(NOW.at(step))} for step in range(4)]
    assert frozen == [last, last, set(), set()]


def test_the_heads_follow_from_the_seed_and_the_step():
    drawn = [build(f"seed={seed}").draw_heads(NOW.at(2)).tolist() for seed in (0, 0, 1, 2, 3)]
    assert drawn[0] == drawn[1]
    assert len(set(map(tuple, drawn))) > 1
    assert len({tuple(build().draw_heads(NOW.at(step)).tolist()) for step in range(9)}) > 1


def test_the_skipped_local_crop_changes_nothing():
    method, views = build(), some_views()
    other = replace(views, local_crops=views.local_crops.clone())
    other.local_crops[0] = 0
    assert step(method, views)[0] == step(method, other)[0]
    other.local_crops[1] = 0
    assert step(method, views)[0] != step(method, other)[0]


@pytest.mark.parametrize("num_crops", [0, 1])
def test_without_local_crops_or_with_one_that_is_skipped_the_masked_clips_are_the_loss(num_crops):
    views = replace(some_views(), local_crops=some_views().local_crops[:num_crops])
    loss, metrics = step(build("loss.object_weights=mean"), views)
    torch.testing.assert_close(loss.detach(), metrics["loss_masked"])


def test_half_precision_changes_the_loss_by_less_than_a_percent():
    method = build()
    expected = step(method, some_views())[0].item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = step(method, some_views())
    method.after_step(NOW)
    assert loss.dtype == method.center.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, rel=0.01)


def cross_entropies(student_logits, targets):
    """H(teacher, student) of each frame, (T,), the mean over clips, written out."""
    log_probabilities = (student_logits / 0.1).log_softmax(-1)
    return -(targets * log_probabilities).sum(-1).mean(0)


def logits_of(student, clip):
    """The student's logits of (B, T, 3, H, W), (B, T, K)."""
    return student.head(encode(student.backbone, clip.flatten(0, 1))).unflatten(0, clip.shape[:2])


def paper_sums(student, views, targets):
    """Equations 8 to 10 as they stand: loops over views u and v, objects and local crops."""
    total = torch.zeros(())
    for u in (0, 1):
        for v in (0, 1):
            if u != v:
                masked_clips = apply_masks(views.global_clips[v], targets.masks[v])
                for masked_clip in masked_clips:
                    logits = logits_of(student, masked_clip)
                    total = total + cross_entropies(logits, targets.probabilities[u])
    for v in (0, 1):
        for crop in views.local_crops:
            total = total + cross_entropies(logits_of(student, crop), targets.probabilities[v])
    return total.mean()


def test_two_views_give_equations_8_to_10():
    method, views = build(*PAPER), some_views(2)
    targets = method.prepare(views, NOW)
    assert targets.masks.shape == (2, 2, 3, 3, 16)
    assert not torch.equal(targets.masks[0], targets.masks[1])
    expected = paper_sums(method.student, views, targets)
    torch.testing.assert_close(method(views, targets).loss, expected)


def test_the_masks_of_a_view_are_those_that_it_has_alone():
    method, views = build(*PAPER), some_views(2)
    both = method.prepare(views, NOW)
    for number in range(2):
        alone = replace(views, global_clips=views.global_clips[number : number + 1])
        torch.testing.assert_close(method.prepare(alone, NOW).masks[0], both.masks[number])


def test_dino_pairs_every_student_view_with_every_other_teacher_view():
    method, views = build(preset="dino"), some_views(2)
    targets = method.prepare(views, NOW)
    assert targets.masks is None
    seen = [logits_of(method.student, clip) for clip in (*views.global_clips, *views.local_crops)]
    pairs = [
        cross_entropies(seen[v], targets.probabilities[u]).mean()
        for u in range(2)
        for v in range(len(seen))
        if u != v
    ]
    assert len(pairs) == 2 * (1 + 4)
    torch.testing.assert_close(method(views, targets).loss, sum(pairs) / len(pairs))


@pytest.mark.parametrize("overrides", [(), BALANCED], ids=["binary masks", "balanced"])
@pytest.mark.parametrize("count", [2, 3, 9])
def test_gradients_of_micro_batches_add_up_to_those_of_the_batch(overrides, count):
    method, views = build(*overrides), some_views(2, num_clips=5)
    whole, _ = step(method, views)
    whole.backward()
    expected = [parameter.grad for parameter in method.student.parameters()]
    parted = build(*overrides, f"optim.accumulation_steps={count}")
    total = 0.0
    parts = list(micro_batches(views, parted.prepare(views, NOW), count))
    assert len(parts) == min(count, 5)
    for some_clips, some_targets, share in parts:
        loss = parted(some_clips, some_targets).loss * share
        loss.backward()
        total += loss.item()
    assert total == pytest.approx(whole.item(), rel=1e-5)
    for parameter, gradient in zip(parted.student.parameters(), expected, strict=True):
        difference = (parameter.grad - gradient).norm() / gradient.norm()
        assert difference.item() < 1e-4
