"""The image formats that a shard may hold: their names, whole or cut, and their pixels.

JPEG by simplejpeg; PNG and lossless WebP by Pillow, imported when there is one.
"""

import io
from typing import Final, Literal

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from wtours.errors import MissingPackageError

Codec = Literal["jpeg", "webp-lossless", "png"]
SUFFIXES: Final[dict[Codec, str]] = {"jpeg": ".jpg", "webp-lossless": ".webp", "png": ".png"}
"""Of the members of a tar."""
FORMAT_NAMES = {".jpg": "JPEG", ".webp": "WebP", ".png": "PNG"}
MAX_PIXELS = 8192 * 8192
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_RIFF_HEADER = 12
_PILLOW_FORMATS = {".webp": "WEBP", ".png": "PNG"}


def is_whole(data: bytes | memoryview, suffix: str) -> bool:
    """Return whether the bytes begin and end as an image of this format does."""
    if suffix == ".jpg":
        return data[:2] == b"\xff\xd8" and data[-2:] == b"\xff\xd9"
    if suffix == ".png":
        return data[: len(_PNG_START)] == _PNG_START and data[-len(_PNG_END) :] == _PNG_END
    size = int.from_bytes(data[4:8], "little") + 8
    return (data[:4], data[8:_RIFF_HEADER], size) == (b"RIFF", b"WEBP", len(data))


def suffix_of(data: bytes) -> str:
    """Return the suffix of the format that the bytes begin as; ".jpg" of what is none of them."""
    if data.startswith(_PNG_START):
        return ".png"
    return ".webp" if data.startswith(b"RIFF") else ".jpg"


def decode_image(data: bytes, *, min_short_side: int = 0) -> NDArray[np.uint8]:
    """Return the pixels, (H, W, 3) uint8 RGB.

    Args:
        data: A JPEG, PNG or WebP.
        min_short_side: 0: in full, by the exact inverse DCT. Otherwise a JPEG is decoded in the
            smallest of the sizes 1/8, 2/8, … 8/8 that keeps min(H, W) at this many pixels.

    Raises:
        ValueError: it is damaged, or has more than `MAX_PIXELS`.
        MissingPackageError: it is a PNG or WebP, and Pillow is not installed.
    """
    suffix = suffix_of(data)
    if suffix != ".jpg":
        return _decode_by_pillow(data, _PILLOW_FORMATS[suffix])
    height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    _require_size(width, height)
    pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
        data, "RGB", min_height=min_short_side, min_width=min_short_side
    )
    return pixels


def decode_gray(data: bytes, *, min_short_side: int = 0) -> NDArray[np.uint8]:
    """Return the luma, (H, W) uint8; arguments and errors are those of `decode_image`."""
    if suffix_of(data) != ".jpg":
        weights = np.array([0.299, 0.587, 0.114], np.float32)  # of JFIF
        gray: NDArray[np.uint8] = np.rint(decode_image(data) @ weights).astype(np.uint8)
        return gray
    luma: NDArray[np.uint8] = simplejpeg.decode_jpeg(
        data, "GRAY", min_height=min_short_side, min_width=min_short_side
    )
    return luma[:, :, 0]


def _decode_by_pillow(data: bytes, name: str) -> NDArray[np.uint8]:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingPackageError("pillow", "lossless", f"decoding {name}") from error
    try:
        with Image.open(io.BytesIO(data), formats=[name]) as image:
            _require_size(*image.size)
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(str(error)) from error


def _require_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width}x{height} is more than {MAX_PIXELS} pixels")
