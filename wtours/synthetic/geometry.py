"""What the pixels of a rendered frame show: how far away it is, and where another frame has it.

A surface is the sky, the ground, a row of house fronts, an upright image, or a plane of a car; a
pixel shows the one that its center is on. Shadows and reflections move on no surface of their own.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wtours.synthetic.camera_path import NEAR, Camera, Points
from wtours.synthetic.drawing.backdrop import first_ground_row, ground_depth
from wtours.synthetic.drawing.car import PAINTS, PLANES, car_polygons
from wtours.synthetic.drawing.painter import PlacedSprite, draw_planes, place_sprite
from wtours.synthetic.types import RenderedFrame, SeenObject

_SKY, _GROUND = 0, 1


@dataclass(frozen=True)
class Surfaces:
    """What each pixel of a frame shows.

    Attributes:
        depth: (H, W) float64, meters along the view; infinite in the sky.
        number: (H, W) int64, of the surface: the same in every frame of a street.
    """

    depth: Points
    number: NDArray[np.int64]


class _Pixels(NamedTuple):
    """Some pixels of a frame: the rows and the columns of their centers, (N,)."""

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]


def surfaces_of(frame: RenderedFrame) -> Surfaces:
    """Return what each pixel of a frame shows."""
    camera, walls = frame.camera, frame.walls
    depth = np.full(frame.owner.shape, np.inf)
    number = np.full(frame.owner.shape, _SKY, np.int64)
    split = first_ground_row(camera)
    depth[split:], number[split:] = ground_depth(camera)[:, None], _GROUND
    is_wall = walls.shown(camera)
    np.copyto(depth, walls.depth, where=is_wall)
    np.copyto(number, walls.plane, where=is_wall)
    for seen in frame.objects:
        pixels = _pixels_of(frame, seen)
        own = np.uint64(seen.key).astype(np.int64)
        if seen.sprite is not None:
            depth[pixels], number[pixels] = _relative(camera, seen)[0], own
        else:
            planes, places = _car_places(frame, seen, pixels)
            depth[pixels] = _seen_of_car(camera, seen, places)[0]
            number[pixels] = own + planes
    return Surfaces(depth, number)


def flow_between(one: RenderedFrame, other: RenderedFrame) -> NDArray[np.float32]:
    """Return where the other frame of the street shows what each pixel of one shows, as a shift.

    (2, H, W), to the right and down, in pixels; NaN where the other frame does not show it: it is
    hidden or out of the image, or is drawn differently there, as a leg that has swung.
    """
    here, there = surfaces_of(one), surfaces_of(other)
    start = np.stack(np.meshgrid(*map(np.arange, one.owner.shape[::-1]))).astype(np.float64)
    target = _of_static(one.camera, other.camera, start, here.depth)
    later = {seen.key: seen for seen in other.objects}
    for seen in one.objects:
        pixels = _pixels_of(one, seen)
        again = later.get(seen.key)
        if again is None:
            target[:, *pixels] = np.nan
        elif seen.sprite is not None:
            target[:, *pixels] = _of_sprite(one, other, seen, again, pixels)
        else:
            _, places = _car_places(one, seen, pixels)
            before, after = (
                _project(frame.camera, *_seen_of_car(frame.camera, car, places))
                for frame, car in ((one, seen), (other, again))
            )
            target[:, *pixels] = start[:, *pixels] + after - before
    height, width = one.owner.shape
    columns, rows = np.rint(np.nan_to_num(target, nan=-1)).clip(-1, max(height, width))
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    at = rows[inside].astype(np.int64), columns[inside].astype(np.int64)
    shown = np.zeros(inside.shape, np.bool_)
    shown[inside] = there.number[at] == here.number[inside]
    return np.where(shown, target - start, np.nan).astype(np.float32)


def intrinsics(camera: Camera) -> Points:
    """Return the (3, 3) matrix from camera coordinates to columns and rows of pixel centers."""
    focal = camera.focal
    return np.array([[focal, 0, camera.center], [0, focal, camera.horizon], [0, 0, 1]])


def camera_to_world(camera: Camera) -> Points:
    """Return the (4, 4) pose: from x right, y down, z along the view to x, y, and z up."""
    cos, sin = np.cos(camera.pose.yaw), np.sin(camera.pose.yaw)
    right, down, forward = (sin, -cos, 0), (0, 0, -1), (cos, sin, 0)
    place = camera.pose.x, camera.pose.y, camera.pose.eye_height
    matrix = np.eye(4)
    matrix[:3] = np.column_stack([right, down, forward, place])
    return matrix


def _pixels_of(frame: RenderedFrame, seen: SeenObject) -> _Pixels:
    rows, columns = np.nonzero(frame.owner[seen.region.slices] == seen.number)
    return _Pixels(rows + seen.region.top, columns + seen.region.left)


def _relative(camera: Camera, seen: SeenObject) -> tuple[float, float]:
    depth, right = camera.relative(np.array(seen.x), np.array(seen.y))
    return float(depth), float(right)


def _project(camera: Camera, depth: Points, right: Points, up: Points) -> Points:
    """Return (2, …) columns and rows; NaN for what lies behind the camera."""
    ahead = np.where(depth >= NEAR, depth, np.nan)
    return np.moveaxis(camera.pixels(ahead, right, up), -1, 0)


def _of_static(one: Camera, other: Camera, start: Points, depth: Points) -> Points:
    """Return (2, H, W) where another frame has the pixels, if nothing moves but the camera."""
    columns, rows = start
    aside = (columns - one.center) / one.focal
    is_sky = np.isinf(depth)
    meters = np.where(is_sky, 1.0, depth)
    cos, sin = np.cos(one.pose.yaw), np.sin(one.pose.yaw)
    x = one.pose.x + meters * (cos + aside * sin)
    y = one.pose.y + meters * (sin - aside * cos)
    up = one.pose.eye_height + meters * (one.horizon - rows) / one.focal
    target = _project(other, *other.relative(x, y), up)
    # The sky hangs on a cylinder: the camera turns in it, and the rows stay.
    angle = np.arctan(aside) + other.pose.yaw - one.pose.yaw
    is_ahead = np.abs(angle) < np.pi / 2
    turned = other.center + other.focal * np.tan(np.where(is_ahead, angle, 0.0))
    sky = np.stack([np.where(is_ahead, turned, np.nan), rows])
    return np.where(is_sky, sky, target)


def _car_places(
    frame: RenderedFrame, seen: SeenObject, pixels: _Pixels
) -> tuple[NDArray[np.int64], Points]:
    """Return the plane of the car at each pixel, (N,), and the place on it, (3, N).

    Places are meters along, across and up of the car.
    """
    camera = frame.camera
    _, faces = car_polygons(camera, seen.x, seen.y, seen.heading, PAINTS[0])
    drawn = np.zeros(frame.owner.shape, np.uint8)
    draw_planes(drawn, faces)
    planes = drawn[pixels].astype(np.int64)
    cos, sin = np.cos(seen.heading - camera.pose.yaw), np.sin(seen.heading - camera.pose.yaw)
    aside = (pixels.columns - camera.center) / camera.focal
    fall = (camera.horizon - pixels.rows) / camera.focal
    rays = np.stack([cos - aside * sin, -sin - aside * cos, fall])
    depth, right = _relative(camera, seen)
    eye = np.array([-(depth * cos - right * sin), depth * sin + right * cos, 0.0])[:, None]
    eye[2] = camera.pose.eye_height
    point, normal, low, high = (of_plane[planes].T for of_plane in PLANES)
    with np.errstate(divide="ignore", invalid="ignore"):
        meters = ((point - eye) * normal).sum(axis=0) / (rays * normal).sum(axis=0)
        places = eye + np.nan_to_num(meters) * rays
    # A face is drawn up to a pixel beyond its edge: such pixels show the edge.
    return planes, places.clip(low, high)


def _seen_of_car(camera: Camera, seen: SeenObject, places: Points) -> tuple[Points, Points, Points]:
    """Return depth, distance right of the view, and height of places on a car."""
    cos, sin = np.cos(seen.heading), np.sin(seen.heading)
    along, across, up = places
    x, y = seen.x + along * cos - across * sin, seen.y + along * sin + across * cos
    return *camera.relative(x, y), up


def _of_sprite(
    one: RenderedFrame,
    other: RenderedFrame,
    seen: SeenObject,
    again: SeenObject,
    pixels: _Pixels,
) -> Points:
    """Return (2, N) where another frame has the pixels of an upright image.

    NaN where another image of the same walker has another color at the place.
    """
    before, after = (_placed(frame.camera, found) for frame, found in ((one, seen), (other, again)))
    # Places on the image as shares of its size: it may be drawn from another size there.
    across = (pixels.columns - before.left + 0.5) / before.shrink / before.image.shape[1]
    down = (pixels.rows - before.top + 0.5) / before.shrink / before.image.shape[0]
    target = np.stack(
        [
            after.left - 0.5 + across * after.shrink * after.image.shape[1],
            after.top - 0.5 + down * after.shrink * after.image.shape[0],
        ]
    )
    assert seen.sprite is not None
    assert again.sprite is not None
    if seen.sprite is not again.sprite:
        height, width = before.image.shape[:2]
        at = (
            (down * height).astype(np.int64).clip(0, height - 1),
            (across * width).astype(np.int64).clip(0, width - 1),
        )
        moved = (before.image[at] != again.sprite.level(height)[at]).any(axis=1)
        target[:, moved] = np.nan
    return target


def _placed(camera: Camera, seen: SeenObject) -> PlacedSprite:
    assert seen.sprite is not None
    depth, right = _relative(camera, seen)
    return place_sprite(camera, seen.sprite, depth=depth, right=right)
