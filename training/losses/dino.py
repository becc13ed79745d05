"""Self-distillation: the student's masked clips and local crops against the teacher's clip."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from training.distributed import collectives
from training.transfer import send


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
    all_mean: Callable[[Tensor], Tensor] = collectives.all_mean,
) -> Tensor:
    """Return the moving mean of the teacher's logits after this batch, (K,) float32.

    Args:
        center: (K,) before.
        teacher_logits: (..., K) of this rank.
        all_mean: Mean of a tensor over ranks; every rank has as many clips.
    """
    batch_mean = all_mean(teacher_logits.float().flatten(0, -2).mean(dim=0))
    return center * momentum + batch_mean * (1 - momentum)


def weights_of_objects(
    num_objects: int, clip_length: int, kind: Literal["carry", "mean"]
) -> Tensor:
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
    masked: Tensor,
    local: Tensor,
    *,
    reduction: Literal["mean", "sum", "pairs"] = "mean",
    object_weights: Literal["carry", "mean"] = "carry",
    global_views: int = 1,
) -> Tensor:
    """Return the loss, a scalar, of the cross-entropies of all views and frames.

    Args:
        masked: (O, T), mean over the global views.
        local: (L, T) of the local crops that count, mean over the teacher's views; L may be 0, then
            the masked part stands alone.
        reduction: "mean": half the mean over objects plus half the mean over local crops; "sum":
            the sums over objects, crops and views (equations 8 to 10); "pairs": the mean over all
            pairs of a teacher's and a student's view, as in DINO.
        object_weights: See `weights_of_objects`; the two other reductions weigh all alike.
        global_views: Number of global views: the paper's sums have a term for each.
    """
    num_objects, clip_length = masked.shape
    if reduction == "sum":
        return global_views * (masked.sum(dim=0) + local.sum(dim=0)).mean()
    if reduction == "pairs":
        return torch.cat([masked, local]).mean()
    of_objects = weights_of_objects(num_objects, clip_length, object_weights)
    (weights,) = send([of_objects], masked.device)
    by_object = masked.mean(dim=1)
    if len(local):
        by_object = 0.5 * (by_object + local.mean())
    return weights @ by_object


def entropy(probabilities: Tensor) -> Tensor:
    """Return the entropy over the last axis, nats."""
    parts: Tensor = torch.special.entr(probabilities)
    return parts.sum(dim=-1)
