"""Warnings when a run shows signs of collapse."""

import logging
import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from training.config.methods import MethodName
from training.config.train import TrainConfig
from training.engine.state import TrainState

LOG = logging.getLogger(__name__)
_WINDOW = 50
"""Steps over which a sign is averaged before it is believed; single steps are noisy."""
_FEWEST = 5
"""Values that are averaged at least, of a metric that is not measured at each step."""


@dataclass(frozen=True)
class _Sign:
    metric: str
    low: float
    """Below this, the mean over the window is a sign."""
    high: float
    advice: str
    every_steps: int = 1
    """Steps between two values of the metric."""

    @property
    def count(self) -> int:
        """Return how many values are averaged."""
        return max(_WINDOW // self.every_steps, _FEWEST)


class CollapseMonitor:
    """Warns, once for each sign and with advice, from the means over the last 50 steps or more.

    A method that does not report a metric gets no warning about it.
    """

    def __init__(self, config: TrainConfig) -> None:
        self._signs = _signs(config)
        self._recent: dict[str, deque[float]] = {
            sign.metric: deque(maxlen=sign.count) for sign in self._signs
        }

    def after_step(self, state: TrainState, metrics: dict[str, float]) -> dict[str, float]:
        """Log what the step gives warning of; nothing is measured."""
        for warning in self.update(state.step, metrics):
            LOG.warning("%s", warning)
        return {}

    def update(self, step: int, metrics: dict[str, float]) -> list[str]:
        """Add the metrics of a step; return the warnings due for the first time."""
        warnings = []
        for sign in list(self._signs):
            recent = self._recent[sign.metric]
            if math.isfinite(metrics.get(sign.metric, math.nan)):
                recent.append(metrics[sign.metric])
            if len(recent) < sign.count or sign.low <= sum(recent) / sign.count <= sign.high:
                continue
            self._signs.remove(sign)
            warnings.append(
                f"step {step}: {sign.metric} is {sum(recent) / sign.count:.3g} over "
                f"{sign.count * sign.every_steps} steps: {sign.advice}"
            )
        return warnings


def collapse_warnings(config: TrainConfig, lines: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the warnings that the steps of a run gave, from the lines of its metrics.jsonl."""
    monitor = CollapseMonitor(config)
    return [
        warning
        for line in lines
        for warning in monitor.update(
            line["step"], {name: x for name, x in line.items() if isinstance(x, int | float)}
        )
    ]


_SPREAD_ADVICE: dict[MethodName, str] = {
    "simclr": "lower optim.lr, raise optim.warmup_epochs, or lower simclr.temperature",
    "swav": "lower optim.lr or swav.epsilon, or raise optim.freeze_last_layer_epochs",
    "vicreg": "lower optim.lr, or raise optim.warmup_epochs or vicreg.variance_weight",
}
_RANK_ADVICE: dict[MethodName, str] = {
    "vicreg": "lower optim.lr, or raise the batch or vicreg.covariance_weight",
}
_TEACHER_ADVICE = (
    "lower optim.lr, raise optim.momentum, or set loss.teacher_centering=sinkhorn",
    "lower optim.lr, raise the batch, or set loss.teacher_centering=sinkhorn",
)


def _signs(config: TrainConfig) -> list[_Sign]:
    """Return what tells a collapse; a method reports some of these metrics."""
    most, never, method = math.log(config.model.num_prototypes), math.inf, config.method
    spread = _SPREAD_ADVICE.get(method, _TEACHER_ADVICE[0])
    rank = _RANK_ADVICE.get(method, _SPREAD_ADVICE.get(method, _TEACHER_ADVICE[1]))
    masks = (
        "lower ibot.mask_ratio" if method in ("ibot", "attmask") else "try another tracking.mask"
    )
    return [
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
            "patch_entropy", -never, 0.98 * most,
            "the teacher's output for patches is almost uniform over the prototypes: lower "
            "ibot.patch_temp, or set loss.teacher_centering=sinkhorn",
        ),
        _Sign(
            "patch_mean_entropy", 0.1 * most, never,
            "almost all patches have the same teacher output: set "
            "loss.teacher_centering=sinkhorn, or raise ibot.patch_temp",
        ),
        _Sign(
            "code_entropy", -never, 0.98 * most,
            "the codes are almost uniform, as of equal images: lower swav.epsilon (to 0.03), raise "
            "optim.freeze_last_layer_epochs, or set model.head_batch_norm=false",
        ),
        _Sign(
            "loss_variance", -never, 1.9,
            "no dimension of the embeddings varies, where the variance term has hardly a gradient "
            "left: lower optim.lr, or raise optim.warmup_epochs or vicreg.variance_weight",
        ),
        _Sign(
            "embedding_spread", 0.05, never,
            f"all frames have almost the same embedding: {spread}",
        ),
        _Sign(
            "effective_rank", 1.5, never, f"the embeddings lie on one line: {rank}",
            every_steps=config.watch.effective_rank_every_steps,
        ),
        _Sign("mask_coverage", 0.01, never, f"the masks hide almost everything: {masks}"),
        _Sign(
            "mask_overlap", -never, 0.95,
            "the objects are almost the same: set tracking.patch_center=true, raise "
            "tracking.num_heads, or lower tracking.num_objects",
        ),
    ]  # fmt: skip
