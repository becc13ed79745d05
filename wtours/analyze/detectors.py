"""Object detectors behind one Protocol, chosen by a spec such as `onnx:yolox_nano.onnx`.

Parsing a spec needs nothing installed; loading may fail (a missing file or package), and then the
video's lightness and cuts are published all the same, with its objects "not measured".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal, Protocol

from wtours.analyze.tables import DetectorFacts
from wtours.errors import UsageError
from wtours.video import Frame

STORE_THRESHOLD = 0.05
"""Detections are stored from this score up; the report counts from higher ones."""

_CHOICES = (
    "choose onnx:PATH (a YOLOX model), file:PATH.parquet or file:FOLDER with <video_id>.parquet "
    "(detections made elsewhere), or none"
)


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


class Detector(Protocol):
    """Finds objects in frames.

    It is given `wtours.video.Frame`s, not arrays, because detections made elsewhere are looked up
    by time and need no pixels; a network calls `frame.to_bgr()`.
    """

    facts: DetectorFacts
    versions: dict[str, str]
    """Of the packages it runs on, for the receipt."""
    batch_size: int
    """How many frames `detect` takes at a time; its result must not depend on it."""

    def detect(self, frames: Sequence[Frame]) -> list[list[Detection]]:
        """Return each frame's detections, from `facts.threshold` up, highest score first."""
        ...


@dataclass(frozen=True, slots=True)
class DetectorSpec:
    """A parsed detector option."""

    kind: Literal["none", "onnx", "file"]
    path: Path

    def load(self, video_id: str, *, rate: Fraction) -> Detector:
        """Return the detector for one video, looked at `rate` times a second.

        Raises:
            AnalysisError: its file is missing or not what it should be.
            MissingPackageError: a package that it needs is not installed.
        """
        # Imported here: each detector has its own dependencies.
        match self.kind:
            case "onnx":
                from wtours.analyze.yolox import YoloxDetector

                return YoloxDetector(self.path)
            case "file":
                from wtours.analyze.made_elsewhere import FileDetector

                folder_or_file = self.path
                if folder_or_file.is_dir():
                    return FileDetector(folder_or_file / f"{video_id}.parquet", rate=rate)
                return FileDetector(folder_or_file, rate=rate)
            case "none":
                raise ValueError("the detector 'none' has nothing to load")


def parse_detector(text: str) -> DetectorSpec:
    """Return the detector that `text` names: `onnx:PATH`, `file:PATH` or `none`.

    Raises:
        UsageError: there is no such detector; the message lists those that exist.
    """
    kind, _, path = text.partition(":")
    if text == "none":
        return DetectorSpec("none", Path())
    if kind == "onnx" and path:
        return DetectorSpec("onnx", Path(path))
    if kind == "file" and path:
        return DetectorSpec("file", Path(path))
    raise UsageError(f"no detector {text!r}; {_CHOICES}")
