"""Intersection over union of boxes and masks."""

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Box = NDArray[np.float64]


def box_ious(box: Box, others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the intersection over union of a box (4,) with each of (G, 4), (G,)."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    shared = (high - low).clip(0).prod(axis=1)
    areas = (others[:, 2:] - others[:, :2]).prod(axis=1)
    own_area: np.float64 = (box[2:] - box[:2]).prod()
    return np.asarray(shared / (own_area + areas - shared))


def jaccard(mask: Mask, objects: Mask, void: Mask) -> float:
    """Return intersection over union of two masks, without the void pixels; 1 if both are empty."""
    union = ((mask | objects) & ~void).sum()
    return float((mask & objects & ~void).sum() / union) if union else 1.0
