"""From an encoded image to the square that a network is evaluated on."""

import io
import math
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from wtours.errors import ImageDataError

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_PIXELS = 2**26
"""Of an image as it is and after it was resized: 201 MB as RGB."""


def decode_center(
    data: bytes, *, what: str, resize_pixels: int, crop_pixels: int
) -> NDArray[np.uint8]:
    """Return what `crop_center` makes of an encoded image; orientation tags are ignored.

    Args:
        data: A JPEG, PNG or WebP.
        what: Its name, for messages.
        resize_pixels: See `crop_center`.
        crop_pixels: See `crop_center`.

    Raises:
        ImageDataError: it does not decode, or has more than `MAX_PIXELS`.
    """
    rgb = decode_rgb(data, what=what, short_side=resize_pixels)
    return crop_center(rgb, resize_pixels=resize_pixels, crop_pixels=crop_pixels)


def decode_rgb(data: bytes, *, what: str, short_side: int = 1) -> Image.Image:
    """Return an encoded image as RGB; orientation tags are ignored.

    Args:
        data: A JPEG, PNG or WebP.
        what: Its name, for messages.
        short_side: What it will be resized to; no picture of more than `MAX_PIXELS` comes of it.

    Raises:
        ImageDataError: it does not decode, or has more than `MAX_PIXELS`.
    """
    return decode_image(data, what=f"image {what}", mode="RGB", short_side=short_side)


def decode_image(
    data: bytes, *, what: str, mode: str | None = None, short_side: int = 1
) -> Image.Image:
    """Return an encoded picture in one of PIL's modes, or as it is; see `decode_rgb`."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if max(width * height, math.prod(_resized(image.size, short_side))) > MAX_PIXELS:
                raise ImageDataError(
                    f"{what} is {width}x{height}: too many pixels, or too long and thin"
                )
            return image.convert(mode) if mode else image.copy()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageDataError(f"{what} has more than {MAX_PIXELS} pixels") from error
    except UnidentifiedImageError as error:
        raise ImageDataError(f"{what} is not a JPEG, PNG or WebP") from error
    except (OSError, SyntaxError, ValueError, EOFError, zlib.error) as error:  # PIL's, by format
        raise ImageDataError(f"{what} cannot be decoded ({error})") from error


def decode_indices(data: bytes, *, what: str) -> NDArray[np.uint8]:
    """Return the numbers of an encoded mask, a PNG with a palette or a gray one, (H, W).

    Raises:
        ImageDataError: it does not decode, or is a picture in colors.
    """
    picture = decode_image(data, what=f"mask {what}")
    if picture.mode not in ("P", "L", "1"):
        raise ImageDataError(
            f"mask {what} is a picture of mode {picture.mode}; masks are indices, with a palette "
            f"or gray"
        )
    return np.asarray(picture, dtype=np.uint8)


def crop_center(image: Image.Image, *, resize_pixels: int, crop_pixels: int) -> NDArray[np.uint8]:
    """Return the central square of a picture, (crop_pixels, crop_pixels, 3) uint8 RGB.

    The short side is resized to `resize_pixels`, up or down, bicubic with antialias, and the
    center is cut out: torchvision's Resize(resize_pixels, BICUBIC) and CenterCrop(crop_pixels),
    pixel by pixel.

    Args:
        image: RGB.
        resize_pixels: Short side after resizing, >= crop_pixels.
        crop_pixels: Side of the square.
    """
    size = _resized(image.size, resize_pixels)
    resized = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (round((side - crop_pixels) / 2) for side in size)
    return np.asarray(resized.crop((left, top, left + crop_pixels, top + crop_pixels)))


def _resized(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    short = min(size)
    return size[0] * short_side // short, size[1] * short_side // short


_RESIZE_PER_CROP = 256 / 224  # DINO's, kept for backbones trained at another size


def resize_for(crop_pixels: int) -> int:
    """Return the short side that an image is resized to before the crop: 256 for 224 pixels."""
    return round(crop_pixels * _RESIZE_PER_CROP)
