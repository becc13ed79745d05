"""VICReg: two views alike, every dimension varied, no two correlated (Bardes et al. 2022)."""

from typing import NamedTuple

import torch
from torch import Tensor

from training.distributed.collectives import all_gather

_EPSILON = 1e-4
"""Under the square root, whose gradient is infinite at 0."""


class VicregTerms(NamedTuple):
    """The three terms, unweighted; scalars. Variance and covariance are of both views together."""

    invariance: Tensor
    """Mean squared difference of the views, over images and dimensions."""
    variance: Tensor
    """How much the standard deviation of a dimension lacks to 1, mean over dimensions; the authors'
    code has half of it."""
    covariance: Tensor
    """Sum of the squared covariances of different dimensions, over the number of dimensions."""


def vicreg_terms(first: Tensor, second: Tensor) -> VicregTerms:
    """Return the terms for two views of this rank's images; means over ranks are the loss's.

    Variance and covariance are those of the images of all ranks.

    Args:
        first: (M, D) embeddings of one view; as many on every rank.
        second: (M, D) of the other.
    """
    with torch.autocast(first.device.type, enabled=False):
        one, other = first.float(), second.float()
        views = [all_gather(view) for view in (one, other)]
        centered = [view - view.mean(dim=0) for view in views]
        return VicregTerms(
            invariance=(one - other).square().mean(),
            variance=_lacking(centered[0]) + _lacking(centered[1]),
            covariance=_redundancy(centered[0]) + _redundancy(centered[1]),
        )


def _lacking(centered: Tensor) -> Tensor:
    variance = centered.square().sum(dim=0) / max(len(centered) - 1, 1)
    return (1 - (variance + _EPSILON).sqrt()).relu().mean()


def _redundancy(centered: Tensor) -> Tensor:
    covariance = centered.T @ centered / max(len(centered) - 1, 1)
    squares = covariance.square()
    return (squares.sum() - squares.diagonal().sum()) / len(covariance)
