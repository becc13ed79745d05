"""Weighted k-nearest-neighbour classification of frozen features, as DINO evaluates it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

TEMPERATURE = 0.07
"""Of the votes' weights; DINO's."""
_SIMILARITIES_AT_ONCE = 2**26
"""Similarities in memory at a time: 256 MiB as float32."""


@dataclass(frozen=True)
class KnnScore:
    """Accuracy for one number of neighbours.

    Attributes:
        k: As asked for.
        k_used: At most the number of training images.
        top1_percent: Of the validation images, 0 to 100.
        top5_percent: The true class is among the five with most votes; a class without a vote is
            none of them.
    """

    k: int
    k_used: int
    top1_percent: float
    top5_percent: float


def knn_scores(
    train: Tensor,
    train_labels: Tensor,
    val: Tensor,
    val_labels: Tensor,
    *,
    ks: Sequence[int],
    temperature: float,
) -> list[KnnScore]:
    """Return the accuracy for each k.

    The k training images with the highest cosine similarity vote for their class, each with the
    weight exp(similarity / temperature). Validation images are taken in pieces, so that any number
    of them works, few and many.

    Args:
        train: (N, D) float32, rows of unit length; its device does the work.
        train_labels: (N,) int64, >= 0.
        val: (M, D) float32, rows of unit length, M >= 1.
        val_labels: (M,) int64.
        ks: Numbers of neighbours, each >= 1; more than N counts as N.
        temperature: Of the weights, > 0.
    """
    num_classes = int(train_labels.max()) + 1
    used = [min(k, len(train)) for k in ks]
    hits = torch.zeros(len(ks), 2, dtype=torch.int64)  # top-1, top-5
    piece = max(1, _SIMILARITIES_AT_ONCE // len(train))
    for part, labels in zip(torch.split(val, piece), torch.split(val_labels, piece), strict=True):
        similarity, neighbours = (part.to(train.device) @ train.T).topk(max(used), dim=1)
        # On the CPU: sums of votes on a GPU would depend on the order of its threads.
        similarity, classes = similarity.cpu().double(), train_labels[neighbours.cpu()]
        for row, k in enumerate(used):
            votes = count_votes(
                similarity[:, :k], classes[:, :k], num_classes=num_classes, temperature=temperature
            )
            hits[row] += _hits(votes, labels)
    percent = 100 * hits.double() / len(val)
    return [
        KnnScore(k, k_used, *percent[row].tolist())
        for row, (k, k_used) in enumerate(zip(ks, used, strict=True))
    ]


def count_votes(
    similarity: Tensor, classes: Tensor, *, num_classes: int, temperature: float
) -> Tensor:
    """Return the votes for each class, (M, C) float64, relative to the nearest neighbour's vote.

    Args:
        similarity: (M, k) of the neighbours, the nearest first.
        classes: (M, k) int64, their classes.
        num_classes: C.
        temperature: See `knn_scores`. Dividing by the nearest neighbour's weight changes no
            order and lets no temperature overflow.
    """
    weights = ((similarity - similarity[:, :1]).double() / temperature).exp()
    votes = weights.new_zeros(len(similarity), num_classes)
    return votes.scatter_add_(1, classes, weights)


def _hits(votes: Tensor, labels: Tensor) -> Tensor:
    """Return how many labels are the first, and among the first five, (2,) int64."""
    ranked = votes.argsort(dim=1, descending=True, stable=True)[:, :5]
    hit = (ranked == labels[:, None]) & (votes.gather(1, ranked) > 0)
    return torch.stack([hit[:, 0].sum(), hit.sum()])
