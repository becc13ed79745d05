"""F and the statistics of J and F, as davis2017-evaluation has them; J is `mask_iou`."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from training.evaluation.metrics.segmentation import Mask

BOUNDARY_TOLERANCE = 0.008
"""Of the frame's diagonal: boundaries at most so far apart, in pixels rounded up, match."""
_BINS = 4


def boundary_accuracy(found: Mask, truth: Mask) -> float:
    """Return F: how well the boundaries match, the harmonic mean of precision and recall.

    Without a boundary in one of the masks it is 0, without one in both 1.
    """
    ours, theirs = boundary(found), boundary(truth)
    if not ours.any() or not theirs.any():
        return float(not ours.any() and not theirs.any())
    tolerance = math.ceil(BOUNDARY_TOLERANCE * math.hypot(*found.shape))
    precision = (ours & _near(theirs, tolerance)).sum() / ours.sum()
    recall = (theirs & _near(ours, tolerance)).sum() / theirs.sum()
    if precision + recall == 0:
        return 0.0
    return float(2 * precision * recall / (precision + recall))


def boundary(mask: Mask) -> Mask:
    """Return the pixels that differ from their right, lower or lower right neighbor."""
    around = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    right, below, across = around[:-1, 1:], around[1:, :-1], around[1:, 1:]
    return np.asarray((mask != right) | (mask != below) | (mask != across))


def statistics(values: NDArray[np.float64]) -> dict[str, float]:
    """Return the statistics of one measure (0 to 1) of one object over one or more frames.

    Its `mean`; its `recall`, the share of the frames above 0.5; and its `decay`, the mean of the
    first quarter minus that of the last.
    """
    edges = np.round(np.linspace(1, len(values), _BINS + 1) + 1e-10).astype(int) - 1
    bins = [values[edges[i] : edges[i + 1] + 1] for i in range(_BINS)]
    return {
        "mean": float(values.mean()),
        "recall": float((values > 0.5).mean()),
        "decay": float(bins[0].mean() - bins[-1].mean()),
    }


def _near(pixels: Mask, distance: int) -> Mask:
    """Return what lies within a distance of some pixel: dilation with a disk."""
    return np.asarray(ndimage.distance_transform_edt(~pixels) <= distance)
