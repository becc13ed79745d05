"""The page's charts as SVG paths: 1000 wide, 100 high, stretched to the room that there is.

The browser stretches the lines and not their width; text stands outside of them, in HTML.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wtours.report.curves import Curves, Series

WIDTH, HEIGHT = 1000, 100
_MAX_RANKS = 60
"""Points of the frequencies: of more classes, ranks evenly spaced on the logarithmic axis."""
_STEPS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400)


@dataclass(frozen=True, slots=True)
class FrequencyAxes:
    """The common logarithmic axes of the frequencies."""

    ranks: int
    low: float
    high: float

    def path(self, per_frame: NDArray[np.float64] | None) -> str:
        """Return the line of detections per frame by rank, (C,) from the most frequent."""
        if per_frame is None or not len(per_frame):
            return ""
        last = len(per_frame)
        chosen = np.unique(np.geomspace(1, last, min(last, _MAX_RANKS)).round().astype(int))
        width = math.log(max(self.ranks, 2))
        height = math.log(self.high / self.low) or 1.0
        x = np.log(chosen) / width * WIDTH
        y = HEIGHT - np.log(per_frame[chosen - 1] / self.low) / height * HEIGHT
        return line(x, y) if len(chosen) > 1 else f"M0 {y[0]:.1f}h12"


def frequency_axes(frequencies: Sequence[NDArray[np.float64] | None]) -> FrequencyAxes:
    """Return axes on which all of these fit."""
    known = [frequency for frequency in frequencies if frequency is not None and len(frequency)]
    if not known:
        return FrequencyAxes(1, 1.0, 1.0)
    low, high = min(f[-1] for f in known), max(float(f[0]) for f in known)
    bottom = 10 ** math.floor(math.log10(low))
    return FrequencyAxes(max(map(len, known)), bottom, nice_ceiling(high))


def video_charts(
    curves: Curves, *, seconds: float, cuts_us: Sequence[int], objects_max: float
) -> dict[str, str]:
    """Return a video's paths: its end at the right edge, `objects_max` per frame at the upper.

    Each is the `d` of an SVG path; "" where nothing was measured.
    """
    x = _across(curves.lightness, seconds)
    band = _points(x, _up(curves.high.values, 100)) + _points(
        x[::-1], _up(curves.low.values[::-1], 100)
    )
    objects = ""
    if curves.objects is not None:
        objects = line(_across(curves.objects, seconds), _up(curves.objects.values, objects_max))
    cuts = "".join(f"M{cut / 1e6 / seconds * WIDTH:.1f} {HEIGHT}v-{HEIGHT // 3}" for cut in cuts_us)
    return {
        "lightness": line(x, _up(curves.lightness.values, 100)),
        "lightness_band": f"M{band}Z",
        "objects": objects,
        "cuts": cuts,
    }


def line(x: NDArray[np.float64], y: NDArray[np.float64]) -> str:
    """Return a path through points; one point is a short stroke."""
    return f"M{_points(x, y)}" if len(x) > 1 else f"M{x[0] - 4:.1f} {y[0]:.1f}h8"


def nice_ceiling(value: float) -> float:
    """Return the next number of 1, 2, 3, 4, 5, 6, 8 times a power of ten."""
    if value <= 0:
        return 1.0
    power: float = 10.0 ** math.floor(math.log10(value))
    return next((m * power for m in (1, 2, 3, 4, 5, 6, 8) if m * power >= value), 10 * power)


def time_ticks(seconds: float) -> list[tuple[float, str]]:
    """Return (percent of the width, label) of at most 6 round times."""
    step = next((s for s in _STEPS if seconds / s <= 5), math.ceil(seconds / 18000) * 3600)
    unit, name = (60, "min") if step >= 60 else (1, "s")
    times = np.arange(0, seconds * 0.96, step).tolist()
    return [
        (100 * time / seconds, "0" if not time else f"{time // unit:.0f} {name}") for time in times
    ]


def payload(curves: Curves, classes: Sequence[str]) -> dict[str, Any]:
    """Return a video's curves for the page's script, rounded; classes in the order of colors."""
    data: dict[str, Any] = {
        "t": _rounded(curves.lightness.seconds, 3),
        "light": _rounded(curves.lightness.values),
        "low": _rounded(curves.low.values),
        "high": _rounded(curves.high.values),
    }
    if curves.objects is not None:
        data |= {
            "ot": _rounded(curves.objects.seconds, 3),
            "objects": _rounded(curves.objects.values, 2),
            # Of a folder beside the videos single classes are not known, which is not zero.
            "classes": [_rounded(curves.by_class[label], 2) for label in classes]
            if curves.by_class
            else None,
        }
    return data


def _across(series: Series, seconds: float) -> NDArray[np.float64]:
    across: NDArray[np.float64] = np.minimum(series.seconds / seconds, 1) * WIDTH
    return across


def _up(values: NDArray[np.float64], top: float) -> NDArray[np.float64]:
    up: NDArray[np.float64] = HEIGHT - np.clip(values / top, 0, 1) * HEIGHT
    return up


def _points(x: NDArray[np.float64], y: NDArray[np.float64]) -> str:
    return "".join(f"{a:.1f} {b:.1f} " for a, b in zip(x.tolist(), y.tolist(), strict=True))


def _rounded(values: NDArray[np.float64], digits: int = 1) -> list[float]:
    rounded: list[float] = np.round(values, digits).tolist()
    return rounded
