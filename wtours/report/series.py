"""Series over time, thinned for drawing."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_US = 1_000_000


@dataclass(frozen=True, eq=False, slots=True)
class Series:
    """Values averaged over equal spans of time; only spans that hold a value, P of them."""

    minutes: NDArray[np.float64]
    """(P,) the middle of each span."""
    values: NDArray[np.float64]
    """(P,) means."""


def average_over_time(pts_us: NDArray[np.int64], values: NDArray[Any], *, span_us: float) -> Series:
    """Return the mean of the values in each span [k * span_us, (k + 1) * span_us)."""
    spans = (pts_us / span_us).astype(np.int64)
    counts = np.bincount(spans)
    sums = np.bincount(spans, weights=values.astype(np.float64))
    (held,) = np.nonzero(counts)
    return Series((held + 0.5) * span_us / (60 * _US), sums[held] / counts[held])
