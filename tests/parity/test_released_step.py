"""One training step of the authors' released code, recorded, against ours with preset `official`.

The recording: ViT-Tiny/16, 2 clips of 4 frames, 6 local crops, 3 objects, 1024 prototypes, float32
on a CPU. Bounds: relative to the largest value of the tensor, 1e-5 forward and 1e-4 for
gradients, since sums are taken in another order; no patch of any mask may differ.
"""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from training.config.presets import resolve_config
from training.config.sections import OptimConfig
from training.engine.optim import build_optimizer, clip_gradients, set_lr_and_weight_decay
from training.losses.cross_entropy import distillation_losses
from training.losses.dino import combine, teacher_probabilities, weights_of_objects
from training.losses.sinkhorn import assignment
from training.methods.base import StepOutput, Views
from training.methods.dora import Dora
from training.methods.object_tracking import (
    apply_masks,
    mask_threshold,
    object_masks,
    object_prototypes,
    refined_prototypes,
    track,
    track_objects,
)
from training.models.vit import TokenFeatures, encode, encode_with_attention
from training.schedules import Progress

FORWARD, GRADIENT = 1e-5, 1e-4
NUM_CLIPS, CLIP_LENGTH = 2, 4
CONFIG = resolve_config(
    "official",
    None,
    [
        *("model.backbone=vit_tiny_patch16_224", "model.num_prototypes=1024"),
        *("model.drop_path_rate=0", f"data.clip_length={CLIP_LENGTH}"),
        *("optim.freeze_last_layer_epochs=0", "optim.momentum_end=0.996"),
    ],
)
NOW = Progress(step=0, steps=100, steps_per_epoch=1.0)


def assert_close(ours: Tensor, recorded: Tensor, relative: float) -> None:
    """Compare with the largest recorded value as the unit."""
    assert ours.shape == recorded.shape
    unit = recorded.abs().max().item()
    assert (ours - recorded).abs().max().item() <= relative * unit


def by_frame(value: Tensor) -> Tensor:
    """(T, B, ...) of the recording to our (B, T, ...)."""
    return value.transpose(0, 1)


class RecordedHeads(Dora):
    """DORA with the attention heads that the released code drew."""

    heads: Tensor

    def draw_heads(self, now: Progress) -> Tensor:
        return self.heads


def build(weights: dict[str, dict[str, Tensor]], recorded: dict[str, Any]) -> RecordedHeads:
    method = RecordedHeads(CONFIG)
    method.student.load_state_dict(weights["student"])
    method.teacher.load_state_dict(weights["teacher"])
    method.center = recorded["center_before"][0].clone()
    method.heads = recorded["heads"]
    return method


@pytest.fixture(scope="module")
def views(recorded: dict[str, Any]) -> Views:
    return Views(
        recorded["global_clip"].float()[None],
        recorded["local_crops"].float(),
        torch.arange(NUM_CLIPS),
    )


@pytest.fixture(scope="module")
def features(
    weights: dict[str, dict[str, Tensor]], recorded: dict[str, Any], views: Views
) -> TokenFeatures:
    method = build(weights, recorded)
    with torch.no_grad():
        return encode_with_attention(method.teacher.backbone, views.global_clips[0].flatten(0, 1))


@pytest.fixture(scope="module")
def maps(features: TokenFeatures, recorded: dict[str, Any]) -> Tensor:
    return track_objects(
        features, recorded["heads"], clip_length=CLIP_LENGTH, tracking=CONFIG.tracking
    )


@dataclass(frozen=True)
class Stepped:
    """What four steps gave, and the first of them."""

    losses: list[float]
    center_norms: list[float]
    first: StepOutput
    gradients: dict[str, Tensor]
    """Of the first, before they are clipped."""
    student: dict[str, Tensor]
    """Its weights after the first, as `teacher`'s and `center`."""
    teacher: dict[str, Tensor]
    center: Tensor


@pytest.fixture(scope="module")
def stepped(
    weights: dict[str, dict[str, Tensor]], views: Views, recorded: dict[str, Any]
) -> Stepped:
    cfg = recorded["cfg"]
    method = build(weights, recorded)
    assert method.scheduled(NOW) == {"momentum": cfg["ema_m"], "teacher_temp": 0.04}
    optimizer = build_optimizer(method.student, OptimConfig())
    set_lr_and_weight_decay(optimizer, lr=cfg["lr"], weight_decay=cfg["wd"])
    losses, center_norms, of_first = [], [], dict[str, Any]()
    for _ in range(4):
        output = method(views, method.prepare(views, NOW))
        optimizer.zero_grad()
        output.loss.backward()
        gradients = None if of_first else gradients_of(method)
        clip_gradients(method.student.parameters(), max_norm=cfg["clip"], by="parameter")
        optimizer.step()
        method.after_step(NOW)
        losses.append(output.loss.item())
        center_norms.append(method.center.norm().item())
        of_first = of_first or {
            "first": output,
            "gradients": gradients,
            "student": weights_of(method.student),
            "teacher": weights_of(method.teacher),
            "center": method.center.clone(),
        }
    return Stepped(losses, center_norms, **of_first)


