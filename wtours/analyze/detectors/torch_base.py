"""What the detectors that run on torch have in common: a device, batches, and their result.

Torch itself is imported when a detector is made, never with this module.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wtours.analyze.detectors.base import STORE_THRESHOLD, Colors, Detection
from wtours.analyze.schema import DetectorFacts
from wtours.errors import MissingPackageError

GPU_BATCH = 8
"""Frames at a time on a GPU. On a CPU it is one, which is as fast there."""


@dataclass(frozen=True, eq=False, slots=True)
class Found:
    """What a network found in one image: n boxes."""

    label_ids: NDArray[np.int64]
    """(n,) indices in the vocabulary."""
    scores: NDArray[np.float32]
    """(n,) 0 to 1."""
    boxes: NDArray[np.float32]
    """(n, 4) x0, y0, x1, y1 in pixels of the full image."""


Infer = Callable[[Any, Sequence[NDArray[np.uint8]]], list[Found]]
"""Called as infer(model, images), the images (H, W, 3) uint8 RGB of one size."""


class TorchDetector:
    """A network with the function that runs it.

    On a GPU every batch has `GPU_BATCH` images, the last one filled up, so that the same kernels
    run whatever the number of frames; on a CPU it runs on one thread, as sums there depend on their
    number (`--jobs` is what spreads the work).

    Args:
        facts: What it is; at most `max_per_frame` detections of a frame are kept.
        versions: Of its packages, for the receipt.
        model: A torch module; it goes to the GPU, where there is one, with the first frame.
        infer: Runs it.
    """

    colors: Colors = "rgb"

    def __init__(
        self, *, facts: DetectorFacts, versions: dict[str, str], model: Any, infer: Infer
    ) -> None:
        import torch

        self.facts = facts
        self.versions = {"torch": torch.__version__, **versions}
        self._device = best_device()
        self.batch_size = GPU_BATCH if self._device == "cuda" else 1
        self._model = model.eval()
        self._infer = infer

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[list[Detection]]:
        """Return each image's detections, highest score first."""
        detections: list[list[Detection]] = []
        for start in range(0, len(images), self.batch_size):
            batch = images[start : start + self.batch_size]
            filled = [*batch, *[batch[-1]] * (self.batch_size - len(batch))]
            with inference():
                found = self._infer(self._model.to(self._device), filled)
            detections += [
                self._kept(one, picture) for one, picture in zip(found, batch, strict=False)
            ]
        return detections

    def _kept(self, found: Found, picture: NDArray[np.uint8]) -> list[Detection]:
        best_first = np.argsort(-found.scores, kind="stable")[: self.facts.max_per_frame]
        height, width = picture.shape[:2]
        boxes = np.clip(found.boxes, 0, np.array([width, height, width, height], np.float32))
        return [
            Detection(
                self.facts.vocabulary[found.label_ids[i]],
                int(found.label_ids[i]),
                float(found.scores[i]),
                *map(float, boxes[i]),
            )
            for i in best_first
            if found.scores[i] >= np.float32(STORE_THRESHOLD)
        ]


def best_device() -> str:
    """Return "cuda" where torch sees a GPU, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def require_torch(purpose: str, *packages: str) -> None:
    """Raise MissingPackageError, naming the extra, if torch or one of these is not installed."""
    for package in ("torch", *packages):
        if find_spec(package) is None:
            raise MissingPackageError(package, "objects", purpose)


@contextmanager
def inference() -> Iterator[None]:
    """Run a network without gradients and, on a CPU, on one thread."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(threads)
