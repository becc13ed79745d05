"""The colors of a street scene, and smooth noise to break them up.

All hues keep off 0 and 180, OpenCV's two names for red, and all grays are tinted: near either, a
coder's rounding changes the hue a lot, and cut detectors weigh hue.
"""

import colorsys
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Color = tuple[float, float, float]
"""Blue, green, red, 0 to 255."""

NUM_FACADES = 6
"""House fronts of a scene; the first half faces the sun, the second half lies in shade."""


@dataclass(frozen=True)
class Palette:
    """Hues in degrees and saturations of one scene, from two families no detector confuses.

    Between two families almost every pixel's hue turns by half a circle, and its saturation
    changes: cut detectors see that at dusk too, when the difference in brightness is small.
    """

    sky: float
    sky_saturation: float
    walls: tuple[float, ...]
    walls_saturation: float
    ground: float
    ground_saturation: float

    @staticmethod
    def draw(rng: np.random.Generator, *, family: int) -> "Palette":
        """Draw a palette: family 0 is a blue noon over warm walls, 1 a golden evening over cool."""
        if family == 0:
            walls = tuple(float(hue) for hue in rng.uniform(16, 34, NUM_FACADES))
            return Palette(rng.uniform(204, 218), 0.28, walls, 0.4, 28, 0.2)
        walls = tuple(float(hue) for hue in rng.uniform(185, 235, NUM_FACADES))
        return Palette(rng.uniform(28, 38), 0.46, walls, 0.56, 228, 0.34)

    @property
    def horizon(self) -> Color:
        """The color that distance fades to."""
        return bgr(self.sky, 0.8 * self.sky_saturation, 0.94)


def bgr(hue: float, saturation: float, value: float) -> Color:
    """Return a color as (blue, green, red) in 0 to 255; hue in degrees, the others 0 to 1."""
    red, green, blue = colorsys.hsv_to_rgb(hue / 360, saturation, value)
    return (255 * blue, 255 * green, 255 * red)


def clipped(image: NDArray[np.floating]) -> Image:
    """Return an image as uint8."""
    result: Image = np.clip(image, 0, 255).astype(np.uint8)
    return result


def grain(rng: np.random.Generator, shape: tuple[int, int], cell: int) -> NDArray[np.float32]:
    """Return smooth noise (H, W) that wraps around, mean 0, about -1 to 1, of `cell` pixels."""
    rows, columns = max(2, shape[0] // cell), max(2, shape[1] // cell)
    small = rng.uniform(-1, 1, (rows, columns)).astype(np.float32)
    wrapped = np.pad(small, 2, mode="wrap")
    scale_y, scale_x = shape[0] / rows, shape[1] / columns
    matrix = np.array([[1 / scale_x, 0, 2], [0, 1 / scale_y, 2]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    noise = cv2.warpAffine(wrapped, matrix, (shape[1], shape[0]), flags=flags)
    return np.asarray(noise, dtype=np.float32)
