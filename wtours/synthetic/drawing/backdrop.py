"""The streets without anybody in them: sky, ground and house fronts, a ray per column."""

import functools
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wtours.synthetic.camera_path import BLOCK, STREET, Camera, Points
from wtours.synthetic.drawing import textures
from wtours.synthetic.drawing.facade import FACADE_METERS, FACADE_PPM
from wtours.synthetic.drawing.palette import NUM_FACADES, Color, Image
from wtours.synthetic.drawing.textures import Atlas

_FAR = 150.0
_HAZE_METERS = 75.0
_NUM_PLANES = 4
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Walls:
    """What each column's ray meets first.

    Attributes:
        depth: (W,) float32, meters along the view; `_FAR` where nothing is met.
        facade: (W,) int, the front's number in the atlas.
        along: (W,) float32, meters from the left edge of that front, in [0, FACADE_METERS).
        height: (W,) float32, meters of that front.
        plane: (W,) int, the same number wherever the row of fronts is seen from; never 0 or 1.
    """

    depth: Floats
    facade: NDArray[np.int64]
    along: Floats
    height: Floats
    plane: NDArray[np.int64]

    def shown(self, camera: Camera) -> NDArray[np.bool_]:
        """Return (H, W) the pixels that show a front."""
        scale = self.depth / np.float32(camera.focal)  # meters per pixel
        top = camera.horizon - (self.height - camera.pose.eye_height) / scale
        bottom = camera.horizon + camera.pose.eye_height / scale
        rows = np.arange(camera.height, dtype=np.float32)[:, None]
        inside: NDArray[np.bool_] = (rows >= top) & (rows < bottom) & (self.depth < _FAR - 1)
        return inside


def haze(depth: Points | Floats) -> Floats:
    """Return the share of a thing's own color that is left at a depth in meters, 1 to 0."""
    share = np.clip(depth / _HAZE_METERS, 0, 1)
    return np.asarray((1 - share) ** 1.3, dtype=np.float32)


def cast_walls(camera: Camera, seed: int, heights: Floats) -> Walls:
    """Find the first house front of every column; heights: (NUM_FACADES,) meters of the fronts."""
    offset = (np.arange(camera.width) - camera.center) / camera.focal
    cos, sin = np.cos(camera.pose.yaw), np.sin(camera.pose.yaw)
    direction = np.stack([cos + offset * sin, sin - offset * cos])  # (2, W), depth 1
    start = np.array([camera.pose.x, camera.pose.y])
    depths, alongs, faces = [], [], []
    for axis in (0, 1):
        step = np.where(np.abs(direction[axis]) < 1e-6, 1e-6, direction[axis])
        sign = np.sign(step)
        # Planes ahead that are entered from a street: k * BLOCK + STREET / 2 on the ray's side.
        first = np.ceil((sign * start[axis] - STREET / 2) / BLOCK)
        number = first + np.arange(_NUM_PLANES)[:, None]
        plane = sign * (number * BLOCK + STREET / 2)  # (planes, W)
        depth = (plane - start[axis]) / step
        other = start[1 - axis] + depth * direction[1 - axis]
        into_block = other - STREET / 2 - BLOCK * np.floor((other - STREET / 2) / BLOCK)
        depth[into_block > BLOCK - STREET] = _FAR
        nearest = depth.argmin(axis=0)[None]
        depths.append(np.take_along_axis(depth, nearest, 0)[0])
        alongs.append(np.take_along_axis(other, nearest, 0)[0])
        faces.append(np.take_along_axis(np.round(plane), nearest, 0)[0])
    axis = (depths[1] < depths[0]).astype(np.int64)
    pick = axis[None]
    depth = np.take_along_axis(np.stack(depths), pick, 0)[0]
    other = np.take_along_axis(np.stack(alongs), pick, 0)[0] - STREET / 2
    face = np.take_along_axis(np.stack(faces), pick, 0)[0].astype(np.int64)
    block = np.floor(other / BLOCK)
    into_block = np.minimum(other - block * BLOCK, BLOCK - STREET - 1e-3)
    house_in_block = np.floor(into_block / FACADE_METERS)
    house = (3 * block + house_in_block).astype(np.int64)
    half = NUM_FACADES // 2
    facade = (house * 7 + face * 13 + (house * face) % 5 + seed) % half + half * axis
    along = into_block - house_in_block * FACADE_METERS
    return Walls(
        np.minimum(depth, _FAR).astype(np.float32),
        facade,
        along.astype(np.float32),
        heights[facade],
        2 * face + axis,
    )


def first_ground_row(camera: Camera) -> int:
    """Return the row from which on there is ground and no sky."""
    return int(np.ceil(camera.horizon + 0.5))


def ground_depth(camera: Camera) -> Floats:
    """Return the meters along the view of each row of the ground."""
    below = np.arange(first_ground_row(camera), camera.height) - camera.horizon
    return np.asarray(camera.pose.eye_height * camera.focal / below, dtype=np.float32)


