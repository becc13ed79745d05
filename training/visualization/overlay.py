"""Drawing attention over frames, and images in a labeled grid."""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Picture = NDArray[np.uint8]
"""(H, W, 3) RGB."""

STRENGTH = 0.6
"""Share of the colors in an overlay; the rest is the frame."""
GAP = 6
HEADER = 96
MARGIN = 200
"""Pixels between the images, above them and to their left."""
_FONT_SIZE, _TITLE_SIZE = 18, 21
Palette = Literal["rgb", "colorblind"]
_OKABE_ITO = (
    *((213, 94, 0), (86, 180, 233), (240, 228, 66), (0, 158, 115)),
    *((204, 121, 167), (0, 114, 178), (230, 159, 0)),
)
"""Okabe and Ito's colors but black, those first that differ most, in lightness too."""
_WHITE, _BLACK, _GRAY = (255, 255, 255), (0, 0, 0), (87, 97, 107)


@dataclass(frozen=True)
class Row:
    """A row of a grid: what it shows, one line of text each, and its images."""

    label: Sequence[str]
    pictures: Sequence[Picture]


def object_colors(num_objects: int, palette: Palette = "rgb") -> NDArray[np.float64]:
    """Return a color for each object, (O, 3) in [0, 1].

    "rgb": red, green and blue, then more hues. "colorblind": Okabe and Ito's, which people of all
    kinds of color vision tell apart; there are seven, then they come again.
    """
    if palette == "colorblind":
        cycle = [_OKABE_ITO[number % len(_OKABE_ITO)] for number in range(num_objects)]
        return np.array(cycle) / 255
    hues = max(num_objects, 3)
    return np.array([colorsys.hsv_to_rgb(number / hues, 1, 1) for number in range(num_objects)])


def stretched(maps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return maps whose smallest value is 0 and largest 1; a constant map becomes 0.

    Args:
        maps: (..., N); each is stretched on its own.
    """
    low, high = maps.min(axis=-1, keepdims=True), maps.max(axis=-1, keepdims=True)
    spread = high - low
    result: NDArray[np.float64] = (maps - low) / np.where(spread > 0, spread, 1)
    return result


def overlay(frame: Picture, maps: NDArray[np.float64], palette: Palette = "rgb") -> Picture:
    """Return a frame under its objects' maps, each in its color; where they overlap, colors add.

    Args:
        frame: (S, S, 3).
        maps: (O, N) in [0, 1], square grids of patches in row-major order whose side divides S;
            enlarged to the frame without smoothing, as the masks are in training.
    """
    side = round(maps.shape[1] ** 0.5)
    light = np.minimum(maps.T @ object_colors(len(maps), palette), 1).reshape(side, side, 3)
    pixels = len(frame) // side
    light = light.repeat(pixels, axis=0).repeat(pixels, axis=1)
    return np.rint((1 - STRENGTH) * frame + STRENGTH * 255 * light).astype(np.uint8)


def strongest_object(
    frame: Picture, maps: NDArray[np.float64], palette: Palette = "rgb"
) -> Picture:
    """Return a frame in which each place has the color of the object whose map is highest there.

    The maps are smoothed (bicubic), which the masks in training are not; the higher the map, the
    stronger the color, and where no object attends the frame shows through.

    Args:
        frame: (S, S, 3).
        maps: (O, N) in [0, 1], as of `overlay`.
    """
    side = round(maps.shape[1] ** 0.5)
    size = frame.shape[1], frame.shape[0]
    grids = maps.reshape(-1, side, side).astype(np.float32)
    resized = [Image.fromarray(g).resize(size, Image.Resampling.BICUBIC) for g in grids]
    smooth = np.stack([np.asarray(image, np.float64) for image in resized]).clip(0, 1)
    light = object_colors(len(maps), palette)[smooth.argmax(axis=0)]  # (S, S, 3)
    strength = 0.8 * smooth.max(axis=0)[..., None] ** 1.5
    colored: Picture = np.rint((1 - strength) * frame + strength * 255 * light).astype(np.uint8)
    return colored


def draw_grid(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Row],
    legend: Sequence[tuple[str, Sequence[float]]] = (),
) -> Image.Image:
    """Return images of one size in a labeled grid, black on white.

    The image in row i and column j has its corner at
    (margin + j * (width + GAP), HEADER + i * (height + GAP)); the margin is MARGIN, or GAP where no
    row has a label.

    Args:
        legend: Names with their colors, (3,) in [0, 1], under the title.
    """
    height, width = rows[0].pictures[0].shape[:2]
    margin = MARGIN if any(row.label for row in rows) else GAP
    size = margin + len(columns) * (width + GAP), HEADER + len(rows) * (height + GAP)
    image = Image.new("RGB", size, _WHITE)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(_FONT_SIZE)
    draw.text((GAP, GAP), title, _BLACK, ImageFont.load_default(_TITLE_SIZE))
    x = margin
    for name, color in legend:
        top, bottom = GAP + 32, GAP + 32 + _FONT_SIZE - 2
        fill = tuple(round(255 * part) for part in color)
        draw.rectangle((x, top, x + _FONT_SIZE - 2, bottom), fill=fill, outline=_BLACK)
        draw.text((x + _FONT_SIZE + 5, bottom + 2), name, _BLACK, font, anchor="ld")
        x += round(font.getlength(name)) + _FONT_SIZE + 30
    for column, text in enumerate(columns):
        left = margin + column * (width + GAP)
        draw.text((left, HEADER - GAP), text, _GRAY, font, anchor="ld")
    for number, row in enumerate(rows):
        top = HEADER + number * (height + GAP)
        for line, text in enumerate(row.label):
            draw.text((GAP, top + line * 25), text, _GRAY if line else _BLACK, font)
        for column, picture in enumerate(row.pictures):
            image.paste(Image.fromarray(picture), (margin + column * (width + GAP), top))
    return image
