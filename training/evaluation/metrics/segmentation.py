"""IoU and accuracy of segmentations: of many classes from a confusion matrix, of one mask."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class SegmentationScore:
    """Scores of one split, 0 to 100."""

    mean_iou_percent: float
    """Mean over the classes that are in the truth or in the prediction."""
    mean_accuracy_percent: float
    """Mean over the classes in the truth of the share that is found."""
    pixel_accuracy_percent: float
    """Share of the scored pixels that are right."""
    iou_percent: tuple[float | None, ...]
    """By class; None: neither in the truth nor predicted."""


def confusion_matrix(
    truth: NDArray[np.int64], predicted: NDArray[np.int64], *, num_classes: int
) -> NDArray[np.int64]:
    """Return how many pixels of class i (row) were called j (column), (C, C).

    Args:
        truth: Any shape; a negative label is not scored.
        predicted: The same shape, 0 to C - 1.
    """
    scored = truth >= 0
    pairs = truth[scored] * num_classes + predicted[scored]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def segmentation_score(confusion: NDArray[np.int64]) -> SegmentationScore:
    """Return the scores of a confusion matrix with at least one pixel."""
    right, in_truth = np.diag(confusion), confusion.sum(axis=1)
    union = in_truth + confusion.sum(axis=0) - right
    iou = [
        100 * float(hits) / float(total) if total else None
        for hits, total in zip(right, union, strict=True)
    ]
    known = in_truth > 0
    return SegmentationScore(
        mean_iou_percent=float(np.mean([value for value in iou if value is not None])),
        mean_accuracy_percent=100 * float(np.mean(right[known] / in_truth[known])),
        pixel_accuracy_percent=100 * float(right.sum() / confusion.sum()),
        iou_percent=tuple(iou),
    )


def mask_iou(found: Mask, truth: Mask, void: Mask | None = None) -> float:
    """Return the intersection over union of two masks, the Jaccard index; 1 if both are empty.

    Args:
        found: Any shape.
        truth: The same shape.
        void: Pixels that count neither way; None: there are none.
    """
    scored = True if void is None else ~void
    union = ((found | truth) & scored).sum()
    return float((found & truth & scored).sum() / union) if union else 1.0