def draw_backdrop(camera: Camera, walls: Walls, atlas: Atlas) -> Image:
    """Return the (H, W, 3) uint8 BGR image of the empty streets."""
    map_x, map_y, clear = texture_maps(camera, walls, atlas)
    image = cv2.remap(atlas.image, map_x, map_y, cv2.INTER_LINEAR)
    fog = _plain(camera.height, camera.width, atlas.horizon)
    return np.asarray(cv2.blendLinear(image, fog, clear, 1 - clear), dtype=np.uint8)


def texture_maps(camera: Camera, walls: Walls, atlas: Atlas) -> tuple[Floats, Floats, Floats]:
    """Return (H, W) each: the column and row of the atlas at a pixel, and what haze leaves."""
    height, width = camera.height, camera.width
    map_x, map_y = np.empty((height, width), np.float32), np.empty((height, width), np.float32)
    clear = np.ones((height, width), np.float32)
    split = first_ground_row(camera)
    _map_sky(camera, map_x[:split], map_y[:split])
    _map_ground(camera, atlas, map_x[split:], map_y[split:], clear[split:])
    _map_walls(camera, walls, atlas, map_x, map_y, clear)
    return map_x, map_y, clear


@functools.lru_cache(maxsize=2)
def _plain(height: int, width: int, color: Color) -> Image:
    return np.full((height, width, 3), color, np.uint8)


def _map_sky(camera: Camera, map_x: Floats, map_y: Floats) -> None:
    columns = (np.arange(camera.width) - camera.center) / camera.focal
    turn = (np.arctan(columns) - camera.pose.yaw) / (2 * np.pi)
    map_x[:] = textures.SKY_X + (turn % 1.0) * textures.SKY_WIDTH
    slope = np.clip((camera.horizon - np.arange(len(map_y))) / camera.focal, 0, textures.SKY_SLOPE)
    rows = textures.SKY_BOTTOM - slope / textures.SKY_SLOPE * (textures.SKY_HEIGHT - 4)
    map_y[:] = rows[:, None]


def _map_ground(camera: Camera, atlas: Atlas, map_x: Floats, map_y: Floats, clear: Floats) -> None:
    depth = ground_depth(camera)
    clear[:] = haze(depth)[:, None]
    texels = textures.GROUND_PPM * depth / camera.focal
    # Between the finer sampling across and the much coarser one along the view.
    texels = texels * np.sqrt(depth / camera.pose.eye_height)
    level = _level(texels)
    scale = (1 / 2.0**level).astype(np.float32)[:, None]
    columns = ((np.arange(camera.width) - camera.center) / camera.focal).astype(np.float32)
    cos, sin = np.float32(np.cos(camera.pose.yaw)), np.float32(np.sin(camera.pose.yaw))
    # Counted from the block the camera is in, so that float32 keeps its digits anywhere.
    start_x = np.float32(camera.pose.x % BLOCK + BLOCK / 2)
    start_y = np.float32(camera.pose.y % BLOCK + BLOCK / 2)
    x = (start_x + depth[:, None] * (cos + columns * sin)) * np.float32(1 / BLOCK)
    y = (start_y + depth[:, None] * (sin - columns * cos)) * np.float32(1 / BLOCK)
    x -= np.floor(x)
    y -= np.floor(y)
    side = np.float32(BLOCK * textures.GROUND_PPM)
    map_x[:] = atlas.level_x[level][:, None] + (textures.GROUND_ORIGIN + side * x) * scale
    map_y[:] = (textures.GROUND_ORIGIN + side * y) * scale


def _map_walls(
    camera: Camera, walls: Walls, atlas: Atlas, map_x: Floats, map_y: Floats, clear: Floats
) -> None:
    inside = walls.shown(camera)
    scale = walls.depth / np.float32(camera.focal)  # meters per pixel
    rows = np.arange(camera.height, dtype=np.float32)[:, None]
    # Along a slanting wall a pixel covers more: the distance to the next column's place.
    stride = np.abs(np.gradient(walls.along))
    slant = np.clip(np.minimum(stride, 20 * scale), scale, None)
    level = _level(np.sqrt(scale * slant) * FACADE_PPM)
    shrink = (1 / 2.0**level).astype(np.float32)
    column = atlas.level_x[level] + shrink * (
        atlas.facade_x[walls.facade] + walls.along * FACADE_PPM
    )
    up_at_zero = camera.pose.eye_height + camera.horizon * scale
    start = shrink * (atlas.facade_y[walls.facade] - up_at_zero * FACADE_PPM)
    slope = shrink * scale * FACADE_PPM
    np.copyto(map_x, column.astype(np.float32), where=inside)
    np.copyto(map_y, start.astype(np.float32) + slope.astype(np.float32) * rows, where=inside)
    np.copyto(clear, haze(walls.depth), where=inside)


def _level(texels_per_pixel: NDArray[np.floating]) -> NDArray[np.int64]:
    level = np.round(np.log2(np.maximum(texels_per_pixel, 1e-3)))
    clipped: NDArray[np.int64] = np.clip(level, 0, textures.NUM_LEVELS - 1).astype(np.int64)
    return clipped
