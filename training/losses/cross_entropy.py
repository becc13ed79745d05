"""Cross-entropy of features with a weight-normalized last layer, a chunk of its outputs at a time.

With K = 65,536 prototypes the student's logits, their softmax and the normalized weight are the
largest tensors of a step. None of them is ever whole here: the backward pass computes each chunk
of the logits again, which is one matrix product more in hundreds.

torch's own autograd with `torch.utils.checkpoint` around each chunk gives the same loss in the same
time, but needs three times the memory (0.34 against 0.11 GiB for 3 x 16 rows and K = 65,536): it
keeps each chunk's gradient until all are joined. So the backward pass stays written out.
"""

from typing import Any

import torch
from torch import Tensor

from training.models.linear import linear
from training.models.projection_heads import _norms

CHUNK = 4096
"""Prototypes whose logits exist at a time."""


def distillation_loss(
    features: Tensor, weight_v: Tensor, weight_g: Tensor, targets: Tensor, *, student_temp: float
) -> Tensor:
    """Return the cross-entropy H(teacher, student) averaged over clips, (V, T), nats.

    Args:
        features: (V, B, T, c) what the head's last layer gets, of V views of B clips.
        weight_v: (K, c) directions of the prototypes, of any length.
        weight_g: (K, 1) lengths of the prototypes.
        targets: (B, T, K) the teacher's probabilities; rows sum to 1; detached.
        student_temp: > 0.
    """
    entropies = cross_entropies(
        features.flatten(1, 2), weight_v, weight_g, targets.flatten(0, 1), student_temp=student_temp
    )
    return entropies.reshape(len(features), *targets.shape[:2]).mean(dim=1)


def cross_entropies(
    features: Tensor, weight_v: Tensor, weight_g: Tensor, targets: Tensor, *, student_temp: float
) -> Tensor:
    """Return the cross-entropies H(teacher, student) of V x R rows, (V, R) float32, nats.

    Args:
        features: (V, R, c) what the head's last layer gets; V rows share a target.
        weight_v: (K, c) directions of the prototypes, of any length.
        weight_g: (K, 1) lengths of the prototypes.
        targets: (R, K) the teacher's probabilities; rows sum to 1; detached.
        student_temp: > 0.
    """
    with torch.autocast(features.device.type, enabled=False):
        entropies: Tensor = _CrossEntropy.apply(
            features.float(), weight_v, weight_g, targets, student_temp
        )
    return entropies


class _CrossEntropy(torch.autograd.Function):
    """Cross-entropies (V, R) of (V, R, c) with targets (R, K): logsumexp less mean logit."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight_v: Tensor, weight_g: Tensor, targets: Tensor, temp: float
    ) -> Tensor:
        parts, expected = [], features.new_zeros(features.shape[:2])
        for chunk in _chunks(len(weight_v)):
            scale = weight_g[chunk] / _norms(weight_v[chunk]) / temp
            logits = linear(features, weight_v[chunk]) * scale[:, 0]
            parts.append(logits.logsumexp(dim=-1))
            expected += torch.einsum("vrk,rk->vr", logits, targets[:, chunk])
        normalizer = torch.stack(parts).logsumexp(dim=0)
        ctx.save_for_backward(features, weight_v, weight_g, targets, normalizer)
        ctx.temp = temp
        return normalizer - expected

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        features, weight_v, weight_g, targets, normalizer = ctx.saved_tensors
        upstream = gradients[0][..., None] / ctx.temp
        of_features = torch.zeros_like(features)
        of_v, of_g = torch.empty_like(weight_v), torch.empty_like(weight_g)
        rows = features.flatten(0, 1)
        for chunk in _chunks(len(weight_v)):
            directions, norms = weight_v[chunk], _norms(weight_v[chunk])
            scale = (weight_g[chunk] / norms)[:, 0]
            cosines = linear(features, directions)  # times |v|
            moved = (cosines * (scale / ctx.temp) - normalizer[..., None]).exp_()
            moved = moved.sub_(targets[:, chunk]).mul_(upstream)  # gradient of logits x temp
            of_scale = torch.einsum("vrk,vrk->k", moved, cosines)[:, None]
            moved = moved.mul_(scale)
            of_features += linear(moved, directions.t())
            of_g[chunk] = of_scale / norms
            # d(g / |v|) / dv = -g v / |v|^3
            of_v[chunk] = linear(moved.flatten(0, 1).t(), rows.t())
            of_v[chunk] -= directions * (of_scale * scale[:, None] / norms.square())
        return of_features, of_v, of_g, None, None


def _chunks(num_prototypes: int) -> list[slice]:
    return [slice(first, first + CHUNK) for first in range(0, num_prototypes, CHUNK)]
