"""Cuts, by PySceneDetect's detectors, in two halves so that a video can be split into segments.

First half, per frame: the content score, which needs only the frame before. Second half, over the
whole series of scores: thresholds, windows and minimum shot lengths. The second half is the
library's own code (its detectors, fed with recorded scores), so the cuts are those of
`scenedetect -b pyav detect-adaptive` and `detect-content`, to the frame.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

try:  # here since of all modules that need them this one is imported first
    import cv2
    from scenedetect.common import FrameTimecode, Timecode
    from scenedetect.detectors import AdaptiveDetector, ContentDetector
except ImportError as error:
    from wtours.errors import MissingPackageError

    raise MissingPackageError("scenedetect-headless", "analyze", "`wtours analyze`") from error

from wtours.analyze.schema import DEFAULT_CUT_DETECTOR

_MIN_SHOT = "0.6s"
"""PySceneDetect's command line turns its default of 0.6 s into whole frames; so do we."""
_US = 1_000_000
_NO_PICTURE: NDArray[np.uint8] = np.empty((0, 0, 3), np.uint8)


class ContentScorer:
    """PySceneDetect's `content_val`: how much a frame differs from the one before, 0 to 255.

    The mean over hue, saturation and value (OpenCV's 8-bit HSV) of the mean absolute difference.
    The sums are of integers, so the result equals the library's to the last bit.
    """

    def __init__(self) -> None:
        self._last: NDArray[np.uint8] | None = None

    def score(self, bgr: NDArray[np.uint8]) -> float:
        """Return the score of an (H, W, 3) uint8 BGR image; 0 for the first one."""
        hsv = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2HSV), dtype=np.uint8)
        last, self._last = self._last, hsv
        if last is None:
            return 0.0
        sums = cv2.sumElems(cv2.absdiff(hsv, last))[:3]
        pixels = float(hsv.shape[0] * hsv.shape[1])
        hue, saturation, value = (total / pixels for total in sums)
        return float((hue + saturation + value) / 3.0)


class CutFinder:
    """Replays every cut detector over the scores of a whole video, in time order.

    Args:
        frame_rate: The video's nominal one, as PySceneDetect takes it: it turns 0.6 s into the
            minimum number of frames in a shot. Positions are timestamps, so a variable rate does
            not shift cuts.
    """

    def __init__(self, frame_rate: Fraction) -> None:
        self._frame_rate = frame_rate
        self._next_score = 0.0
        min_frames = FrameTimecode(_MIN_SHOT, frame_rate).frame_num
        self._detectors = {name: make(min_frames) for name, make in _CUT_DETECTORS.items()}
        for detector in self._detectors.values():  # it takes the score instead of an image
            detector._calculate_frame_score = lambda timecode, image: self._next_score
        self._cuts: dict[str, set[int]] = {name: set() for name in self._detectors}

    def add(self, pts_us: Sequence[int], scores: Sequence[float]) -> None:
        """Take the next frames' timestamps and content scores."""
        for pts, score in zip(pts_us, scores, strict=True):
            timecode = FrameTimecode(Timecode(pts, Fraction(1, _US)), self._frame_rate)
            self._next_score = score
            for name, detector in self._detectors.items():
                found = detector.process_frame(timecode, _NO_PICTURE)
                self._cuts[name].update(cut.pts for cut in found)

    def cuts_us(self) -> dict[str, list[int]]:
        """Return, by cut detector, the timestamps of the first frames of new shots, ascending."""
        return {name: sorted(cuts) for name, cuts in self._cuts.items()}


_CUT_DETECTORS: dict[str, Callable[[int], Any]] = {
    DEFAULT_CUT_DETECTOR: lambda frames: AdaptiveDetector(min_scene_len=frames),
    "content27": lambda frames: ContentDetector(threshold=27.0, min_scene_len=frames),
    "content30": lambda frames: ContentDetector(threshold=30.0, min_scene_len=frames),
}
CUT_DETECTORS = tuple(_CUT_DETECTORS)
