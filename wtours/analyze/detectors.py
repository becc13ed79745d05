"""Object detectors behind one Protocol, chosen by a spec such as `onnx:yolox_nano.onnx`.

Parsing a spec needs nothing installed; loading may fail (a missing file or package), and then the
video's lightness and cuts are published all the same, with its objects "not measured".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Literal, Protocol

from wtours.analyze.tables import DetectorFacts
from wtours.errors import UsageError
from wtours.frame import Frame

STORE_THRESHOLD = 0.05
"""Detections are stored from this score up; the report counts from higher ones."""

_CHOICES = (
    "choose onnx:PATH (a YOLOX model), detic (LVIS's 1203 classes), torchvision:NAME, "
    "detectron2:CONFIG,WEIGHTS, file:PATH.parquet or file:FOLDER with <video_id>.parquet "
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

    kind: Literal["none", "onnx", "detic", "torchvision", "detectron2", "file"]
    argument: str = ""
    """What stands after the colon."""

    def __str__(self) -> str:
        return f"{self.kind}:{self.argument}" if self.argument else self.kind

    def load(self, video_id: str, *, rate: Fraction) -> Detector:
        """Return the detector for one video, looked at `rate` times a second.

        A network is loaded once in a process, whatever the number of videos.

        Raises:
            AnalysisError: its file is missing or not what it should be.
            MissingPackageError: a package that it needs is not installed.
        """
        if self.kind == "file":
            from wtours.analyze.made_elsewhere import FileDetector

            path = Path(self.argument)
            return FileDetector(path / f"{video_id}.parquet" if path.is_dir() else path, rate=rate)
        return _load_network(self, _stamps(self.argument))


def parse_detector(text: str) -> DetectorSpec:
    """Return the detector that `text` names, for example `onnx:PATH`, `detic` or `none`.

    Raises:
        UsageError: there is no such detector; the message lists those that exist.
    """
    kind, colon, argument = text.partition(":")
    match kind:
        case "none" | "detic" if not colon:
            return DetectorSpec(kind)
        case "onnx" | "detic" | "torchvision" | "file" if argument:
            return DetectorSpec(kind, argument)
        case "detectron2" if all(argument.rpartition(",")):
            return DetectorSpec(kind, argument)
        case _:
            raise UsageError(f"no detector {text!r}; {_CHOICES}")


@lru_cache(maxsize=1)
def _load_network(spec: DetectorSpec, stamps: tuple[tuple[int, int], ...]) -> Detector:
    # Imported here: each detector has its own dependencies.
    match spec.kind:
        case "onnx":
            from wtours.analyze.yolox import YoloxDetector

            return YoloxDetector(Path(spec.argument))
        case "detic":
            from wtours.analyze.detic import load_detic

            return load_detic(Path(spec.argument) if spec.argument else None)
        case "torchvision":
            from wtours.analyze.torchvision_models import load_torchvision

            name, _, weights = spec.argument.partition(",")
            return load_torchvision(name, Path(weights) if weights else None)
        case "detectron2":
            from wtours.analyze.detectron2_models import load_detectron2

            config, _, weights = spec.argument.rpartition(",")
            return load_detectron2(Path(config), Path(weights))
        case "file" | "none":
            raise ValueError(f"the detector {spec.kind!r} is no network")


def _stamps(argument: str) -> tuple[tuple[int, int], ...]:
    """Return time and size of the files that a spec names, so that a changed one is loaded anew."""
    found = [Path(part).stat() for part in argument.split(",") if part and Path(part).exists()]
    return tuple((stat.st_mtime_ns, stat.st_size) for stat in found)
