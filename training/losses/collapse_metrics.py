"""Measures of representational collapse."""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def embedding_spread(tokens: Tensor) -> Tensor:
    """Return how far apart embeddings are: 0 all the same, 1 in every direction alike; a scalar.

    The standard deviation of each coordinate of the L2-normalized rows, averaged, times sqrt(D)
    (Chen and He 2021, SimSiam, section 4.1). `tokens` are (M, D), M >= 2.
    """
    unit = F.normalize(tokens.float(), dim=-1)
    spread: Tensor = unit.std(dim=0, correction=0).mean() * unit.shape[1] ** 0.5
    return spread


@torch.no_grad()
def effective_rank(tokens: Tensor) -> Tensor:
    """Return in how many directions embeddings lie, 1 to min(M, D); a scalar.

    The exponential of the entropy of the singular values' shares (Roy and Vetterli 2007), of the
    L2-normalized rows (M, D).
    """
    unit = F.normalize(tokens.double(), dim=-1)
    gram = unit @ unit.T if len(unit) < unit.shape[1] else unit.T @ unit
    is_finite = gram.isfinite().all()  # looked at on the device: the host need not wait
    singular = torch.linalg.eigvalsh(gram.where(is_finite, 0)).clamp(min=0).sqrt()
    rank: Tensor = torch.special.entr(singular / singular.sum()).sum().exp()
    return rank.where(is_finite, math.nan)


def embedding_metrics(tokens: Tensor, *, with_rank: bool) -> dict[str, Tensor]:
    """Return the metrics of embeddings (M, D): their spread and, where asked for, their rank."""
    rank = {"effective_rank": effective_rank(tokens)} if with_rank else {}
    return {"embedding_spread": embedding_spread(tokens), **rank}


@torch.no_grad()
def mask_overlap(masks: Tensor | None) -> Tensor | None:
    """Return how much two objects' masks of a frame have in common, 0 to 1; a scalar.

    The sum of the smaller over the sum of the larger, which is the IoU for binary masks, averaged
    over pairs and frames. None: there are no two masks.

    Args:
        masks: (..., O, T, N) in [0, 1].
    """
    if masks is None or masks.shape[-3] < 2:
        return None
    pairs = itertools.combinations(masks.unbind(dim=-3), 2)
    return torch.stack(
        [
            torch.minimum(one, other).sum(dim=-1)
            / torch.maximum(one, other).sum(dim=-1).clamp(min=torch.finfo(one.dtype).tiny)
            for one, other in pairs
        ]
    ).mean()
