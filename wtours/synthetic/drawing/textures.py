"""The painted surfaces of a street scene, at several resolutions, in one atlas image.

One atlas means one `cv2.remap` for the whole background. Level L of the atlas is the level 0
image reduced 2**L times, to its right; far surfaces read a coarse level, so they do not flicker.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wtours.synthetic.camera_path import BLOCK
from wtours.synthetic.drawing.facade import FACADE_SIZE, paint_facade
from wtours.synthetic.drawing.palette import (
    NUM_FACADES,
    Color,
    Image,
    Palette,
    bgr,
    clipped,
    grain,
)

NUM_LEVELS = 5
GROUND_PPM = 32
_PAD = 16
_GROUND_SIDE = round(BLOCK * GROUND_PPM)
SKY_HEIGHT = 288
SKY_SLOPE = 0.75
"""The sky image reaches from the horizon to this tangent of elevation."""
SKY_WIDTH = _GROUND_SIDE
_PER_ROW = 3
_WIDTH = _GROUND_SIDE + 2 * _PAD
_SLOT_HEIGHT = FACADE_SIZE[0] + 2 * _PAD
_FACADE_TOP = _GROUND_SIDE + 2 * _PAD + SKY_HEIGHT
_HEIGHT = -(-(_FACADE_TOP + -(-NUM_FACADES // _PER_ROW) * _SLOT_HEIGHT) // 16) * 16
ROAD_HALF = 4.3


@dataclass(frozen=True)
class Atlas:
    """The surfaces of one scene.

    Attributes:
        image: (H, W, 3) uint8 BGR.
        level_x: (NUM_LEVELS,) left edge of each level in pixels.
        facade_x: (NUM_FACADES,) left edge of each facade at level 0.
        facade_y: (NUM_FACADES,) line of the pavement of each facade at level 0.
        facade_height: (NUM_FACADES,) meters.
        horizon: The color that distance fades to.
    """

    image: Image
    level_x: NDArray[np.float32]
    facade_x: NDArray[np.float32]
    facade_y: NDArray[np.float32]
    facade_height: NDArray[np.float32]
    horizon: Color


GROUND_ORIGIN = _PAD
SKY_X, SKY_BOTTOM = _PAD, _GROUND_SIDE + 2 * _PAD + SKY_HEIGHT - 2


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
        image, height = paint_facade(
            rng, palette, palette.walls[number], shaded=number >= NUM_FACADES // 2
        )
        padded = _padded(image, cv2.BORDER_REPLICATE)
        x, y = column * padded.shape[1], _FACADE_TOP + row * _SLOT_HEIGHT
        base[y : y + padded.shape[0], x : x + padded.shape[1]] = padded
        xs.append(x + _PAD)
        ys.append(y + _PAD + FACADE_SIZE[0])
        heights.append(height)
    levels = [base]
    while len(levels) < NUM_LEVELS:
        half = (levels[-1].shape[1] // 2, levels[-1].shape[0] // 2)
        levels.append(_image(cv2.resize(levels[-1], half, None, 0, 0, cv2.INTER_AREA)))
    level_x = np.cumsum([0, *(level.shape[1] for level in levels)])
    image = np.zeros((base.shape[0], int(level_x[-1]), 3), np.uint8)
    for level, left in zip(levels, level_x[:-1], strict=True):
        image[: level.shape[0], left : left + level.shape[1]] = level
    return Atlas(
        image,
        level_x[:-1].astype(np.float32),
        np.array(xs, np.float32),
        np.array(ys, np.float32),
        np.array(heights, np.float32),
        palette.horizon,
    )


def _padded(image: Image, border: int) -> Image:
    return _image(cv2.copyMakeBorder(image, _PAD, _PAD, _PAD, _PAD, border))


def _image(array: NDArray[np.generic]) -> Image:
    return np.asarray(array, dtype=np.uint8)


def _ground(rng: np.random.Generator, palette: Palette) -> Image:
    """Paint one period of the ground, the crossing in the middle."""
    meters = (np.arange(_GROUND_SIDE) + 0.5) / GROUND_PPM
    a = np.abs(meters - BLOCK / 2)
    ax, ay = a[None, :], a[:, None]
    shape = (_GROUND_SIDE, _GROUND_SIDE)
    road = (ax < ROAD_HALF) | (ay < ROAD_HALF)
    edge = np.minimum(np.abs(ax - ROAD_HALF), np.abs(ay - ROAD_HALF))
    curb = (edge < 0.12) & ((ax > ROAD_HALF - 0.12) & (ay > ROAD_HALF - 0.12))
    joints = (meters % 1.0 < 0.05)[None, :] | (meters % 1.0 < 0.05)[:, None]
    value = np.where(road, 0.42, 0.66).astype(np.float32)
    value[~road & joints] = 0.56
    value[curb] = 0.8
    value += 0.05 * grain(rng, shape, 64) + 0.04 * grain(rng, shape, 12)
    value += 0.025 * grain(rng, shape, 3)
    slabs = rng.uniform(-0.05, 0.05, (round(BLOCK), round(BLOCK))).astype(np.float32)
    value += np.where(road, 0, np.kron(slabs, np.ones((GROUND_PPM, GROUND_PPM), np.float32)))
    paint = np.zeros(shape, bool)
    for along, across in ((ax, ay), (ay, ax)):
        stripes = (along > 5.2) & (along < 7.4) & (across < 4.0) & ((across + 0.25) % 1.0 < 0.5)
        dashes = (along > 9) & (across < 0.07) & (along % 4 < 2)
        paint |= stripes | dashes
    value[paint] = 0.82 + 0.05 * value[paint]
    color = np.array(bgr(palette.ground, palette.ground_saturation, 1.0), np.float32)
    return clipped(value[..., None] * color)


def _sky(rng: np.random.Generator, palette: Palette) -> Image:
    """Paint the sky once round, (SKY_HEIGHT, SKY_WIDTH, 3), the horizon at the bottom."""
    shape = (SKY_HEIGHT, SKY_WIDTH)
    height = np.linspace(1, 0, SKY_HEIGHT, dtype=np.float32)[:, None, None]
    top = np.array(bgr(palette.sky, 0.1 + 1.25 * palette.sky_saturation, 0.86), np.float32)
    bottom = np.array(palette.horizon, np.float32)
    image = bottom + (top - bottom) * height**0.7
    clouds = grain(rng, shape, 96) + 0.6 * grain(rng, shape, 40) + 0.3 * grain(rng, shape, 16)
    cover = np.clip(clouds - 0.1, 0, 1)[..., None] * np.minimum(1, height * 5)
    cloud = np.array(bgr(palette.sky, 0.4 * palette.sky_saturation, 0.97), np.float32)
    return clipped(image + (cloud - image) * 0.8 * cover)
