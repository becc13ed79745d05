"""What object detectors have in common, and how a decoding process reaches one.

A `Network` looks at pixels, in a process of its own. A `DetectorSource` goes with the task of a
segment; there it is connected to, which gives a `DetectorClient`.
"""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from wtours.analyze.schema import DetectorFacts
from wtours.media.frame import Frame

STORE_THRESHOLD = 0.05
"""Detections are stored from this score up; the report counts from higher ones."""

Colors: TypeAlias = Literal["bgr", "rgb"]


@dataclass(frozen=True, slots=True)
class Detection:
    """One object in one frame; the box is in pixels of the full upright image."""

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


class Network(Protocol):
    """Finds objects in images."""

    facts: DetectorFacts
    versions: dict[str, str]
    batch_size: int
    """How many images `detect` takes at a time; its result must not depend on it."""
    colors: Colors
    """The order of an image's channels."""

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[list[Detection]]:
        """Return each image's detections, from `facts.threshold` up, highest score first.

        Args:
            images: (H, W, 3) uint8, full size, of one size.
        """
        ...


class DetectorClient(Protocol):
    """Gives frames to a detector; what is detected comes back in the order of the frames."""

    def submit(self, frames: Sequence[Frame]) -> Iterable[tuple[int, list[Detection]]]:
        """Return (pts_us, detections) of the frames that are ready by now."""
        ...

    def finish(self) -> Iterable[tuple[int, list[Detection]]]:
        """Return those of the frames that are left."""
        ...


class DetectorSource(Protocol):
    """Where a decoding process gets its detections from; picklable."""

    def connect(self) -> AbstractContextManager[DetectorClient]:
        """Return the client; raises AnalysisError where the detector is gone or another one."""
        ...
