"""A car as a solid: the side view pulled across its width, drawn as a few polygons."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from wtours.synthetic.camera import NEAR, Camera
from wtours.synthetic.route import Points
from wtours.synthetic.textures import Color, bgr

HALF_LENGTH, HALF_WIDTH = 2.1, 0.88
# The outline of the side view, (along, up) in metres, from the rear over the roof to the front.
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
# Lamps, across and up, on the front and the rear face.
_LAMP = np.array([(0.52, 0.62), (0.82, 0.62), (0.82, 0.76), (0.52, 0.76)])


@dataclass(frozen=True)
class Polygon:
    """(N, 2) pixel places and a colour."""

    points: NDArray[np.float64]
    color: Color


@dataclass(frozen=True)
class Paint:
    """The colours of one car."""

    body: Color
    top: Color
    side: Color

    @staticmethod
    def of(hue: float, saturation: float, value: float) -> "Paint":
        """Shade one colour three ways."""
        return Paint(
            bgr(hue, saturation, value),
            bgr(hue, saturation * 0.8, min(1.0, value * 1.15)),
            bgr(hue, saturation, value * 0.82),
        )


PAINTS = tuple(
    Paint.of(*color)
    for color in (
        (215, 0.7, 0.6), (20, 0.75, 0.7), (45, 0.6, 0.8), (205, 0.12, 0.8), (150, 0.55, 0.45),
        (225, 0.3, 0.3), (35, 0.25, 0.75),
    )
)  # fmt: skip
_GLASS = bgr(208, 0.4, 0.34)
_DARK = bgr(215, 0.25, 0.2)


class _Placed:
    """A car's place: turns (along, across, up) in metres into polygons of pixels."""

    def __init__(self, camera: Camera, x: float, y: float, heading: float) -> None:
        self.camera, self.x, self.y = camera, x, y
        self.cos, self.sin = np.cos(heading), np.sin(heading)
        dx, dy = camera.pose.x - x, camera.pose.y - y
        self.eye_along, self.eye_across = (
            dx * self.cos + dy * self.sin,
            dy * self.cos - dx * self.sin,
        )

    def polygon(self, along: Points, across: Points, up: Points, color: Color) -> Polygon | None:
        """Project, cutting off what is nearer than NEAR; None if nothing is left."""
        x = self.x + along * self.cos - across * self.sin
        y = self.y + along * self.sin + across * self.cos
        depth, right = self.camera.relative(x, y)
        corners = np.stack([depth, right, np.broadcast_to(up, depth.shape)], axis=1)
        if depth.min() < NEAR:
            corners = _clip_near(corners)
            if len(corners) < 3:
                return None
        return Polygon(self.camera.pixels(*corners.T), color)


def shadow_polygon(camera: Camera, x: float, y: float, heading: float) -> Polygon | None:
    """Return the dark place under a car."""
    along = np.array([-1, 1, 1, -1]) * (HALF_LENGTH + 0.1)
    across = np.array([-1, -1, 1, 1]) * (HALF_WIDTH + 0.15)
    return _Placed(camera, x, y, heading).polygon(along, across, np.zeros(4), _DARK)


def car_polygons(camera: Camera, x: float, y: float, heading: float, paint: Paint) -> list[Polygon]:
    """Return the visible faces of a car, in the order to draw them.

    Args:
        camera: Where from.
        x: Middle of the car, metres.
        y: Middle of the car, metres.
        heading: Where its front points, radians from the x axis.
        paint: Its colours.
    """
    car = _Placed(camera, x, y, heading)
    colors = {"dark": _DARK, "glass": _GLASS, "body": paint.body, "top": paint.top}
    faces: list[tuple[float, Polygon | None]] = []
    for (a, b), name in zip(pairwise(_OUTLINE), _STRIPS, strict=True):
        outward = np.array([a[1] - b[1], b[0] - a[0]])
        eye = np.array([car.eye_along, camera.pose.eye_height])
        if (eye - a) @ outward <= 0:
            continue
        along, up = np.array([a[0], b[0], b[0], a[0]]), np.array([a[1], b[1], b[1], a[1]])
        across = np.array([-1, -1, 1, 1]) * HALF_WIDTH
        faces.append(
            (abs(car.eye_along - (a[0] + b[0]) / 2), car.polygon(along, across, up, colors[name]))
        )
    faces.sort(key=lambda face: -face[0])
    polygons = [polygon for _, polygon in faces]
    polygons += _lamps(car)
    if abs(car.eye_across) > HALF_WIDTH:
        polygons += _side(car, paint)
    return [polygon for polygon in polygons if polygon is not None]


def _lamps(car: _Placed) -> list[Polygon | None]:
    if abs(car.eye_along) <= HALF_LENGTH:
        return []
    front = car.eye_along > 0
    color = bgr(50, 0.25, 1.0) if front else bgr(14, 0.85, 0.75)
    along = np.full(4, HALF_LENGTH if front else -HALF_LENGTH)
    return [car.polygon(along, side * _LAMP[:, 0], _LAMP[:, 1] - 0.1, color) for side in (-1, 1)]


def _side(car: _Placed, paint: Paint) -> list[Polygon | None]:
    across = np.sign(car.eye_across) * HALF_WIDTH

    def face(outline: Points, color: Color) -> Polygon | None:
        return car.polygon(outline[:, 0], np.full(len(outline), across), outline[:, 1], color)

    polygons = [face(_OUTLINE, paint.side)]
    polygons += [face(window, _GLASS) for window in _WINDOWS]
    for wheel in _WHEELS:
        polygons.append(face(_WHEEL + np.array([wheel, 0]), _DARK))
        polygons.append(face(_HUB + np.array([wheel, 0]), bgr(205, 0.1, 0.6)))
    return polygons


def _clip_near(corners: Points) -> Points:
    """Cut a (N, 3) polygon of depth, right, up at depth NEAR (Sutherland-Hodgman)."""
    kept = []
    for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if a[0] >= NEAR:
            kept.append(a)
        if (a[0] >= NEAR) != (b[0] >= NEAR):
            kept.append(a + (b - a) * (NEAR - a[0]) / (b[0] - a[0]))
    return np.array(kept).reshape(-1, 3)
