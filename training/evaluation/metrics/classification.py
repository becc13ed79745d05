"""Top-1 and top-5 hits of a classifier."""

import torch
from torch import Tensor


def top_hits(scores: Tensor, labels: Tensor) -> Tensor:
    """Return how many labels are ranked first, and among the first five, (2,) int64.

    Args:
        scores: (M, C), the highest first; ties go to the class that comes first, and a class with
            -inf is not ranked at all.
        labels: (M,) int64.
    """
    ranked = scores.argsort(dim=1, descending=True, stable=True)[:, :5]
    hit = (ranked == labels[:, None]) & (scores.gather(1, ranked) != -torch.inf)
    return torch.stack([hit[:, 0].sum(), hit.sum()])
