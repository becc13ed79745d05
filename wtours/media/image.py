"""A frame's planes as an encoded image."""

import io
from importlib.util import find_spec
from typing import Any, Literal

import av
import numpy as np
import simplejpeg
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from numpy.typing import NDArray

from wtours.errors import MissingPackageError
from wtours.media.frame import YuvPlanes, plane_pixels

_PNG_LEVEL = 1
"""Of zlib: the higher ones take several times as long for a few percent."""
_WEBP_EFFORT = {"quality": 20, "method": 1}
"""Of the lossless encoder, where quality is effort as well: more takes several times as long."""


def encode_planes(
    planes: YuvPlanes, *, quality: int, codec: Literal["jpeg", "webp-lossless", "png"] = "jpeg"
) -> bytes:
    """Return planes, as `Frame.to_jpeg_planes` gives them, as an image.

    Args:
        planes: Y (H, W), Cb and Cr (ceil(H / 2), ceil(W / 2)), uint8.
        quality: Of a JPEG, 4:2:0, 1 to 100.
        codec: A JPEG of the planes themselves, or their RGB pixels without a loss.
    """
    if codec != "jpeg":
        from PIL import Image

        buffer, image = io.BytesIO(), Image.fromarray(rgb_of(planes))
        if codec == "png":
            image.save(buffer, "PNG", compress_level=_PNG_LEVEL)
        else:
            image.save(buffer, "WEBP", lossless=True, **_WEBP_EFFORT)
        return buffer.getvalue()
    luma, cb, cr = planes
    height, width = luma.shape
    odd = (height % 2, width % 2)
    if any(odd):  # libjpeg-turbo reads on to an even row and column: to what else is in memory
        luma = np.pad(luma, [(0, odd[0]), (0, odd[1])], mode="edge")[:height, :width]
    jpeg: bytes = simplejpeg.encode_jpeg_yuv_planes(luma, cb, cr, quality=quality)
    return jpeg


def frame_of(planes: YuvPlanes) -> av.VideoFrame:
    """Return planes of a JPEG as a frame of PyAV's, yuv420p in the range of JPEG."""
    height, width = planes[0].shape
    frame = av.VideoFrame(width, height, "yuv420p")
    frame.colorspace, frame.color_range = Colorspace.ITU601, ColorRange.JPEG
    for plane, pixels in zip(frame.planes, planes, strict=True):
        plane_pixels(plane)[:] = pixels
    return frame


def rgb_of(planes: YuvPlanes) -> NDArray[np.uint8]:
    """Return (H, W, 3) uint8 RGB of planes of a JPEG, chroma interpolated by swscale."""
    rgb: NDArray[Any] = (
        frame_of(planes)
        .reformat(format="rgb24", interpolation=Interpolation.BICUBIC, threads=1)
        .to_ndarray()
    )
    return rgb


def require_encoder(codec: str) -> None:
    """Refuse a codec whose encoder is not installed.

    Raises:
        MissingPackageError: Pillow is.
    """
    if codec != "jpeg" and find_spec("PIL") is None:
        raise MissingPackageError("pillow", "lossless", f"--codec {codec}")
