"""From meters to pixels: a level pinhole camera."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wtours.synthetic.camera_path import Points, Pose

NEAR = 0.35
"""Nothing nearer than this, in meters, is drawn."""


@dataclass(frozen=True)
class Camera:
    """A pose and an image size; about 67 degrees along the longer side."""

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
