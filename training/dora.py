"""One step of DORA: teacher, tracking, masks, student, loss."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from training.loss import (
    LossParts,
    LossSettings,
    combine,
    distillation_loss,
    entropy,
    teacher_probabilities,
    update_center,
)
from training.sinkhorn import sinkhorn_teacher, unchanged
from training.teacher import Network
from training.tracking import TrackingSettings, apply_masks, object_masks, track_objects
from training.vit import encode_with_attention


@dataclass(frozen=True)
class Views:
    """What the networks see of B clips, normalised.

    Attributes:
        global_clip: (B, T, 3, H, W), one crop per clip.
        local_crops: (L, B, T, 3, s, s).
    """

    global_clip: Tensor
    local_crops: Tensor


@dataclass(frozen=True, kw_only=True)
class DoraSettings:
    """The method's constants; the defaults are those of the released code."""

    tracking: TrackingSettings = field(default_factory=TrackingSettings)
    loss: LossSettings = field(default_factory=LossSettings)


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Reductions of a tensor over all ranks; by default there is one rank."""

    all_mean: Callable[[Tensor], Tensor] = unchanged
    all_sum: Callable[[Tensor], Tensor] = unchanged
    all_max: Callable[[Tensor], Tensor] = unchanged


ONE_RANK = Ranks()


def dora_step_loss(
    student: nn.Module,
    teacher: Network,
    views: Views,
    *,
    settings: DoraSettings,
    center: Tensor,
    teacher_temp: float,
    heads: Tensor,
    ranks: Ranks = ONE_RANK,
) -> LossParts:
    """Return the loss of this rank's clips; its mean over ranks is that of the global batch.

    Args:
        student: A `Network`, or DDP around one; called once.
        teacher: Its moving average.
        views: The step's clips.
        settings: The method's constants.
        center: (K,) float32, the centre before this step.
        teacher_temp: Softmax temperature of the teacher, > 0.
        heads: (O,) int64 from `draw_heads`, the same on every rank.
        ranks: Reductions over ranks.
    """
    masked_clips, teacher_logits, coverage = discover_and_mask(
        teacher, views.global_clip, heads, settings.tracking, ranks
    )
    # The skipped crops would not enter the loss: the student need not see them.
    local_crops = views.local_crops[settings.loss.local_crops_skipped :]
    student_masked, student_local = student(masked_clips, local_crops if len(local_crops) else None)

    # Temperatures of 0.04 leave a half-precision logit no digits: the loss is float32.
    with torch.autocast(center.device.type, enabled=False):
        targets = _targets(teacher_logits, center, teacher_temp, settings.loss, ranks)
        temp = settings.loss.student_temp
        masked = distillation_loss(student_masked, targets, student_temp=temp)
        local = masked.new_zeros((0, masked.shape[1]))
        if student_local is not None:
            local = distillation_loss(student_local, targets, student_temp=temp)
        return LossParts(
            total=combine(masked, local, settings.loss),
            masked=masked.detach().mean(),
            local=local.detach().mean(),
            teacher_entropy=entropy(targets).mean(),
            teacher_mean_entropy=entropy(targets.flatten(0, -2).mean(dim=0)),
            mask_coverage=coverage,
            center=update_center(
                center,
                teacher_logits,
                momentum=settings.loss.center_momentum,
                all_mean=ranks.all_mean,
            ),
        )


@torch.no_grad()
def discover_and_mask(
    teacher: Network, clip: Tensor, heads: Tensor, settings: TrackingSettings, ranks: Ranks
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the masked clips (O, B, T, 3, H, W), the teacher's logits (B, T, K) and the coverage.

    Args:
        teacher: The network that finds and tracks.
        clip: (B, T, 3, H, W).
        heads: (O,) int64.
        settings: How objects are found and masked.
        ranks: Reductions over ranks.
    """
    features = encode_with_attention(
        teacher.backbone, clip.flatten(0, 1), attention_scale=settings.attention_scale
    )
    logits = teacher.head(features.cls_token).reshape(*clip.shape[:2], -1)
    maps = track_objects(features, heads, clip_length=clip.shape[1], settings=settings)
    masks = object_masks(maps, mask=settings.mask, all_mean=ranks.all_mean)
    return apply_masks(clip, masks), logits, masks.mean()


@torch.no_grad()
def _targets(
    logits: Tensor, center: Tensor, temp: float, settings: LossSettings, ranks: Ranks
) -> Tensor:
    """Return the teacher's probabilities, (B, T, K) float32."""
    if settings.teacher_centering == "mean":
        return teacher_probabilities(logits, center, temp=temp)
    balanced = sinkhorn_teacher(
        logits.flatten(0, 1),
        temp=temp,
        iterations=settings.sinkhorn_iterations,
        all_sum=ranks.all_sum,
        all_max=ranks.all_max,
    )
    return balanced.reshape(logits.shape)
