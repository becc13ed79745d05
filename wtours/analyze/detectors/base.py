"""Object detectors, chosen by a spec such as `onnx:yolox_nano.onnx`; networks share a Protocol.

Parsing a spec needs nothing installed; loading may fail (a missing file or package), and then the
video's lightness and cuts are published all the same, with its objects "not measured".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from wtours.analyze.schema import DetectorFacts

STORE_THRESHOLD = 0.05
"""Detections are stored from this score up; the report counts from higher ones."""

Colors: TypeAlias = Literal["bgr", "rgb"]


@dataclass(frozen=True, slots=True)
class Detection:
    """One object in one frame; the box is in pixels of the full upright picture."""

    label: str
    label_id: int
    score: float
    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True, slots=True)
class DetectorIdentity:
    """What made the detections."""

    facts: DetectorFacts
    versions: dict[str, str]
    """Of the packages it runs on, for the receipt."""


class Picture(Protocol):
    """What a network looks at: a `wtours.media.frame.Frame`, or the pixels of one."""

    def to_bgr(self) -> NDArray[np.uint8]:
        """Return (H, W, 3) uint8, BGR, full size."""
        ...

    def to_rgb(self) -> NDArray[np.uint8]:
        """Return (H, W, 3) uint8, RGB, full size."""
        ...


class Network(Protocol):
    """Finds objects in pictures."""

    facts: DetectorFacts
    versions: dict[str, str]
    batch_size: int
    """How many pictures `detect` takes at a time; its result must not depend on it."""
    colors: Colors
    """Which of `Picture`'s methods it calls."""

    def detect(self, frames: Sequence[Picture]) -> list[list[Detection]]:
        """Return each picture's detections, from `facts.threshold` up, highest score first."""
        ...
