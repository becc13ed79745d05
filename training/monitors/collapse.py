"""Warnings when a run shows signs of collapse."""

import logging
import math
from collections import deque
from dataclasses import dataclass

from training.engine.state import TrainState

LOG = logging.getLogger(__name__)
_WINDOW = 50
"""Steps over which a sign is averaged before it is believed; single steps are noisy."""


@dataclass(frozen=True)
class _Sign:
    metric: str
    low: float
    """Below this, the mean over the window is a sign."""
    high: float
    advice: str


class CollapseMonitor:
    """Warns, once for each sign and with advice, from the means over the last 50 steps.

    A method that does not report a metric gets no warning about it.

    Args:
        num_prototypes: K.
    """

    def __init__(self, num_prototypes: int) -> None:
        most, never = math.log(num_prototypes), math.inf
        self._signs = [
            _Sign(
                "teacher_entropy", -never, 0.98 * most,
                "the teacher's output is almost uniform over the prototypes: lower "
                "loss.teacher_temp, or set loss.teacher_centering=sinkhorn and "
                "model.head_batch_norm=true",
            ),
            _Sign(
                "teacher_mean_entropy", 0.1 * most, never,
                "almost all frames have the same teacher output: set "
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

    def after_step(self, state: TrainState, metrics: dict[str, float]) -> dict[str, float]:
        """Log what the step gives warning of; nothing is measured."""
        self.update(state.step, metrics)
        return {}

    def update(self, step: int, metrics: dict[str, float]) -> list[str]:
        """Add the metrics of a step; log and return the warnings due for the first time."""
        warnings = []
        for sign in list(self._signs):
            recent = self._recent[sign.metric]
            if math.isfinite(metrics.get(sign.metric, math.nan)):
                recent.append(metrics[sign.metric])
            if len(recent) < _WINDOW or sign.low <= sum(recent) / _WINDOW <= sign.high:
                continue
            self._signs.remove(sign)
            warnings.append(
                f"step {step}: {sign.metric} is {sum(recent) / _WINDOW:.3g} over {_WINDOW} steps: "
                f"{sign.advice}"
            )
            LOG.warning("%s", warnings[-1])
        return warnings
