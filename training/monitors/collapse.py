"""Warnings when a run shows signs of collapse."""

import logging
import math
from collections import deque
from dataclasses import dataclass

LOG = logging.getLogger(__name__)
_WINDOW = 50


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
