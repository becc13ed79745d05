"""The image that cuts and lightness are measured on: PySceneDetect's, made with less work.

PySceneDetect converts every frame to BGR and reduces it by OpenCV's linear interpolation, which
reads two rows for each row of the result and leaves out the rest: at 4K, thirteen of fifteen. So
only the rows that are read are converted here, which gives the same bytes: swscale converts a
pixel of 4:2:0 by itself. Whether that holds is tried out on noise before it is relied on.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray
from scenedetect.scene_manager import compute_downscale_factor

from wtours.media.frame import Frame

_LEAST_KEPT = 3
"""Of the rows for one row of the result: two that are read, and the chroma block of each."""


def reduce_frame(bgr: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the (H, W, 3) uint8 image with its longer side at 256 pixels, never enlarged.

    As PySceneDetect's SceneManager does it: OpenCV's linear interpolation of the full frame.
    """
    size = _reduced_size(bgr.shape[1], bgr.shape[0])
    return bgr if size is None else _resize(bgr, size)


class FrameReducer:
    """Gives the bytes of `reduce_frame(frame.to_bgr())` for the frames of one video."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def reduce(self, frame: Frame) -> NDArray[np.uint8]:
        """Return (h, w, 3) uint8 BGR, the longer side at most 256 pixels, upright."""
        picture = frame.picture
        if not frame.is_plain or picture.format.name != "yuv420p":
            return reduce_frame(frame.to_bgr())
        rows = _rows_that_do(_kind(picture))
        if rows is None:
            return reduce_frame(frame.to_bgr())
        return _reduce_rows(picture, rows, self._reformatter)


@dataclass(frozen=True, slots=True)
class _Kind:
    """What the conversion to BGR depends on."""

    width: int
    height: int
    colorspace: int
    color_range: int


@dataclass(frozen=True, eq=False, slots=True)
class _Rows:
    """The rows that a resize needs, such that the kept ones resize to the same image."""

    luma: NDArray[np.intp]
    chroma: NDArray[np.intp]
    size: tuple[int, int]
    """Width and height of the result."""
    converted: av.VideoFrame
    """Holds the kept rows."""


def _kind(picture: av.VideoFrame) -> _Kind:
    return _Kind(picture.width, picture.height, int(picture.colorspace), int(picture.color_range))


@lru_cache(maxsize=4)
def _rows_that_do(kind: _Kind) -> _Rows | None:
    """Return the rows to keep, or None where the whole frame must be converted.

    Tried on a frame of noise: there, a coefficient or a chroma sample that is off shows.
    """
    size = _reduced_size(kind.width, kind.height)
    kept = None if size is None else _kept_rows(kind.height, size[1])
    if size is None or kept is None or kind.width % 2 or kind.height % 2:
        return None
    rows = _Rows(kept, kept[::2] // 2, size, _frame(kind, len(kept)))
    noise, random = _frame(kind, kind.height), np.random.default_rng(0)
    for plane in _planes(noise):
        plane[...] = random.integers(0, 256, plane.shape, dtype=np.uint8)
    reformatter = VideoReformatter()
    whole = reduce_frame(_bgr(noise, reformatter))
    return rows if np.array_equal(_reduce_rows(noise, rows, reformatter), whole) else None


def _kept_rows(height: int, reduced: int) -> NDArray[np.intp] | None:
    """Return which rows to keep so that the result stays the same; None: all.

    The result's row d lies at (d + 0.5) * height / reduced - 0.5, between two rows. With 2k fewer
    rows for each row of the result it lies at that less 2kd + k, a whole number: between the same
    two rows in the same place. k is even, so that even rows stay even and share their chroma.
    """
    fewer = 2 * max(0, int((height / reduced - _LEAST_KEPT) // 4))  # k
    if fewer == 0:
        return None
    rows = np.arange(height - 2 * fewer * reduced)
    target = np.arange(reduced)
    shift = 2 * fewer * target + fewer
    first = np.floor((target + 0.5) * height / reduced - 0.5).astype(np.intp)
    for row in (first, first + 1):
        even = np.maximum(row - row % 2, 0)
        for source in (even, even + 1):
            inside = (source - shift >= 0) & (source - shift < len(rows)) & (source < height)
            rows[(source - shift)[inside]] = source[inside]
    return rows


def _reduce_rows(
    picture: av.VideoFrame, rows: _Rows, reformatter: VideoReformatter
) -> NDArray[np.uint8]:
    kept = rows.converted
    luma, *chroma = zip(_planes(picture), _planes(kept), strict=True)
    np.take(luma[0], rows.luma, axis=0, out=luma[1], mode="clip")
    for source, target in chroma:
        np.take(source, rows.chroma, axis=0, out=target, mode="clip")
    return _resize(_bgr(kept, reformatter), rows.size)


def _bgr(picture: av.VideoFrame, reformatter: VideoReformatter) -> NDArray[np.uint8]:
    """Return the image as (H, W, 3); the pixels are not copied once more."""
    converted = reformatter.reformat(picture, format="bgr24", threads=1)
    (pixels,) = _planes(converted, bytes_a_pixel=3)
    return pixels.reshape(picture.height, picture.width, 3)


def _planes(picture: av.VideoFrame, *, bytes_a_pixel: int = 1) -> list[NDArray[np.uint8]]:
    """Return views of the planes: (height, width) bytes, without what pads the rows."""
    planes: Any = picture.planes  # PyAV's stubs do not say that they are buffers
    return [
        np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[
            : plane.height, : plane.width * bytes_a_pixel
        ]
        for plane in planes
    ]


def _frame(kind: _Kind, height: int) -> av.VideoFrame:
    frame = av.VideoFrame(kind.width, height, "yuv420p")
    frame.colorspace, frame.color_range = kind.colorspace, kind.color_range
    return frame


def _reduced_size(width: int, height: int) -> tuple[int, int] | None:
    """Return width and height of the reduced image, or None where the frame is small enough."""
    factor = compute_downscale_factor(max(height, width))
    if factor <= 1:
        return None
    return max(1, round(width / factor)), max(1, round(height / factor))


def _resize(bgr: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.asarray(cv2.resize(bgr, size, interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
