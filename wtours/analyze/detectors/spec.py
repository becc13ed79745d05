"""Parsing and loading a detector option such as `onnx:yolox_nano.onnx`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wtours.analyze.detectors.base import Network
from wtours.errors import UsageError

_CHOICES = (
    "choose onnx:PATH (a YOLOX model), detic (LVIS's 1203 classes), torchvision:NAME, "
    "detectron2:CONFIG,WEIGHTS, file:PATH.parquet or file:FOLDER with <video_id>.parquet "
    "(detections made elsewhere), or none"
)


@dataclass(frozen=True, slots=True)
class DetectorSpec:
    """A parsed detector option."""

    kind: Literal["none", "onnx", "detic", "torchvision", "detectron2", "file"]
    argument: str = ""
    """What stands after the colon."""

    def __str__(self) -> str:
        return f"{self.kind}:{self.argument}" if self.argument else self.kind

    @property
    def is_network(self) -> bool:
        """Return whether it looks at pixels, in a process of its own."""
        return self.kind not in ("none", "file")

    def file(self, video_id: str) -> Path:
        """Return the file that has the detections of one video."""
        path = Path(self.argument)
        return path / f"{video_id}.parquet" if path.is_dir() else path

    def load_network(self) -> Network:
        """Return the network.

        Raises:
            AnalysisError: its file is missing or not what it should be.
            MissingPackageError: a package that it needs is not installed.
        """
        # Imported here: each detector has its own dependencies.
        match self.kind:
            case "onnx":
                from wtours.analyze.detectors.yolox import YoloxDetector

                return YoloxDetector(Path(self.argument))
            case "detic":
                from wtours.analyze.detectors.detic import load_detic

                return load_detic(Path(self.argument) if self.argument else None)
            case "torchvision":
                from wtours.analyze.detectors.torchvision import load_torchvision

                name, _, weights = self.argument.partition(",")
                return load_torchvision(name, Path(weights) if weights else None)
            case "detectron2":
                from wtours.analyze.detectors.detectron2 import load_detectron2

                config, _, weights = self.argument.rpartition(",")
                return load_detectron2(Path(config), Path(weights))
            case "file" | "none":
                raise ValueError(f"the detector {self.kind!r} is no network")


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
