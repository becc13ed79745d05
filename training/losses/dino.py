"""Self-distillation: the student's masked clips and local crops against the teacher's clip."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from training.losses.sinkhorn import unchanged


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """How the cross-entropies are formed and summed; the defaults follow the released code.

    Attributes:
        student_temp: Softmax temperature of the student, > 0.
        teacher_centering: What keeps the teacher from one answer for all: "mean" subtracts a
            moving mean of its logits; "sinkhorn" balances its answers over the global batch.
        center_momentum: Of the moving mean, in [0, 1).
        sinkhorn_iterations: For teacher_centering "sinkhorn".
        local_crops_skipped: How many of the local crops, from the first, the student never sees.
        object_weights: "carry": 1 + 1/T + 1/T^2 ... for the first object down to 1 for the last;
            "mean": all objects alike.
        reduction: "mean": half the mean over objects plus half the mean over local crops;
            "sum": the sums over objects, crops and views (equations 8 to 10); "pairs": the mean
            over all pairs of a teacher's and a student's view, as in DINO.
    """

    student_temp: float = 0.1
    teacher_centering: Literal["mean", "sinkhorn"] = "mean"
    center_momentum: float = 0.9
    sinkhorn_iterations: int = 3
    local_crops_skipped: int = 1
    object_weights: Literal["carry", "mean"] = "carry"
    reduction: Literal["mean", "sum", "pairs"] = "mean"

    def __post_init__(self) -> None:
        if self.reduction != "mean" and self.object_weights == "carry":
            raise ValueError(
                f'reduction "{self.reduction}" takes all objects alike: set object_weights "mean"'
            )


@dataclass(frozen=True)
class LossParts:
    """The loss of a step on this rank and what is worth logging of it; scalars but `center`.

    Attributes:
        total: What is differentiated.
        masked: Mean cross-entropy of the masked clips, detached; nats.
        local: Mean cross-entropy of the local crops, detached; nats.
        teacher_entropy: Mean entropy of the teacher's probabilities: the floor of both; at log K
            the teacher has collapsed to the uniform answer.
        teacher_mean_entropy: Entropy of this rank's mean probabilities; at 0 the teacher has
            collapsed to one answer.
        mask_coverage: Mean of the object masks: the visible share of the frames.
        center: (K,) the center to use in the next step.
    """

    total: Tensor
    masked: Tensor
    local: Tensor
    teacher_entropy: Tensor
    teacher_mean_entropy: Tensor
    mask_coverage: Tensor
    center: Tensor

    @property
    def masked_divergence(self) -> Tensor:
        """KL divergence of the student's masked clips from the teacher, nats."""
        return self.masked - self.teacher_entropy

    @property
    def local_divergence(self) -> Tensor:
        """KL divergence of the student's local crops from the teacher, nats."""
        return self.local - self.teacher_entropy


def teacher_probabilities(teacher_logits: Tensor, center: Tensor, *, temp: float) -> Tensor:
    """Return the centered and sharpened teacher, float32, the last axis summing to 1.

    Args:
        teacher_logits: (..., K).
        center: (K,) subtracted first.
        temp: Teacher temperature, > 0.
    """
    return ((teacher_logits.float() - center) / temp).softmax(dim=-1)


def update_center(
    center: Tensor,
    teacher_logits: Tensor,
    *,
    momentum: float,
    all_mean: Callable[[Tensor], Tensor] = unchanged,
) -> Tensor:
    """Return the moving mean of the teacher's logits after this batch, (K,) float32.

    Args:
        center: (K,) before.
        teacher_logits: (..., K) of this rank.
        momentum: Weight of the old center.
        all_mean: Mean of a tensor over ranks; every rank has as many clips.
    """
    batch_mean = all_mean(teacher_logits.float().flatten(0, -2).mean(dim=0))
    return center * momentum + batch_mean * (1 - momentum)


def object_weights(num_objects: int, clip_length: int, kind: Literal["carry", "mean"]) -> Tensor:
    """Return the weight of each object's loss, (O,) float32.

    "carry" is what comes out when the sum over frames is divided by T after each object but not
    set back to 0: each object's loss stays in the sum and is divided by T once more per object.
    """
    if kind == "mean":
        return torch.full((num_objects,), 1 / num_objects)
    carried = [
        sum(clip_length**-later for later in range(num_objects - index))
        for index in range(num_objects)
    ]
    return torch.tensor(carried) / num_objects


def combine(
    masked: Tensor, local: Tensor, settings: LossSettings, *, global_views: int = 1
) -> Tensor:
    """Return the loss, a scalar, of the cross-entropies of all views and frames.

    Args:
        masked: (O, T), mean over the global views.
        local: (L, T) of the local crops that count, mean over the teacher's views; L may be 0, then
            the masked part stands alone.
        settings: Weights and reduction.
        global_views: Number of global views: the paper's sums have a term for each.
    """
    num_objects, clip_length = masked.shape
    if settings.reduction == "sum":
        return global_views * (masked.sum(dim=0) + local.sum(dim=0)).mean()
    if settings.reduction == "pairs":
        return torch.cat([masked, local]).mean()
    weights = object_weights(num_objects, clip_length, settings.object_weights).to(masked)
    by_object = masked.mean(dim=1)
    if len(local):
        by_object = 0.5 * (by_object + local.mean())
    return weights @ by_object


def entropy(probabilities: Tensor) -> Tensor:
    """Return the entropy over the last axis, nats."""
    parts: Tensor = torch.special.entr(probabilities)
    return parts.sum(dim=-1)
