"""One training step of the authors' released code, recorded, against ours with preset `official`.

The recording: ViT-Tiny/16, 2 clips of 4 frames, 6 local crops, 3 objects, 1024 prototypes, float32
on a CPU. Bounds: relative to the largest value of the tensor, 1e-5 forward and 1e-4 for
gradients, since sums are taken in another order; no patch of any mask may differ.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from training.engine.optim import build_optimizer, clip_gradients, set_lr_and_weight_decay
from training.losses.cross_entropy import distillation_loss
from training.losses.dino import LossParts, combine, object_weights, teacher_probabilities
from training.losses.sinkhorn import assignment
from training.methods.base import Views
from training.methods.dora import DoraSettings, learn, teach
from training.methods.object_tracking import (
    apply_masks,
    mask_threshold,
    object_masks,
    object_prototypes,
    refined_prototypes,
    track,
    track_objects,
)
from training.methods.student_teacher import Network, ema_update, make_teacher
from training.models.projection_heads import DinoHead
from training.models.vit import TokenFeatures, build_backbone, encode, encode_with_attention

FORWARD, GRADIENT = 1e-5, 1e-4
SETTINGS = DoraSettings()
NUM_CLIPS, CLIP_LENGTH = 2, 4


def assert_close(ours: Tensor, recorded: Tensor, relative: float) -> None:
    """Compare with the largest recorded value as the unit."""
    assert ours.shape == recorded.shape
    unit = recorded.abs().max().item()
    assert (ours - recorded).abs().max().item() <= relative * unit


def by_frame(value: Tensor) -> Tensor:
    """(T, B, ...) of the recording to our (B, T, ...)."""
    return value.transpose(0, 1)


def build_pair(weights: dict[str, dict[str, Tensor]]) -> tuple[Network, Network]:
    backbone = build_backbone("vit_tiny_patch16_224")
    student = Network(backbone, DinoHead(backbone.embed_dim, 1024))
    student.load_state_dict(weights["student"])
    teacher = make_teacher(student)
    teacher.load_state_dict(weights["teacher"])
    return student, teacher


@pytest.fixture(scope="module")
def views(recorded: dict[str, Any]) -> Views:
    return Views(recorded["global_clip"].float()[None], recorded["local_crops"].float())


@pytest.fixture(scope="module")
def features(weights: dict[str, dict[str, Tensor]], views: Views) -> TokenFeatures:
    _, teacher = build_pair(weights)
    with torch.no_grad():
        return encode_with_attention(teacher.backbone, views.global_clips[0].flatten(0, 1))


@pytest.fixture(scope="module")
def maps(features: TokenFeatures, recorded: dict[str, Any]) -> Tensor:
    return track_objects(
        features, recorded["heads"], clip_length=CLIP_LENGTH, settings=SETTINGS.tracking
    )


def step(student: Network, teacher: Network, views: Views, center: Tensor, heads: Tensor) -> Any:
    lesson = teach(
        teacher,
        views.global_clips,
        settings=SETTINGS,
        center=center,
        teacher_temp=0.04,
        heads=heads,
    )
    return learn(student, views, lesson, SETTINGS)


@pytest.fixture(scope="module")
def stepped(
    weights: dict[str, dict[str, Tensor]], views: Views, recorded: dict[str, Any]
) -> tuple[Network, Network, LossParts]:
    """Student and teacher after the backward pass, before the optimizer."""
    student, teacher = build_pair(weights)
    parts = step(student, teacher, views, recorded["center_before"][0], recorded["heads"])
    parts.total.backward()
    return student, teacher, parts


def test_teacher_features_are_the_recorded_ones(features, recorded, weights):
    first = slice(None, None, CLIP_LENGTH)
    assert_close(features.patch_tokens[first], recorded["teacher_patches_f0"], FORWARD)
    assert_close(features.query[first], recorded["query_f0"], FORWARD)
    assert_close(features.cls_attention[first], recorded["attn_f0_cls"][:, :, 1:], FORWARD)
    key = features.key.reshape(NUM_CLIPS, CLIP_LENGTH, *features.key.shape[1:])
    assert_close(key, by_frame(recorded["key"]), FORWARD)
    _, teacher = build_pair(weights)
    logits = teacher.head(features.cls_token).reshape(NUM_CLIPS, CLIP_LENGTH, -1)
    assert_close(logits, by_frame(recorded["teacher_cls"]), FORWARD)


def test_object_prototypes_and_assignment_are_the_recorded_ones(features, recorded):
    first = slice(None, None, CLIP_LENGTH)
    prototypes = object_prototypes(
        features.cls_attention[first], features.query[first], recorded["heads"]
    )
    assert_close(features.cls_attention[first][:, recorded["heads"]], recorded["A_I"], FORWARD)
    assert_close(prototypes, recorded["P"], FORWARD)
    patches = features.patch_tokens[first]
    similarity = torch.nn.functional.normalize(patches, dim=-1) @ prototypes.transpose(1, 2)
    assert_close(similarity, recorded["sk_logits"], FORWARD)
    assert_close(assignment(similarity, epsilon=0.05, iterations=30), recorded["M"], FORWARD)
    refined = refined_prototypes(prototypes, patches, SETTINGS.tracking)
    assert_close(refined, recorded["P_refined"], FORWARD)


def test_tracked_maps_and_thresholds_are_the_recorded_ones(maps, recorded):
    assert_close(maps, recorded["T_prime"].permute(2, 0, 1, 3), FORWARD)
    assert_close(mask_threshold(maps), recorded["mask_threshold"], FORWARD)


def test_tracking_from_recorded_prototypes_gives_the_recorded_maps(recorded):
    ours = track(recorded["P_refined"], by_frame(recorded["key"]))
    assert_close(ours, recorded["T_prime"].permute(2, 0, 1, 3), FORWARD)


def test_no_patch_of_the_masks_differs(maps, recorded):
    masks = object_masks(maps, mask="binary")
    flips = (masks != recorded["binary_masks"].permute(2, 0, 1, 3)).sum().item()
    assert flips == 0
    assert masks.mean().item() == pytest.approx(0.25, abs=0.05)


@pytest.mark.medium
def test_student_logits_of_masked_clips_and_local_crops_are_the_recorded_ones(
    maps, recorded, weights, views
):
    student, _ = build_pair(weights)
    masked_clips = apply_masks(views.global_clips[0], object_masks(maps, mask="binary"))
    with torch.no_grad():
        masked, local = (
            student.head(encode(student.backbone, clips.flatten(0, 2))).reshape(
                *clips.shape[:3], -1
            )
            for clips in (masked_clips, views.local_crops)
        )
    assert_close(masked, recorded["student_masked"].transpose(1, 2), FORWARD)
    by_crop = recorded["student_local"].reshape(CLIP_LENGTH, 6, NUM_CLIPS, -1)
    assert_close(local, by_crop.permute(1, 2, 0, 3), FORWARD)


@pytest.mark.medium
def test_loss_and_its_parts_are_the_recorded_ones(stepped, recorded):
    _, _, parts = stepped
    assert parts.total.item() == pytest.approx(recorded["loss"], rel=FORWARD)
    assert parts.masked.item() == pytest.approx(recorded["L_obj"].mean().item(), rel=FORWARD)
    assert parts.local.item() == pytest.approx(recorded["L_local"].mean().item(), rel=FORWARD)
    assert_close(parts.center, recorded["center_after"][0], FORWARD)


def of_logits(logits: Tensor, targets: Tensor) -> Tensor:
    """The loss of given logits: of features that each prototype takes one number of."""
    identity, lengths = torch.eye(1024), torch.ones(1024, 1)
    return distillation_loss(logits, identity, lengths, targets, student_temp=0.1)


def test_cross_entropies_by_object_and_frame_combine_to_the_recorded_loss(recorded):
    targets = teacher_probabilities(
        by_frame(recorded["teacher_cls"]), recorded["center_before"][0], temp=0.04
    )
    masked = of_logits(recorded["student_masked"].transpose(1, 2), targets)
    assert_close(masked, recorded["L_obj"], FORWARD)
    crops = recorded["student_local"].reshape(CLIP_LENGTH, 6, NUM_CLIPS, -1).permute(1, 2, 0, 3)
    local = of_logits(crops[1:], targets)
    assert_close(local.mean(dim=0), recorded["L_local"], FORWARD)
    assert combine(masked, local, SETTINGS.loss).item() == pytest.approx(
        recorded["loss"], rel=FORWARD
    )
    plain = object_weights(3, CLIP_LENGTH, "mean") @ recorded["F_obj"]
    assert plain.item() == pytest.approx(recorded["loss_plain_mean"], rel=FORWARD)


@pytest.mark.medium
def test_gradients_are_the_recorded_ones(stepped, recorded):
    student, _, _ = stepped
    gradients = {name: p.grad for name, p in student.named_parameters()}
    assert gradients.keys() == recorded["grad_norms"].keys()
    for name, norm in recorded["grad_norms"].items():
        assert gradients[name].norm().item() == pytest.approx(norm, rel=GRADIENT), name
    for name, gradient in recorded["grads"].items():
        difference = (gradients[name] - gradient).norm() / gradient.norm()
        assert difference.item() <= GRADIENT, name


def take_step(
    student: Network, teacher: Network, optimizer: torch.optim.Optimizer, cfg: dict[str, Any]
) -> None:
    clip_gradients(student.parameters(), max_norm=cfg["clip"], by="parameter")
    optimizer.step()
    optimizer.zero_grad()
    ema_update(teacher, student, cfg["ema_m"])


def recorded_optimizer(student: Network, cfg: dict[str, Any]) -> torch.optim.Optimizer:
    optimizer = build_optimizer(student, "adamw")
    set_lr_and_weight_decay(optimizer, lr=cfg["lr"], weight_decay=cfg["wd"])
    return optimizer


@pytest.mark.medium
def test_four_steps_follow_the_recorded_losses_centers_and_teacher(weights, views, recorded):
    cfg = recorded["cfg"]
    student, teacher = build_pair(weights)
    optimizer = recorded_optimizer(student, cfg)
    center = recorded["center_before"][0]
    losses, center_norms = [], []
    for number in range(4):
        parts = step(student, teacher, views, center, recorded["heads"])
        parts.total.backward()
        take_step(student, teacher, optimizer, cfg)
        center = parts.center
        losses.append(parts.total.item())
        center_norms.append(center.norm().item())
        if number == 0:
            assert_weights_after_one_step(student, teacher, recorded)
    assert losses == pytest.approx(recorded["loss_trajectory"], rel=1e-3)
    assert center_norms == pytest.approx(recorded["center_norm_trajectory"], rel=1e-3)


def assert_weights_after_one_step(
    student: Network, teacher: Network, recorded: dict[str, Any]
) -> None:
    """Compare with steps of 5e-4 (student) and 2e-6 (teacher), the sizes of one step.

    AdamW's first step is the sign of the gradient, so where a gradient is 0 but for rounding a
    weight can land anywhere within 2 lr: one in a thousand may.
    """
    lr, momentum = recorded["cfg"]["lr"], recorded["cfg"]["ema_m"]
    ours, followed = dict(student.named_parameters()), dict(teacher.named_parameters())
    for name, expected in recorded["student_after_adamw"].items():
        difference = (ours[name] - expected).abs()
        assert difference.max().item() <= 2 * lr, name
        assert (difference > 1e-6).float().mean().item() < 1e-3, name
    for name, expected in recorded["teacher_after_ema"].items():
        difference = (followed[name] - expected).abs()
        assert difference.max().item() <= 2 * lr * (1 - momentum), name
        assert (difference > 1e-7).float().mean().item() < 1e-3, name
    for name, (total, squares) in recorded["teacher_after_ema_sums"].items():
        weight = followed[name].double()
        # Rounding of single elements adds up like a random walk.
        assert weight.sum().item() == pytest.approx(total, abs=1e-7 * weight.numel() ** 0.5), name
        assert weight.square().sum().item() == pytest.approx(squares, rel=1e-3, abs=0), name
