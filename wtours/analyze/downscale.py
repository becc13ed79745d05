"""The image that cuts and lightness are measured on: PySceneDetect's, made with less work.

PySceneDetect converts every frame to BGR and reduces it by OpenCV's linear interpolation, which
reads two rows for each row of the result and leaves out the rest: at 4K, thirteen of fifteen. So
only the rows that are read are converted here, which gives the same bytes: swscale converts a
pixel of 4:2:0 by itself. Whether that holds is tried out on noise before it is relied on.
"""

from dataclasses import dataclass
from functools import lru_cache

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray
from scenedetect.scene_manager import compute_downscale_factor

from wtours.media.frame import Frame, plane_pixels, plane_rows

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
        picture, rows = frame.picture, None
        if frame.is_plain and picture.format.name == "yuv420p":
            colors = int(picture.colorspace), int(picture.color_range)
            rows = _rows_that_do(picture.width, picture.height, *colors)
        if rows is None:
            return reduce_frame(frame.to_bgr())
        return _reduce_rows(picture, rows, self._reformatter)


@dataclass(frozen=True, eq=False, slots=True)
class _Rows:
    """The rows that a resize needs, such that the kept ones resize to the same image."""

    luma: NDArray[np.intp]
    chroma: NDArray[np.intp]
    size: tuple[int, int]
    """Width and height of the result."""
    converted: av.VideoFrame
    """Holds the kept rows."""


@lru_cache(maxsize=4)
def _rows_that_do(width: int, height: int, colorspace: int, color_range: int) -> _Rows | None:
    """Return the rows to keep, or None where the whole frame must be converted.

    Tried on a frame of noise: there, a coefficient or a chroma sample that is off shows.
    """
    size = _reduced_size(width, height)
    kept = None if size is None else _kept_rows(height, size[1])
    if size is None or kept is None or width % 2 or height % 2:
        return None
    noise, converted = (av.VideoFrame(width, n, "yuv420p") for n in (height, len(kept)))
    for frame in (noise, converted):
        frame.colorspace, frame.color_range = colorspace, color_range
    rows, random = _Rows(kept, kept[::2] // 2, size, converted), np.random.default_rng(0)
    for pixels in map(plane_pixels, noise.planes):
        pixels[...] = random.integers(0, 256, pixels.shape, dtype=np.uint8)
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
    planes = zip(picture.planes, rows.converted.planes, strict=True)
    for (source, target), kept in zip(planes, (rows.luma, rows.chroma, rows.chroma), strict=True):
        np.take(plane_pixels(source), kept, axis=0, out=plane_pixels(target), mode="clip")
    return _resize(_bgr(rows.converted, reformatter), rows.size)


def _bgr(picture: av.VideoFrame, reformatter: VideoReformatter) -> NDArray[np.uint8]:
    """Return the image as (H, W, 3); the pixels are not copied once more."""
    (plane,) = reformatter.reformat(picture, format="bgr24", threads=1).planes
    return plane_rows(plane)[:, : 3 * picture.width].reshape(picture.height, picture.width, 3)


def _reduced_size(width: int, height: int) -> tuple[int, int] | None:
    """Return width and height of the reduced image, or None where the frame is small enough."""
    factor = compute_downscale_factor(max(height, width))
    if factor <= 1:
        return None
    return max(1, round(width / factor)), max(1, round(height / factor))


def _resize(bgr: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.asarray(cv2.resize(bgr, size, interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