def gradients_of(method: Dora) -> dict[str, Tensor]:
    parameters = method.student.named_parameters()
    return {name: p.grad.clone() for name, p in parameters if p.grad is not None}


def weights_of(network: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in network.named_parameters()}


def test_teacher_features_are_the_recorded_ones(features, recorded, weights):
    first = slice(None, None, CLIP_LENGTH)
    assert_close(features.patch_tokens[first], recorded["teacher_patches_f0"], FORWARD)
    assert_close(features.query[first], recorded["query_f0"], FORWARD)
    assert_close(features.cls_attention[first], recorded["attn_f0_cls"][:, :, 1:], FORWARD)
    key = features.key.reshape(NUM_CLIPS, CLIP_LENGTH, *features.key.shape[1:])
    assert_close(key, by_frame(recorded["key"]), FORWARD)
    logits = (
        build(weights, recorded)
        .teacher.head(features.cls_token)
        .reshape(NUM_CLIPS, CLIP_LENGTH, -1)
    )
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
    refined = refined_prototypes(prototypes, patches, CONFIG.tracking)
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
    student = build(weights, recorded).student
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
    output = stepped.first
    masked, local = output.metrics["loss_masked"], output.metrics["loss_local"]
    assert output.loss.item() == pytest.approx(recorded["loss"], rel=FORWARD)
    assert masked.item() == pytest.approx(recorded["L_obj"].mean().item(), rel=FORWARD)
    assert local.item() == pytest.approx(recorded["L_local"].mean().item(), rel=FORWARD)


def of_logits(logits: Tensor, targets: Tensor) -> Tensor:
    """The loss of given logits: of features that each prototype takes one number of."""
    identity, lengths = torch.eye(1024), torch.ones(1024, 1)
    return distillation_losses([logits], identity, lengths, [targets], student_temp=0.1)[0]


def test_cross_entropies_by_object_and_frame_combine_to_the_recorded_loss(recorded):
    targets = teacher_probabilities(
        by_frame(recorded["teacher_cls"]), recorded["center_before"][0], temp=0.04
    )
    masked = of_logits(recorded["student_masked"].transpose(1, 2), targets)
    assert_close(masked, recorded["L_obj"], FORWARD)
    crops = recorded["student_local"].reshape(CLIP_LENGTH, 6, NUM_CLIPS, -1).permute(1, 2, 0, 3)
    local = of_logits(crops[1:], targets)
    assert_close(local.mean(dim=0), recorded["L_local"], FORWARD)
    assert combine(masked, local).item() == pytest.approx(recorded["loss"], rel=FORWARD)
    plain = weights_of_objects(3, CLIP_LENGTH, "mean") @ recorded["F_obj"]
    assert plain.item() == pytest.approx(recorded["loss_plain_mean"], rel=FORWARD)


@pytest.mark.medium
def test_gradients_are_the_recorded_ones(stepped, recorded):
    gradients = stepped.gradients
    assert gradients.keys() == recorded["grad_norms"].keys()
    for name, norm in recorded["grad_norms"].items():
        assert gradients[name].norm().item() == pytest.approx(norm, rel=GRADIENT), name
    for name, gradient in recorded["grads"].items():
        difference = (gradients[name] - gradient).norm() / gradient.norm()
        assert difference.item() <= GRADIENT, name


@pytest.mark.medium
def test_four_steps_follow_the_recorded_losses_centers_and_teacher(stepped, recorded):
    assert_close(stepped.center, recorded["center_after"][0], FORWARD)
    assert_weights_after_one_step(stepped, recorded)
    assert stepped.losses == pytest.approx(recorded["loss_trajectory"], rel=1e-3)
    assert stepped.center_norms == pytest.approx(recorded["center_norm_trajectory"], rel=1e-3)


def assert_weights_after_one_step(stepped: Stepped, recorded: dict[str, Any]) -> None:
    """Compare with steps of 5e-4 (student) and 2e-6 (teacher), the sizes of one step.

    AdamW's first step is the sign of the gradient, so where a gradient is 0 but for rounding a
    weight can land anywhere within 2 lr: one in a thousand may.
    """
    lr, momentum = recorded["cfg"]["lr"], recorded["cfg"]["ema_m"]
    ours, followed = stepped.student, stepped.teacher
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
