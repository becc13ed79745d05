"""House fronts: windows in rows, a shop on the ground floor, a cornice."""

import cv2
import numpy as np

from wtours.synthetic.drawing.palette import Color, Image, Palette, bgr, clipped, grain

FACADE_PPM = 44
"""Pixels per meter."""
FACADE_METERS = 9.0
SLOT_METERS = 13.0
"""Room for the tallest front."""
FACADE_SIZE = (round(SLOT_METERS * FACADE_PPM), round(FACADE_METERS * FACADE_PPM))
"""Rows and columns of a front's image."""
_STOREY, _SHOP, _CORNICE = 3.0, 3.5, 0.45
_WINDOW_HEIGHT = 1.62


class _Front:
    """A front in the making; places are meters from its lower left corner.

    Args:
        rng: Draws the grain of the wall.
        palette: The scene's colors.
        hue: Hue of the wall in degrees.
        light: Brightness of the wall, 0 to 1.
    """

    def __init__(
        self, rng: np.random.Generator, palette: Palette, hue: float, light: float
    ) -> None:
        saturation = palette.walls_saturation + rng.uniform(-0.08, 0.08)
        wall = np.array(bgr(hue, saturation, light), np.float32)
        shade = 1 + 0.05 * grain(rng, FACADE_SIZE, 48) + 0.05 * grain(rng, FACADE_SIZE, 5)
        courses = (np.arange(FACADE_SIZE[0]) % round(0.3 * FACADE_PPM) < 2)[:, None]
        self.canvas = clipped(wall * np.where(courses, shade * 0.92, shade)[..., None])
        self.trim = bgr(hue, 0.2, min(1.0, light * 1.12))
        self.dark = bgr(hue, 0.5, light * 0.5)
        # Glass mirrors the sky.
        self.glass = bgr(palette.sky, 0.4, light * 0.5)
        self.glint = bgr(palette.sky, 0.35, light * 0.72)
        self.awning = bgr(float(rng.choice((28, 50, 130, 200, 265))), 0.6, light * 0.85)

    def box(self, left: float, bottom: float, right: float, top: float, color: Color) -> None:
        """Fill a rectangle."""
        rows = FACADE_SIZE[0]
        corner = (round(left * FACADE_PPM), round(rows - top * FACADE_PPM))
        other = (round(right * FACADE_PPM) - 1, round(rows - bottom * FACADE_PPM) - 1)
        cv2.rectangle(self.canvas, corner, other, color, -1)

    def window(self, left: float, bottom: float, wide: float) -> None:
        """Paint a window with its frame, two panes and a glint."""
        top = bottom + _WINDOW_HEIGHT
        self.box(left - 0.12, bottom - 0.15, left + wide + 0.12, top + 0.13, self.trim)
        self.box(left, bottom, left + wide, top, self.glass)
        self.box(left, bottom + 0.9, left + wide, top, self.glint)
        self.box(left + wide / 2 - 0.04, bottom, left + wide / 2 + 0.04, top, self.trim)

    def shop(self, door: float) -> None:
        """Paint the ground floor: plinth, door, shop windows under awnings."""
        self.box(0, 0, FACADE_METERS, 0.5, self.dark)
        self.box(door - 0.12, 0, door + 1.22, 2.5, self.trim)
        self.box(door, 0, door + 1.1, 2.4, self.dark)
        for left, right in ((0.4, door - 0.5), (door + 1.6, FACADE_METERS - 0.4)):
            if right - left > 1.2:
                self.box(left - 0.1, 0.6, right + 0.1, 2.6, self.trim)
                self.box(left, 0.7, right, 2.5, self.glass)
                self.box(left, 1.7, right, 2.5, self.glint)
                self.box(left - 0.2, 2.5, right + 0.2, 3.1, self.awning)
                self.box(left - 0.2, 2.5, right + 0.2, 2.62, self.trim)


def paint_facade(
    rng: np.random.Generator, palette: Palette, hue: float, *, shaded: bool
) -> tuple[Image, float]:
    """Return a front, `FACADE_SIZE` and 3, standing on its last row, and its height in meters."""
    front = _Front(rng, palette, hue, 0.62 if shaded else 0.86)
    storeys = int(rng.integers(2, 4))
    pitch = FACADE_METERS / int(rng.integers(3, 5))
    wide = pitch * rng.uniform(0.42, 0.56)
    for floor in range(storeys):
        bottom = _SHOP + floor * _STOREY
        for left in np.arange(0, FACADE_METERS - pitch / 2, pitch) + (pitch - wide) / 2:
            front.window(left, bottom + 0.8, wide)
        front.box(0, bottom, FACADE_METERS, bottom + 0.12, front.trim)
    front.shop(float(rng.choice((0.6, 3.6, 7.0))))
    height = _SHOP + storeys * _STOREY + _CORNICE
    front.box(0, height - _CORNICE, FACADE_METERS, height, front.trim)
    front.box(0, height - _CORNICE - 0.12, FACADE_METERS, height - _CORNICE, front.dark)
    return front.canvas, height
