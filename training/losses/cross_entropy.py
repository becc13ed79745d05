"""Cross-entropy of features with a weight-normalized last layer, a chunk of its outputs at a time.

With K = 65,536 prototypes the student's logits, their softmax and the normalized weight are the
largest tensors of a step. None of them is ever whole here: the backward pass computes each chunk
of the logits again, which is one matrix product more in hundreds.

torch's own autograd with `torch.utils.checkpoint` around each chunk gives the same loss in the same
time, but needs three times the memory (0.34 against 0.11 GiB for 3 x 16 rows and K = 65,536): it
keeps each chunk's gradient until all are joined. So the backward pass stays written out.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from training.models.projection_heads import _norms

CHUNK = 4096
"""Prototypes whose logits exist at a time."""


def distillation_losses(
    features: Sequence[Tensor],
    weight_v: Tensor,
    weight_g: Tensor,
    targets: Sequence[Tensor],
    *,
    student_temp: float,
) -> list[Tensor]:
    """Return cross-entropies H(teacher, student) averaged over clips, (V, T) of each kind, nats.

    The kinds, such as masked clips and local crops, go through the prototypes together.

    Args:
        features: Of each kind of view (V, B, T, c), what the head's last layer gets.
        weight_v: (K, c) directions of the prototypes, of any length.
        weight_g: (K, 1) lengths of the prototypes.
        targets: Of each kind (B, T, K), the teacher's probabilities; rows sum to 1; detached.
        student_temp: > 0.
    """
    entropies = cross_entropies(
        [kind.flatten(1, 2) for kind in features],
        weight_v,
        weight_g,
        [kind.flatten(0, 1) for kind in targets],
        student_temp=student_temp,
    )
    return [
        rows.reshape(len(rows), *kind.shape[:2]).mean(dim=1)
        for rows, kind in zip(entropies, targets, strict=True)
    ]


def cross_entropies(
    features: Sequence[Tensor],
    weight_v: Tensor,
    weight_g: Tensor,
    targets: Sequence[Tensor],
    *,
    student_temp: float,
) -> list[Tensor]:
    """Return the cross-entropies H(teacher, student), (V, R) float32 of each kind, nats.

    Args:
        features: Of each kind (V, R, c), what the head's last layer gets; V rows share a target.
        targets: Of each kind (R, K), the teacher's probabilities; rows sum to 1; detached.
        student_temp: > 0.
    """
    views = tuple(len(kind) for kind in features)
    with torch.autocast(weight_v.device.type, enabled=False):
        rows = torch.cat([kind.float().flatten(0, 1) for kind in features])
        entropies: Tensor = _CrossEntropy.apply(
            rows, weight_v, weight_g, student_temp, views, *targets
        )
    shapes = [(count, len(target)) for count, target in zip(views, targets, strict=True)]
    parts = torch.split(entropies, [count * rows for count, rows in shapes])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


class _CrossEntropy(torch.autograd.Function):
    """Cross-entropies (S,) of rows (S, c): logsumexp less mean logit.

    The rows of a kind are V times those of its targets (R, K), and kinds follow each other.
    """

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight_v: Tensor,
        weight_g: Tensor,
        temp: float,
        views: tuple[int, ...],
        *targets: Tensor,
    ) -> Tensor:
        parts, expected = [], rows.new_zeros(len(rows))
        for chunk in _chunks(len(weight_v)):
            scale = weight_g[chunk] / _norms(weight_v[chunk]) / temp
            logits = F.linear(rows, weight_v[chunk]) * scale[:, 0]
            parts.append(logits.logsumexp(dim=-1))
            expected += torch.cat(
                [
                    torch.einsum("vrk,rk->vr", of_kind, target[:, chunk]).flatten()
                    for of_kind, target in _kinds(logits, views, targets)
                ]
            )
        normalizer = torch.stack(parts).logsumexp(dim=0)
        ctx.save_for_backward(rows, weight_v, weight_g, normalizer, *targets)
        ctx.temp, ctx.views = temp, views
        return normalizer - expected

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight_v, weight_g, normalizer, *targets = ctx.saved_tensors
        upstream = gradients[0][:, None] / ctx.temp
        of_rows = torch.zeros_like(rows)
        of_v, of_g = torch.empty_like(weight_v), torch.empty_like(weight_g)
        for chunk in _chunks(len(weight_v)):
            directions, norms = weight_v[chunk], _norms(weight_v[chunk])
            scale = (weight_g[chunk] / norms)[:, 0]
            cosines = F.linear(rows, directions)  # times |v|
            moved = (cosines * (scale / ctx.temp) - normalizer[:, None]).exp_()
            for of_kind, target in _kinds(moved, ctx.views, targets):
                of_kind.sub_(target[:, chunk])
            moved = moved.mul_(upstream)  # gradient of logits x temp
            of_scale = torch.einsum("sk,sk->k", moved, cosines)[:, None]
            moved = moved.mul_(scale)
            of_rows += moved @ directions
            of_g[chunk] = of_scale / norms
            # d(g / |v|) / dv = -g v / |v|^3
            of_v[chunk] = moved.t() @ rows
            of_v[chunk] -= directions * (of_scale * scale[:, None] / norms.square())
        return of_rows, of_v, of_g, None, None, *(None for _ in targets)


def _kinds(
    values: Tensor, views: Sequence[int], targets: Sequence[Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield of each kind its part of the rows, (V, R, k), and its targets; views of the values."""
    first = 0
    for count, target in zip(views, targets, strict=True):
        last = first + count * len(target)
        yield values[first:last].view(count, len(target), values.shape[-1]), target
        first = last


def _chunks(num_prototypes: int) -> list[slice]:
    return [slice(first, first + CHUNK) for first in range(0, num_prototypes, CHUNK)]
