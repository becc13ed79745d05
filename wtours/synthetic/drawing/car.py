"""A car as a solid: the side view pulled across its width, drawn as a few polygons."""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wtours.synthetic.camera_path import NEAR, Camera, Points
from wtours.synthetic.drawing.palette import Color, bgr

HALF_LENGTH, HALF_WIDTH = 2.1, 0.88
# The outline of the side view, (along, up) in meters, from the rear over the roof to the front.
_OUTLINE = np.array(
    [
        (-2.1, 0.28), (-2.1, 0.72), (-1.98, 0.95), (-1.55, 1.0), (-1.05, 1.4), (0.45, 1.42),
        (1.1, 0.98), (1.9, 0.84), (2.1, 0.62), (2.1, 0.28),
    ]
)  # fmt: skip
_STRIPS = ("dark", "body", "top", "glass", "top", "glass", "top", "body", "dark")
_WINDOWS = (
    np.array([(-1.45, 0.99), (-1.0, 1.34), (-0.4, 1.36), (-0.4, 0.99)]),
    np.array([(-0.3, 0.99), (-0.3, 1.36), (0.4, 1.36), (0.95, 0.99)]),
)
_WHEELS = (-1.3, 1.3)
_TURN = np.linspace(0, 2 * np.pi, 14, endpoint=False)
_WHEEL = np.stack([0.33 * np.cos(_TURN), 0.33 + 0.33 * np.sin(_TURN)], axis=1)
_HUB = _WHEEL * 0.5 + np.array([0, 0.165])
# A lamp, across and up, on the front or the rear face.
_LAMP = np.array([(0.52, 0.52), (0.82, 0.52), (0.82, 0.66), (0.52, 0.66)])


@dataclass(frozen=True)
class Polygon:
    """(N, 2) pixel places, a color, and the number in `PLANES` of the plane that it lies in."""

    points: NDArray[np.float64]
    color: Color
    plane: int


Paint = dict[str, Color]
"""The color of each part of a car."""


def _paint(hue: float, saturation: float, value: float) -> Paint:
    return {
        "body": bgr(hue, saturation, value),
        "top": bgr(hue, saturation * 0.8, min(1.0, value * 1.15)),
        "side": bgr(hue, saturation, value * 0.82),
        "glass": bgr(208, 0.4, 0.34),
        "dark": bgr(215, 0.25, 0.2),
        "hub": bgr(205, 0.1, 0.6),
        "front": bgr(50, 0.25, 1.0),
        "rear": bgr(14, 0.85, 0.75),
    }


PAINTS = tuple(
    _paint(*color)
    for color in (
        (215, 0.7, 0.6), (20, 0.75, 0.7), (45, 0.6, 0.8), (205, 0.12, 0.8), (150, 0.55, 0.45),
        (225, 0.3, 0.3), (35, 0.25, 0.75),
    )
)  # fmt: skip


class _Solid:
    """The corners of the model, in meters along, across and up, and which of them make a face."""

    def __init__(self) -> None:
        self._parts: list[Points] = []
        width = np.array([-1, -1, 1, 1]) * HALF_WIDTH
        self.strips = [
            self._add(np.array([a[0], b[0], b[0], a[0]]), width, np.array([a[1], b[1], b[1], a[1]]))
            for a, b in pairwise(_OUTLINE)
        ]
        self.sides = {sign: self._side(sign * HALF_WIDTH) for sign in (-1, 1)}
        self.ends = {sign: self._lamps(sign * HALF_LENGTH) for sign in (-1, 1)}
        shadow = (HALF_LENGTH + 0.1, HALF_WIDTH + 0.15)
        corner = np.array([-1, 1, 1, -1]), np.array([-1, -1, 1, 1])
        self.shadow = self._add(shadow[0] * corner[0], shadow[1] * corner[1], np.zeros(4))
        self.corners = np.concatenate(self._parts)

    def _add(self, along: Points, across: Points, up: Points) -> slice:
        start = sum(len(part) for part in self._parts)
        self._parts.append(np.stack(np.broadcast_arrays(along, across, up), axis=1))
        return slice(start, start + len(self._parts[-1]))

    def _side(self, across: float) -> list[tuple[slice, str]]:
        shapes = [(_OUTLINE, "side"), *((window, "glass") for window in _WINDOWS)]
        for wheel in _WHEELS:
            place = np.array([wheel, 0])
            shapes += [(_WHEEL + place, "dark"), (_HUB + place, "hub")]
        flat = np.full(1, across)
        return [(self._add(shape[:, 0], flat, shape[:, 1]), part) for shape, part in shapes]

    def _lamps(self, along: float) -> list[tuple[slice, str]]:
        part, flat = "front" if along > 0 else "rear", np.full(1, along)
        return [(self._add(flat, half * _LAMP[:, 0], _LAMP[:, 1]), part) for half in (-1, 1)]


