"""From an encoded image to the square that a network is evaluated on."""

import io
import math
import zlib
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from wtours.errors import ImageDataError

_PNG = b"\x89PNG\r\n\x1a\n"
FORMATS = ("JPEG", "PNG", "WEBP")
MAX_PIXELS = 2**26
"""Of an image as it is and after it was resized: 201 MB as RGB."""


def decode_center(
    data: bytes, *, what: str, resize_pixels: int, crop_pixels: int
) -> NDArray[np.uint8]:
    """Return what `crop_center` makes of an encoded image; orientation tags are ignored."""
    rgb = decode_rgb(data, what=what, short_side=resize_pixels)
    return crop_center(rgb, resize_pixels=resize_pixels, crop_pixels=crop_pixels)


def decode_rgb(data: bytes, *, what: str, short_side: int = 1) -> Image.Image:
    """Return an encoded image as RGB; orientation tags are ignored.

    Args:
        data: A JPEG, PNG or WebP.
        short_side: What it will be resized to; the result must not exceed `MAX_PIXELS`.

    Raises:
        ImageDataError: it does not decode, or has more than `MAX_PIXELS`.
    """
    return decode_image(data, what=f"image {what}", mode="RGB", short_side=short_side)


def decode_image(
    data: bytes, *, what: str, mode: Literal["RGB"] | None = None, short_side: int = 1
) -> Image.Image:
    """Return an encoded image as RGB, or as it is; see `decode_rgb`."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if max(width * height, math.prod(_resized(image.size, short_side))) > MAX_PIXELS:
                raise ImageDataError(
                    f"{what} is {width}x{height}: too many pixels, or too long and thin"
                )
            if mode == "RGB" and image.mode.startswith("I"):
                # Of 16-bit gray the upper 8 bits, where PIL would clip at 255.
                return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
            return image.convert("RGB") if mode == "RGB" else image.copy()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageDataError(f"{what} has more than {MAX_PIXELS} pixels") from error
    except UnidentifiedImageError as error:
        raise ImageDataError(f"{what} is not a JPEG, PNG or WebP") from error
    except (OSError, SyntaxError, ValueError, EOFError, zlib.error) as error:  # PIL's, by format
        raise ImageDataError(f"{what} cannot be decoded ({error})") from error


def decode_labels(data: bytes, *, what: str) -> NDArray[np.int64]:
    """Return the numbers of an encoded mask as they are stored, (H, W).

    Args:
        data: A PNG with a palette, or a gray one of 1 to 16 bits.

    Raises:
        ImageDataError: it does not decode, or is an image in colors.
    """
    image = decode_image(data, what=what)
    if image.mode not in ("P", "L", "1", "I;16", "I"):
        raise ImageDataError(
            f"{what} are an image of mode {image.mode}, not one number for each pixel: a PNG with "
            f"a palette, or a gray one"
        )
    labels: NDArray[np.int64] = np.asarray(image).astype(np.int64)
    gray_bits = data[24] if image.mode == "L" and data[:8] == _PNG else 8
    # PIL stretches gray of 2 and 4 bits to 0..255.
    return labels // np.int64(255 // (2**gray_bits - 1))


def decode_indices(data: bytes, *, what: str) -> NDArray[np.uint8]:
    """Return `decode_labels` of 8 bits at most.

    Raises:
        ImageDataError: as of `decode_labels`, or a number is above 255.
    """
    labels = decode_labels(data, what=what)
    if labels.max() > 255:
        raise ImageDataError(f"{what} hold {labels.max()}; masks go up to 255")
    return labels.astype(np.uint8)


def crop_center(image: Image.Image, *, resize_pixels: int, crop_pixels: int) -> NDArray[np.uint8]:
    """Return the central square of an image, (crop_pixels, crop_pixels, 3) uint8 RGB.

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
