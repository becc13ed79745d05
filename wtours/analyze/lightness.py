"""Lightness of a frame: CIELAB L*, from linear-light luminance.

Each 8-bit sRGB value is linearised (IEC 61966-2-1), weighted to the luminance Y (BT.709), and Y
becomes L* (CIE 15:2004, white Y = 1). Luma, HSV's V and a mean of pixel values are other things.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

_STEPS = 1 << 18
"""Y is counted in this many steps, fine enough for L* near black."""
_LEVEL = 655
"""L* is counted in 1/655, so that 100 fits 16 bits and sums are exact on every machine."""
_WEIGHTS_BGR = (0.0722, 0.7152, 0.2126)


@dataclass(frozen=True, slots=True)
class Lightness:
    """L* over one frame, each 0 (black) to 100 (white)."""

    mean: float
    p5: float
    p95: float


def frame_lightness(bgr: NDArray[np.uint8]) -> Lightness:
    """Return mean, 5th and 95th percentile of L* over an (H, W, 3) uint8 BGR image.

    The percentiles interpolate linearly between pixels, as `numpy.percentile` does. Within 0.01 of
    scikit-image's `rgb2lab` of the same pixels.
    """
    luminance = cv2.transform(cv2.LUT(bgr, _LUMINANCE), _SUM_OF_CHANNELS)
    levels = _LEVELS.take(np.asarray(luminance, dtype=np.int32).ravel())
    p5, p95 = _percentiles(levels, (0.05, 0.95))
    mean = cv2.sumElems(levels)[0] / levels.size  # summed in float64: exact
    return Lightness(mean=mean / _LEVEL, p5=p5 / _LEVEL, p95=p95 / _LEVEL)


def _percentiles(levels: NDArray[np.uint16], fractions: tuple[float, ...]) -> list[float]:
    positions = [fraction * (levels.size - 1) for fraction in fractions]
    lows = [int(position) for position in positions]
    highs = [min(low + 1, levels.size - 1) for low in lows]
    # A radix sort, of 16-bit integers. The default one is quick on some CPUs and takes four times
    # as long on others (AVX-512 of Zen 4); a partition is as good on some pictures only.
    ordered = np.sort(levels, kind="stable")
    return [
        int(ordered[low]) + (int(ordered[high]) - int(ordered[low])) * (position - low)
        for position, low, high in zip(positions, lows, highs, strict=True)
    ]


def _luminance_table() -> NDArray[np.float32]:
    value = np.arange(256) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    steps = np.round(np.multiply.outer(linear, _WEIGHTS_BGR) * (_STEPS - 1))
    return steps.astype(np.float32).reshape(1, 256, 3)


def _level_table() -> NDArray[np.uint16]:
    # Three rounded summands may pass the last step by one.
    luminance = np.minimum(np.arange(_STEPS + 2) / (_STEPS - 1), 1.0)
    l_star = np.where(
        luminance > (6 / 29) ** 3, 116 * np.cbrt(luminance) - 16, (29 / 3) ** 3 * luminance
    )
    return np.round(l_star * _LEVEL).astype(np.uint16)


# Whole numbers below 2^24 in float32, so that the sum of the three channels is exact.
_LUMINANCE = _luminance_table()
_SUM_OF_CHANNELS = np.ones((1, 3), np.float32)
_LEVELS = _level_table()
