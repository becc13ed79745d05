"""What linear evaluation fixes and what it reports; `training.evaluation.linear_probe` does it."""

import math
from dataclasses import dataclass, field
from typing import Any

from training.data.image_decoding import resize_for
from training.engine.precision import describe_float32
from training.evaluation.linear_classifiers import INITIAL_STD, MOMENTUM
from training.weights.backbones import Backbone
from wtours.errors import UsageError

DINO_RATE, DORA_RATE = 0.001, 0.01
SWEEP = (DINO_RATE, 0.003, DORA_RATE, 0.03, 0.1)
"""Learning rates for 256 images: DINO's (which the paper follows), released DoRA's, and more."""
_WIDE = 768


@dataclass(frozen=True)
class LinearProbeConfig:
    """How the classifiers are trained; the defaults are the paper's."""

    epochs: int = 100
    """Passes over the training images."""
    batch_size: int = 1024
    """Images of a step, over all processes."""
    rates: tuple[float, ...] = SWEEP
    """Learning rates for 256 images, one classifier each; a step uses rate x batch / 256."""
    seed: int = 0
    """Of the first weights, the order and the crops."""
    num_workers: int = 4
    """Processes that decode, for each process that trains."""

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or self.num_workers < 0:
            raise UsageError(
                f"--epochs ({self.epochs}) and --batch-size ({self.batch_size}) must be >= 1"
            )
        if not self.rates or min(self.rates) <= 0 or len(set(self.rates)) < len(self.rates):
            raise UsageError(
                f"rates of --lr ({', '.join(map(str, self.rates))}) must be different, each > 0"
            )


@dataclass
class History:
    """Accuracy after each epoch, for each head: top-1 and top-5 in percent."""

    top1: list[list[float]] = field(default_factory=list)
    top5: list[list[float]] = field(default_factory=list)
    loss: list[list[float]] = field(default_factory=list)

    @property
    def epochs_done(self) -> int:
        """Return how many epochs were trained and measured."""
        return len(self.top1)


def classifier_inputs(backbone: Backbone) -> tuple[tuple[int, ...], bool]:
    """Return the blocks whose CLS tokens are used, from 1, and whether the mean patch is too.

    DINO's choice by the network's size: four blocks up to ViT-S; from ViT-B on the last block and
    the mean of its patch tokens.
    """
    depth = len(backbone.network.blocks)
    wide = backbone.network.embed_dim >= _WIDE
    num_blocks = 1 if wide else min(4, depth)
    return tuple(range(depth - num_blocks + 1, depth + 1)), wide


def describe_protocol(backbone: Backbone, config: LinearProbeConfig) -> dict[str, Any]:
    """Return every constant, for the JSON."""
    blocks, patch_average = classifier_inputs(backbone)
    return {
        "features": "CLS tokens after blocks, each through the final norm, concatenated"
        + ("; the mean of the last block's patch tokens" if patch_average else ""),
        "blocks": list(blocks),
        "crop_pixels": backbone.crop_pixels,
        "train_crop": "RandomResizedCrop, area 0.08 to 1, bilinear; horizontal flip",
        # "centre" as in the results of every version: their names follow from these texts.
        "val_crop": "short side resized, bicubic with antialias; centre",
        "val_resize_pixels": resize_for(backbone.crop_pixels),
        "mean": backbone.normalization.mean,
        "std": backbone.normalization.std,
        "precision": describe_float32(),
        "optimizer": "SGD",
        "momentum": MOMENTUM,
        "weight_decay": 0,
        "initial_weights": f"N(0, {INITIAL_STD})",
        "schedule": "cosine to 0, a step an epoch",
        "epochs": config.epochs,
        "batch_size": config.batch_size,
        "learning_rates_for_256": list(config.rates),
        "seed": config.seed,
    }


def summarize(config: LinearProbeConfig, history: History) -> dict[str, Any]:
    """Return the best and the last epoch of each learning rate, for the JSON."""
    heads = []
    for column, rate in enumerate(config.rates):
        top1 = [row[column] for row in history.top1]
        best = max(range(len(top1)), key=top1.__getitem__)
        loss = history.loss[-1][column]
        heads.append(
            {
                "learning_rate_for_256": rate,
                "learning_rate": rate * config.batch_size / 256,
                "best_epoch": best + 1,
                "best_top1_percent": top1[best],
                "best_top5_percent": history.top5[best][column],
                "last_top1_percent": top1[-1],
                "last_top5_percent": history.top5[-1][column],
                "last_loss": loss if math.isfinite(loss) else None,
                "top1_percent_by_epoch": top1,
            }
        )
    return {"heads": heads}


def notes_on(data: dict[str, dict[str, Any]]) -> list[str]:
    """Return what a reader of the numbers must know, a line each."""
    notes = [
        "the best epoch (DINO reports it) and the best learning rate are chosen on the validation "
        "images; the last epoch is not"
    ]
    if data["train"]["fingerprint"] == data["val"]["fingerprint"]:
        notes.append("the training and validation images are the same")
    return notes
