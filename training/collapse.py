"""Signs of collapse: when the teacher says the same of everything, there is nothing to learn."""

import itertools
import logging
import math
from collections import deque
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

LOG = logging.getLogger(__name__)
_WINDOW = 50
"""Steps over which a sign is averaged before it is believed; single steps are noisy."""


@torch.no_grad()
def embedding_spread(tokens: Tensor) -> Tensor:
    """Return how far apart embeddings are: 0 all the same, 1 in every direction alike; a scalar.

    The standard deviation of each coordinate of the L2-normalised rows, averaged, times sqrt(D)
    (Chen and He 2021, SimSiam, section 4.1).

    Args:
        tokens: (M, D), M >= 2.
    """
    unit = F.normalize(tokens.float(), dim=-1)
    spread: Tensor = unit.std(dim=0, correction=0).mean() * unit.shape[1] ** 0.5
    return spread


@torch.no_grad()
def effective_rank(tokens: Tensor) -> Tensor:
    """Return in how many directions embeddings lie, 1 to min(M, D); a scalar.

    The exponential of the entropy of the singular values' shares (Roy and Vetterli 2007), of the
    L2-normalised rows.

    Args:
        tokens: (M, D).
    """
    unit = F.normalize(tokens.double(), dim=-1)
    gram = unit @ unit.T if len(unit) < unit.shape[1] else unit.T @ unit
    if not bool(gram.isfinite().all()):
        return gram.new_full((), math.nan)
    singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    rank: Tensor = torch.special.entr(singular / singular.sum()).sum().exp()
    return rank


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


@dataclass(frozen=True)
class _Sign:
    metric: str
    low: float
    """Below this, the mean over the window is a sign."""
    high: float
    says: str


class CollapseWatch:
    """Warns in words, once for each sign, from the means over the last 50 steps.

    Args:
        num_prototypes: K.
    """

    def __init__(self, num_prototypes: int) -> None:
        most, never = math.log(num_prototypes), math.inf
        self._signs = [
            _Sign(
                "teacher_entropy", -never, 0.98 * most,
                "the teacher says almost the same of every prototype: lower loss.teacher_temp, or "
                "set loss.teacher_centering=sinkhorn and model.head_batch_norm=true",
            ),
            _Sign(
                "teacher_mean_entropy", 0.1 * most, never,
                "one prototype has almost all the teacher's answers: set "
                "loss.teacher_centering=sinkhorn, or raise loss.teacher_temp",
            ),
            _Sign(
                "embedding_spread", 0.05, never,
                "all frames have almost the same embedding: lower optim.lr, raise optim.momentum, "
                "or set loss.teacher_centering=sinkhorn",
            ),
            _Sign(
                "effective_rank", 1.5, never,
                "the embeddings lie on one line: lower optim.lr, raise the batch, or set "
                "loss.teacher_centering=sinkhorn",
            ),
            _Sign(
                "mask_coverage", 0.01, never,
                "the masks hide almost everything: try another tracking.mask",
            ),
            _Sign(
                "mask_overlap", -never, 0.95,
                "the objects are almost the same: set tracking.patch_center=true, raise "
                "tracking.num_heads, or lower tracking.num_objects",
            ),
        ]  # fmt: skip
        self._recent: dict[str, deque[float]] = {
            sign.metric: deque(maxlen=_WINDOW) for sign in self._signs
        }

    def see(self, step: int, metrics: dict[str, float]) -> list[str]:
        """Take in the metrics of a step; return and log what is to be said for the first time."""
        said = []
        for sign in list(self._signs):
            recent = self._recent[sign.metric]
            if math.isfinite(metrics.get(sign.metric, math.nan)):
                recent.append(metrics[sign.metric])
            if len(recent) < _WINDOW or sign.low <= sum(recent) / _WINDOW <= sign.high:
                continue
            self._signs.remove(sign)
            said.append(
                f"step {step}: {sign.metric} is {sum(recent) / _WINDOW:.3g} over {_WINDOW} steps: "
                f"{sign.says}"
            )
            LOG.warning("%s", said[-1])
        return said
