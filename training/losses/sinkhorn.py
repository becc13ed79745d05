"""Sinkhorn-Knopp in the log domain, float32: no temperature overflows it.

Both uses alternate two steps on the logarithm of a matrix: scale every column, then every row,
to its wanted sum. In the log domain a scaling is a subtraction of a logsumexp.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from training.distributed import collectives


def assignment(
    logits: Tensor,
    *,
    epsilon: float,
    iterations: int,
    marginals: Literal["patch", "paper"] = "patch",
) -> Tensor:
    """Return the soft assignment of patches to objects (paper, equation 4), (B, N, O) float32.

    Each clip is solved on its own. The last step is that of the patches, so their sums are exact
    and those of the objects are as close as the iterations have brought them.

    Args:
        logits: (B, N, O) similarity of each patch and object prototype.
        epsilon: Strength of the entropy term, > 0; the smaller, the harder the assignment.
        iterations: Pairs of steps, >= 1.
        marginals: "patch": each patch sums to 1 and each object to N / O, as in the released
            code. "paper": 1 / N and 1 / O, which is the same matrix divided by N.
    """
    log_plan = logits.float() / epsilon
    for _ in range(iterations):
        log_plan = log_plan - log_plan.logsumexp(dim=1, keepdim=True)
        log_plan = log_plan - log_plan.logsumexp(dim=2, keepdim=True)
    plan = log_plan.exp()
    return plan if marginals == "patch" else plan / logits.shape[1]


def sinkhorn_teacher(
    logits: Tensor,
    *,
    temp: float,
    iterations: int,
    all_sum: Callable[[Tensor], Tensor] = collectives.all_sum,
    all_max: Callable[[Tensor], Tensor] = collectives.all_max,
) -> Tensor:
    """Return the teacher's probabilities balanced over the global batch, (M, K) float32.

    Instead of subtracting a moving center, every prototype gets the same share of the
    global batch (SwAV; DINOv2 uses 3 iterations). Each row sums to 1.

    Args:
        logits: (M, K) of this rank.
        temp: Teacher temperature, > 0.
        iterations: Pairs of steps, >= 1.
    """
    log_plan = logits.float() / temp
    for _ in range(iterations):
        # A rank may have no row, where these are masked patches.
        lowest = log_plan.new_full(logits.shape[1:], -torch.inf)
        highest = all_max(log_plan.amax(dim=0) if len(log_plan) else lowest)
        share = all_sum((log_plan - highest).exp().sum(dim=0)).log() + highest
        log_plan = log_plan - share
        log_plan = log_plan - torch.logsumexp(log_plan, dim=1, keepdim=True)
    return log_plan.exp()
