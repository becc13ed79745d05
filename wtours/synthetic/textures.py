"""The painted surfaces of a street scene, at several resolutions, in one atlas image.

One atlas means one `cv2.remap` for the whole background. Level L of the atlas is the level 0
picture reduced 2**L times, to its right; far surfaces read a coarse level, so they do not flicker.
All hues keep off 0 and 180, OpenCV's two names for red, and all greys are tinted: near either, a
coder's rounding changes the hue a lot, and cut detectors weigh hue.
"""

import colorsys
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wtours.synthetic.route import BLOCK

Picture = NDArray[np.uint8]
Color = tuple[float, float, float]
_Box = Callable[[float, float, float, float, Color], None]

NUM_LEVELS = 5
GROUND_PPM = 32
FACADE_PPM = 44
FACADE_METRES = 9.0
SLOT_METRES = 13.0
NUM_FACADES = 6
"""The first half faces the sun, the second half lies in shade."""
_PAD = 16
_GROUND_SIDE = round(BLOCK * GROUND_PPM)
SKY_HEIGHT = 288
SKY_SLOPE = 0.75
"""The sky picture reaches from the horizon to this tangent of elevation."""
SKY_WIDTH = _GROUND_SIDE
_FACADE_SIZE = (round(SLOT_METRES * FACADE_PPM), round(FACADE_METRES * FACADE_PPM))
_PER_ROW = 3
_WIDTH = _GROUND_SIDE + 2 * _PAD
_SLOT_HEIGHT = _FACADE_SIZE[0] + 2 * _PAD
_FACADE_TOP = _GROUND_SIDE + 2 * _PAD + SKY_HEIGHT
_HEIGHT = -(-(_FACADE_TOP + -(-NUM_FACADES // _PER_ROW) * _SLOT_HEIGHT) // 16) * 16
ROAD_HALF = 4.3


@dataclass(frozen=True)
class Palette:
    """Hues in degrees, of one scene; drawn from two families that no detector confuses."""

    sky: float
    walls: tuple[float, ...]
    ground: float
    horizon: Color

    @staticmethod
    def draw(rng: np.random.Generator, *, family: int) -> "Palette":
        """Draw a palette: family 0 is a blue noon over warm walls, 1 a golden evening over cool."""
        if family == 0:
            walls = tuple(float(hue) for hue in rng.uniform(22, 44, NUM_FACADES))
            return Palette(rng.uniform(200, 214), walls, 34, bgr(205, 0.22, 0.92))
        walls = tuple(float(hue) for hue in rng.uniform(165, 225, NUM_FACADES))
        return Palette(rng.uniform(30, 42), walls, 222, bgr(38, 0.36, 0.95))


@dataclass(frozen=True)
class Atlas:
    """The surfaces of one scene.

    Attributes:
        picture: (H, W, 3) uint8 BGR.
        level_x: (NUM_LEVELS,) left edge of each level in pixels.
        facade_x: (NUM_FACADES,) left edge of each facade at level 0.
        facade_y: (NUM_FACADES,) line of the pavement of each facade at level 0.
        facade_height: (NUM_FACADES,) metres.
        horizon: The colour that distance fades to.
    """

    picture: Picture
    level_x: NDArray[np.float32]
    facade_x: NDArray[np.float32]
    facade_y: NDArray[np.float32]
    facade_height: NDArray[np.float32]
    horizon: Color


GROUND_ORIGIN = _PAD
SKY_X, SKY_BOTTOM = _PAD, _GROUND_SIDE + 2 * _PAD + SKY_HEIGHT - 2


def bgr(hue: float, saturation: float, value: float) -> Color:
    """Return a colour as (blue, green, red) in 0 to 255; hue in degrees, the others 0 to 1."""
    red, green, blue = colorsys.hsv_to_rgb(hue / 360, saturation, value)
    return (255 * blue, 255 * green, 255 * red)


def paint_atlas(rng: np.random.Generator, palette: Palette) -> Atlas:
    """Paint all surfaces of a scene (about 0.2 s)."""
    base = np.zeros((_HEIGHT, _WIDTH, 3), np.uint8)
    base[: _GROUND_SIDE + 2 * _PAD] = _padded(_ground(rng, palette), cv2.BORDER_WRAP)
    sky = _sky(rng, palette)
    base[_FACADE_TOP - SKY_HEIGHT : _FACADE_TOP] = cv2.copyMakeBorder(
        sky, 0, 0, _PAD, _PAD, cv2.BORDER_WRAP
    )
    xs, ys, heights = [], [], []
    for number in range(NUM_FACADES):
        row, column = divmod(number, _PER_ROW)
        picture, height = _facade(rng, palette.walls[number], shaded=number >= NUM_FACADES // 2)
        padded = _padded(picture, cv2.BORDER_REPLICATE)
        x, y = column * padded.shape[1], _FACADE_TOP + row * _SLOT_HEIGHT
        base[y : y + padded.shape[0], x : x + padded.shape[1]] = padded
        xs.append(x + _PAD)
        ys.append(y + _PAD + _FACADE_SIZE[0])
        heights.append(height)
    picture, level_x = _levels(base)
    return Atlas(
        picture,
        level_x,
        np.array(xs, np.float32),
        np.array(ys, np.float32),
        np.array(heights, np.float32),
        palette.horizon,
    )


def _levels(base: Picture) -> tuple[Picture, NDArray[np.float32]]:
    levels = [base]
    while len(levels) < NUM_LEVELS:
        height, width = levels[-1].shape[:2]
        levels.append(
            _image(cv2.resize(levels[-1], (width // 2, height // 2), None, 0, 0, cv2.INTER_AREA))
        )
    level_x = np.cumsum([0, *(level.shape[1] for level in levels)])
    picture = np.zeros((base.shape[0], int(level_x[-1]), 3), np.uint8)
    for level, left in zip(levels, level_x[:-1], strict=True):
        picture[: level.shape[0], left : left + level.shape[1]] = level
    return picture, level_x[:-1].astype(np.float32)


def _padded(picture: Picture, border: int) -> Picture:
    return _image(cv2.copyMakeBorder(picture, _PAD, _PAD, _PAD, _PAD, border))


def _image(array: NDArray[np.generic]) -> Picture:
    return np.asarray(array, dtype=np.uint8)


def _clipped(picture: NDArray[np.floating]) -> Picture:
    clipped: Picture = np.clip(picture, 0, 255).astype(np.uint8)
    return clipped


def _grain(rng: np.random.Generator, shape: tuple[int, int], cell: int) -> NDArray[np.float32]:
    """Return smooth noise (H, W) that wraps around, mean 0, about -1 to 1, of `cell` pixels."""
    rows, columns = max(2, shape[0] // cell), max(2, shape[1] // cell)
    small = rng.uniform(-1, 1, (rows, columns)).astype(np.float32)
    wrapped = np.pad(small, 2, mode="wrap")
    scale_y, scale_x = shape[0] / rows, shape[1] / columns
    matrix = np.array([[1 / scale_x, 0, 2], [0, 1 / scale_y, 2]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    noise = cv2.warpAffine(wrapped, matrix, (shape[1], shape[0]), flags=flags)
    return np.asarray(noise, dtype=np.float32)


def _ground(rng: np.random.Generator, palette: Palette) -> Picture:
    """Paint one period of the ground, the crossing in the middle."""
    metres = (np.arange(_GROUND_SIDE) + 0.5) / GROUND_PPM
    a = np.abs(metres - BLOCK / 2)
    ax, ay = a[None, :], a[:, None]
    shape = (_GROUND_SIDE, _GROUND_SIDE)
    road = (ax < ROAD_HALF) | (ay < ROAD_HALF)
    edge = np.minimum(np.abs(ax - ROAD_HALF), np.abs(ay - ROAD_HALF))
    curb = (edge < 0.12) & ((ax > ROAD_HALF - 0.12) & (ay > ROAD_HALF - 0.12))
    joints = (metres % 1.0 < 0.05)[None, :] | (metres % 1.0 < 0.05)[:, None]
    value = np.where(road, 0.42, 0.66).astype(np.float32)
    value[~road & joints] = 0.56
    value[curb] = 0.8
    value += 0.05 * _grain(rng, shape, 64) + 0.04 * _grain(rng, shape, 12)
    value += 0.025 * _grain(rng, shape, 3)
    slabs = rng.uniform(-0.05, 0.05, (round(BLOCK), round(BLOCK))).astype(np.float32)
    value += np.where(road, 0, np.kron(slabs, np.ones((GROUND_PPM, GROUND_PPM), np.float32)))
    paint = np.zeros(shape, bool)
    for along, across in ((ax, ay), (ay, ax)):
        stripes = (along > 5.2) & (along < 7.4) & (across < 4.0) & ((across + 0.25) % 1.0 < 0.5)
        dashes = (along > 9) & (across < 0.07) & (along % 4 < 2)
        paint |= stripes | dashes
    value[paint] = 0.82 + 0.05 * value[paint]
    color = np.array(bgr(palette.ground, 0.2, 1.0), np.float32)
    return _clipped(value[..., None] * color)


def _sky(rng: np.random.Generator, palette: Palette) -> Picture:
    """Paint the sky once round, (SKY_HEIGHT, SKY_WIDTH, 3), the horizon at the bottom."""
    shape = (SKY_HEIGHT, SKY_WIDTH)
    height = np.linspace(1, 0, SKY_HEIGHT, dtype=np.float32)[:, None, None]
    top = np.array(bgr(palette.sky, 0.5, 0.86), np.float32)
    bottom = np.array(palette.horizon, np.float32)
    picture = bottom + (top - bottom) * height**0.7
    clouds = _grain(rng, shape, 96) + 0.6 * _grain(rng, shape, 40) + 0.3 * _grain(rng, shape, 16)
    cover = np.clip(clouds - 0.1, 0, 1)[..., None] * np.minimum(1, height * 5)
    cloud = np.array(bgr(palette.sky, 0.12, 0.97), np.float32)
    return _clipped(picture + (cloud - picture) * 0.8 * cover)


def _facade(rng: np.random.Generator, hue: float, *, shaded: bool) -> tuple[Picture, float]:
    """Paint a house front, bottom-aligned in its slot; return it and its height in metres."""
    rows, columns = _FACADE_SIZE
    storeys = int(rng.integers(2, 4))
    storey, shop, cornice = 3.0, 3.5, 0.45
    height = shop + storeys * storey + cornice
    light = 0.62 if shaded else 0.86
    base = np.array(bgr(hue, rng.uniform(0.38, 0.55), light), np.float32)
    shade = 1 + 0.05 * _grain(rng, (rows, columns), 48) + 0.05 * _grain(rng, (rows, columns), 5)
    courses = (np.arange(rows) % round(0.3 * FACADE_PPM) < 2)[:, None]
    picture = base * np.where(courses, shade * 0.92, shade)[..., None]
    canvas = _clipped(picture)

    def box(left: float, bottom: float, right: float, top: float, color: Color) -> None:
        corner = (round(left * FACADE_PPM), round(rows - top * FACADE_PPM))
        other = (round(right * FACADE_PPM) - 1, round(rows - bottom * FACADE_PPM) - 1)
        cv2.rectangle(canvas, corner, other, color, -1)

    trim, glass = bgr(hue, 0.2, min(1, light * 1.12)), bgr(208, 0.35, light * 0.5)
    glint = bgr(205, 0.3, light * 0.72)
    windows = int(rng.integers(3, 5))
    pitch = FACADE_METRES / windows
    wide = pitch * rng.uniform(0.42, 0.56)
    for floor in range(storeys):
        bottom = shop + floor * storey + 0.8
        for window in range(windows):
            left = (window + 0.5) * pitch - wide / 2
            box(left - 0.12, bottom - 0.15, left + wide + 0.12, bottom + 1.75, trim)
            box(left, bottom, left + wide, bottom + 1.62, glass)
            box(left, bottom + 0.9, left + wide, bottom + 1.62, glint)
            box(left + wide / 2 - 0.04, bottom, left + wide / 2 + 0.04, bottom + 1.62, trim)
        box(0, shop + floor * storey, FACADE_METRES, shop + floor * storey + 0.12, trim)
    _shop_front(rng, box, hue=hue, light=light)
    box(0, height - cornice, FACADE_METRES, height, trim)
    box(0, height - cornice - 0.12, FACADE_METRES, height - cornice, bgr(hue, 0.5, light * 0.6))
    return canvas, height


def _shop_front(rng: np.random.Generator, box: _Box, *, hue: float, light: float) -> None:
    """Paint the ground floor: plinth, door, shop window, awning."""
    glass, dark = bgr(208, 0.35, light * 0.5), bgr(hue, 0.5, light * 0.45)
    box(0, 0, FACADE_METRES, 0.5, bgr(hue, 0.45, light * 0.68))
    door = float(rng.choice((0.6, 3.6, 7.0)))
    box(door - 0.12, 0, door + 1.22, 2.5, bgr(hue, 0.2, light))
    box(door, 0, door + 1.1, 2.4, dark)
    awning = bgr(float(rng.choice((28, 50, 130, 200, 265))), 0.6, light * 0.85)
    spans = [(0.4, door - 0.5), (door + 1.6, FACADE_METRES - 0.4)]
    for left, right in spans:
        if right - left > 1.2:
            box(left - 0.1, 0.6, right + 0.1, 2.6, bgr(hue, 0.2, light))
            box(left, 0.7, right, 2.5, glass)
            box(left, 1.7, right, 2.5, bgr(205, 0.3, light * 0.7))
            box(left - 0.2, 2.5, right + 0.2, 3.1, awning)
            box(left - 0.2, 2.5, right + 0.2, 2.62, bgr(hue, 0.15, light))
