"""The camera, and where it goes: along the streets of an endless square grid, round its corners.

World coordinates are meters. Streets lie along x at y = k * BLOCK and along y at x = k * BLOCK, for
every integer k. Everything is a pure function of the seed and the time.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BLOCK = 42.0
"""Distance between two parallel streets, in meters."""
STREET = 15.0
"""Width of a street from wall to wall, in meters."""
WALK_LATERAL = -1.1
"""The walker's distance from the middle of the street, in meters."""
WALK_SPEED = 1.4
"""Meters per second."""
NEAR = 0.35
"""Nothing nearer than this, in meters, is drawn."""
EYE_HEIGHT = 1.65
_CORNER_RADIUS = 5.0
_STEP = 0.25
_TURN_SHARE = 0.6
_LOOK_BACK, _LOOK_AHEAD = 2.5, 5.0

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Pose:
    """The camera: place in meters, direction in radians from the x axis, eye height in meters."""

    x: float
    y: float
    yaw: float
    eye_height: float


@dataclass(frozen=True)
class Camera:
    """A level pinhole camera: a pose and an image size; about 67 degrees along the longer side."""

    pose: Pose
    width: int
    height: int

    @property
    def focal(self) -> float:
        """Focal length in pixels."""
        return 0.75 * max(self.width, self.height)

    @property
    def center(self) -> float:
        """Column of the optical axis."""
        return (self.width - 1) / 2

    @property
    def horizon(self) -> float:
        """Row of the horizon."""
        return 0.49 * self.height

    def relative(self, x: Points, y: Points) -> tuple[Points, Points]:
        """Return depth along the view and distance to the right of it, in meters."""
        forward_x, forward_y = np.cos(self.pose.yaw), np.sin(self.pose.yaw)
        dx, dy = x - self.pose.x, y - self.pose.y
        return dx * forward_x + dy * forward_y, dx * forward_y - dy * forward_x

    def pixels(self, depth: Points, right: Points, up: Points) -> NDArray[np.float64]:
        """Return (N, 2) pixel places x, y of points with depth >= NEAR; up is above the ground."""
        scale = self.focal / depth
        x = self.center + right * scale
        return np.stack([x, self.horizon - (up - self.pose.eye_height) * scale], axis=-1)


class Route:
    """The walk of one street scene.

    Args:
        rng: Draws the start, the turns and the phases of looking around.
        seconds: How long the walk must be.
    """

    def __init__(self, rng: np.random.Generator, seconds: float) -> None:
        self._points, headings = _draw_path(rng, seconds * WALK_SPEED + 2 * _LOOK_AHEAD)
        self._headings = _smooth(headings)
        self._phases = rng.uniform(0, 2 * math.pi, 4)

    def positions(self, seconds: Points) -> Points:
        """Return (N, 2) places in meters at (N,) times."""
        arc = seconds * WALK_SPEED / _STEP
        steps = np.arange(len(self._points))
        return np.stack([np.interp(arc, steps, self._points[:, axis]) for axis in (0, 1)], axis=1)

    def pose(self, seconds: float) -> Pose:
        """Return the camera at a time; it looks around slowly and bobs with the steps."""
        arc = seconds * WALK_SPEED / _STEP
        x, y = self.positions(np.array([seconds]))[0]
        heading = float(np.interp(arc, np.arange(len(self._headings)), self._headings))
        a, b, c, d = self._phases
        look = 0.13 * math.sin(2 * math.pi * seconds / 13 + a)
        look += 0.04 * math.sin(2 * math.pi * seconds / 5.3 + b)
        bob = 0.025 * math.sin(2 * math.pi * seconds * 1.8 + c)
        bob += 0.02 * math.sin(2 * math.pi * seconds / 3.1 + d)
        return Pose(float(x), float(y), heading + look, EYE_HEIGHT + bob)


def _draw_path(rng: np.random.Generator, meters: float) -> tuple[Points, Points]:
    """Return points every `_STEP` meters, (N, 2), and the unwrapped heading at each, (N,)."""
    heading = float(rng.integers(4)) * math.pi / 2
    place = np.full(2, WALK_LATERAL) + BLOCK * rng.integers(-50, 50, 2)
    place += _direction(heading) * rng.uniform(0.2, 0.7) * BLOCK
    points, headings, covered = [], [], 0.0
    while covered < meters:
        forward = _direction(heading)
        position = float(place @ np.abs(forward))
        sense = round(float(forward.sum()))
        # The next crossing ahead whose corner can still be rounded.
        ahead = sense * (position - WALK_LATERAL) / BLOCK
        crossing = sense * math.ceil(ahead + (_CORNER_RADIUS + 0.1) / BLOCK) * BLOCK + WALK_LATERAL
        turns = rng.random() < _TURN_SHARE
        side = rng.choice((-1, 1))
        length = abs(crossing - position) + (-1 if turns else 1) * _CORNER_RADIUS
        along = np.arange(0, length, _STEP)
        points.append(place + along[:, None] * forward)
        headings.append(np.full(len(along), heading))
        place = place + length * forward
        covered += length
        if turns:
            arc = np.arange(0, _CORNER_RADIUS * math.pi / 2, _STEP) / _CORNER_RADIUS
            left = side * _direction(heading + math.pi / 2)
            points.append(
                place
                + _CORNER_RADIUS
                * (np.sin(arc)[:, None] * forward + (1 - np.cos(arc))[:, None] * left)
            )
            headings.append(heading + side * arc)
            place = place + _CORNER_RADIUS * (forward + left)
            heading += side * math.pi / 2
            covered += _CORNER_RADIUS * math.pi / 2
    return np.concatenate(points), np.concatenate(headings)


def _direction(heading: float) -> Points:
    return np.round(np.array([math.cos(heading), math.sin(heading)]))


def _smooth(headings: Points) -> Points:
    """Average over what lies just behind and ahead: a walker looks into the turn."""
    back, ahead = round(_LOOK_BACK / _STEP), round(_LOOK_AHEAD / _STEP)
    padded = np.concatenate(
        [np.repeat(headings[0], back), headings, np.repeat(headings[-1], ahead)]
    )
    window = np.hanning(back + ahead + 3)[1:-1]
    return np.convolve(padded, window / window.sum(), mode="valid")
