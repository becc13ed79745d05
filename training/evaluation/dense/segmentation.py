"""Semantic segmentation with linear and k-NN probes on frozen tokens: `wtours eval segment`."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from training.evaluation.datasets.segmentation import LabeledPixels, open_labeled_pixels
from training.evaluation.dense.patch_classifiers import (
    PatchKnnConfig,
    PatchLinearConfig,
    fit_linear,
    fit_neighbors,
    score_split,
)
from training.evaluation.dense.patch_features import SplitTokens, View
from training.evaluation.results import EvalResult, write_result
from training.weights.backbones import Backbone
from wtours.errors import UsageError
from wtours.progress import Progress, no_progress

_LINEAR: dict[str, View] = {
    "linear": "tokens",
    "linear_with_position": "tokens_and_position",
    "position_alone": "position",
}
DENSE_KNN = "dense_knn"


def evaluate_segmentation(
    backbone: Backbone,
    data: Path,
    *,
    short_side: int | None = None,
    linear: PatchLinearConfig | None = None,
    on_progress: Progress = no_progress,
) -> EvalResult:
    """Segment images with probes on a frozen backbone's patch tokens, and write the scores.

    Args:
        data: CamVid's or ADE20k's folders, or a tar of them: see
            `training.evaluation.datasets.segmentation`.
        short_side: Pixels that an image's short side is resized to; None: twice the side of the
            backbone's own crops.

    Returns:
        The written result; `results` holds
        `training.evaluation.metrics.segmentation.SegmentationScore` as dicts:
        "linear", "linear_with_position" (each token with the place of its patch), "position_alone"
        (no token at all: what the place says), "dense_knn".

    Raises:
        ImageDataError: images or labels that are missing, unreadable or out of range.
        UsageError: a short side of less than a patch.
    """
    linear, neighbors = linear or PatchLinearConfig(), PatchKnnConfig()
    short_side = 2 * backbone.crop_pixels if short_side is None else short_side
    if short_side < backbone.patch_pixels:
        raise UsageError(
            f"--short-side ({short_side}) must be at least a patch ({backbone.patch_pixels})"
        )
    train_images, test_images = open_labeled_pixels(data)
    train, test = (
        SplitTokens(backbone, images, short_side) for images in (train_images, test_images)
    )
    scores = {}
    for name, view in _LINEAR.items():
        classify = fit_linear(train.seen_as(view), linear, on_progress=on_progress)
        scores[name] = score_split(classify, test.seen_as(view), on_progress=on_progress)
    classify = fit_neighbors(train, neighbors, on_progress=on_progress)
    scores[DENSE_KNN] = score_split(classify, test, on_progress=on_progress)
    knn = asdict(neighbors) | {"votes": "shares of a patch's votes, which sum to 1"}
    return write_result(
        backbone,
        "segment",
        protocol=_protocol(train_images, short_side, linear, knn),
        data={"train": train_images.describe(), "test": test_images.describe()},
        results={name: asdict(score) for name, score in scores.items()},
        identity=[short_side, asdict(linear), knn],
    )


def _protocol(
    images: LabeledPixels, short_side: int, linear: PatchLinearConfig, knn: dict[str, Any]
) -> dict[str, Any]:
    return {
        "layout": asdict(images.layout),
        "features": "patch tokens of the last block after the final norm, float16",
        "short_side_pixels": short_side,
        "resize": "short side, bicubic with antialias, both sides to whole patches",
        "labels_in_training": "shares of the classes under each patch",
        "labels_in_test": "every pixel; scores of patches enlarged bilinearly",
        "linear": asdict(linear) | {"optimizer": "AdamW, cosine to 0", "tokens": "standardized"},
        "position": "products of cosines, order 0 to 5 in x and y",
        "dense_knn": knn,
        "mean_iou": "over classes in the truth or in the prediction",
        "mean_accuracy": "over classes in the truth",
    }