_SOLID = _Solid()
# For each strip: its first corner, its outward normal and its middle, in (along, up).
_STRIP_START = _OUTLINE[:-1]
_STRIP_NORMAL = np.diff(_OUTLINE, axis=0)[:, ::-1] * np.array([-1, 1])
_STRIP_MIDDLE = (_OUTLINE[:-1, 0] + _OUTLINE[1:, 0]) / 2


class Planes(NamedTuple):
    """The planes of the model, each (P, 3) along, across, up: a point, a normal, and the box."""

    point: Points
    normal: Points
    low: Points
    high: Points


def _planes() -> Planes:
    rows: list[tuple[tuple[float, ...], ...]] = []
    for (a, b), (along, up) in zip(pairwise(_OUTLINE), _STRIP_NORMAL, strict=True):
        low, high = np.minimum(a, b), np.maximum(a, b)
        edges = (low[0], -HALF_WIDTH, low[1]), (high[0], HALF_WIDTH, high[1])
        rows.append(((a[0], 0, a[1]), (along, 0, up), *edges))
    (rear, _), (front, top) = _OUTLINE.min(axis=0), _OUTLINE.max(axis=0)
    for sign in (-1, 1):
        side = sign * HALF_WIDTH
        rows.append(((0, side, 0), (0, sign, 0), (rear, side, 0), (front, side, top)))
    return Planes(*np.moveaxis(np.array(rows), 1, 0))


PLANES = _planes()
_SIDE_PLANES = {sign: len(_STRIPS) + number for number, sign in enumerate((-1, 1))}
_END_PLANES = {-1: 0, 1: len(_STRIPS) - 1}
"""The lamps lie in the planes of the last strips."""
GROUND_PLANE = len(PLANES.normal)


def car_polygons(
    camera: Camera, x: float, y: float, heading: float, paint: Paint
) -> tuple[Polygon | None, list[Polygon]]:
    """Return a car's shadow on the ground, and its visible faces in the order to draw them.

    Args:
        camera: Where from.
        x: Middle of the car, meters.
        y: Middle of the car, meters.
        heading: Where its front points, radians from the x axis.
        paint: Its colors.
    """
    cos, sin = np.cos(heading), np.sin(heading)
    along, across, up = _SOLID.corners.T
    depth, right = camera.relative(x + along * cos - across * sin, y + along * sin + across * cos)
    seen = np.stack([depth, right, up], axis=1)
    pixels = camera.pixels(np.maximum(depth, NEAR), right, up)

    def polygon(corners: slice, part: str, plane: int) -> list[Polygon]:
        if depth[corners].min() >= NEAR:
            return [Polygon(pixels[corners], paint[part], plane)]
        clipped = _clip_near(seen[corners])
        return [Polygon(camera.pixels(*clipped.T), paint[part], plane)] if len(clipped) > 2 else []

    dx, dy = camera.pose.x - x, camera.pose.y - y
    eye_along, eye_across = dx * cos + dy * sin, dy * cos - dx * sin
    eye = np.array([eye_along, camera.pose.eye_height])
    facing = ((eye - _STRIP_START) * _STRIP_NORMAL).sum(axis=1) > 0
    faces: list[Polygon] = []
    for strip in np.argsort(-np.abs(eye_along - _STRIP_MIDDLE)):
        if facing[strip]:
            faces += polygon(_SOLID.strips[strip], _STRIPS[strip], int(strip))
    if abs(eye_along) > HALF_LENGTH:
        end = 1 if eye_along > 0 else -1
        for corners, part in _SOLID.ends[end]:
            faces += polygon(corners, part, _END_PLANES[end])
    if abs(eye_across) > HALF_WIDTH:
        side = 1 if eye_across > 0 else -1
        for corners, part in _SOLID.sides[side]:
            faces += polygon(corners, part, _SIDE_PLANES[side])
    shadow = polygon(_SOLID.shadow, "dark", GROUND_PLANE)
    return (shadow[0] if shadow else None), faces


def _clip_near(corners: Points) -> Points:
    """Cut a (N, 3) polygon of depth, right, up at depth NEAR (Sutherland-Hodgman)."""
    kept = []
    for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if a[0] >= NEAR:
            kept.append(a)
        if (a[0] >= NEAR) != (b[0] >= NEAR):
            kept.append(a + (b - a) * (NEAR - a[0]) / (b[0] - a[0]))
    return np.array(kept).reshape(-1, 3)
