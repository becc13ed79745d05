"""Drawing objects over the backdrop, far to near, and noting which pixel is whose."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wtours.synthetic.camera_path import Camera
from wtours.synthetic.drawing.car import Polygon
from wtours.synthetic.drawing.palette import Color, Image
from wtours.synthetic.drawing.sprites import Sprite
from wtours.synthetic.types import Region

_SHIFT = 4
"""Polygon corners are given to 1/16 pixel, so that slow things do not jump."""


_MIN_SHADOW = 6.0
"""Shadows are drawn from this radius in pixels on, faintly at first."""


@dataclass(frozen=True)
class PlacedSprite:
    """An upright image that faces the camera, and where its pixels are in a frame.

    Attributes:
        image: Of the size that is drawn from.
        left: Column of its left edge; pixel centers are at 0.5 here.
        top: Row of its top edge.
        right: Column of its right edge.
        bottom: Row of its bottom edge.
        shrink: Pixels of the frame per pixel of `image`.
    """

    image: Image
    left: float
    top: float
    right: float
    bottom: float
    shrink: float


def place_sprite(camera: Camera, sprite: Sprite, *, depth: float, right: float) -> PlacedSprite:
    """Return where a sprite is drawn whose middle is at a depth and right of the view."""
    scale = camera.focal / depth
    left = camera.center + (right - sprite.width / 2) * scale
    bottom = camera.horizon + camera.pose.eye_height * scale
    rows = sprite.height * scale
    image = sprite.level(rows)
    edges = (left, bottom - rows, left + sprite.width * scale, bottom)
    return PlacedSprite(image, *edges, rows / image.shape[0])


class Painter:
    """An image in the making.

    Args:
        image: (H, W, 3) uint8 BGR backdrop, drawn over in place.
        camera: Where from.
        wall_depth: (W,) meters; what lies deeper is hidden by the houses.
        horizon_color: What distance fades to.

    Attributes:
        owner: (H, W) uint16; the number of the object seen at each pixel, 0 for none.
    """

    def __init__(
        self,
        image: Image,
        camera: Camera,
        wall_depth: NDArray[np.float32],
        horizon_color: Color,
    ) -> None:
        self.image, self._camera, self._wall_depth = image, camera, wall_depth
        self._haze = horizon_color
        self.owner = np.zeros(image.shape[:2], np.uint16)

    def _visible(
        self, corner: Iterable[float], other: Iterable[float], depth: float
    ) -> tuple[Region, NDArray[np.bool_]] | None:
        """Return the part of a rectangle inside the image, with a pixel around it.

        And which of its columns show a wall nearer than a depth; None if all do, or there are none.
        """
        (left, top), (right, bottom) = corner, other
        region = Region(
            max(0, math.floor(left) - 1),
            max(0, math.floor(top) - 1),
            min(self._camera.width, math.ceil(right) + 2),
            min(self._camera.height, math.ceil(bottom) + 2),
        )
        if region.left >= region.right or region.top >= region.bottom:
            return None
        hidden = self._wall_depth[region.left : region.right] < depth
        return None if hidden.all() else (region, hidden)

    def draw_shadow(self, right: float, depth: float, radius: float) -> None:
        """Darken the ground in a flat ellipse under an object that stands at a place."""
        scale = self._camera.focal / depth
        x = self._camera.center + right * scale
        y = self._camera.horizon + self._camera.pose.eye_height * scale
        a, b = radius * scale, radius * scale * self._camera.pose.eye_height / depth
        found = self._visible((x - a, y - b), (x + a, y + b), depth)
        if found is None or a < _MIN_SHADOW:
            return
        region, hidden = found
        rows = (np.arange(region.top, region.bottom, dtype=np.float32) - y) / max(b, 0.5)
        columns = (np.arange(region.left, region.right, dtype=np.float32) - x) / a
        strength = 128 * min(1.0, a / _MIN_SHADOW - 1)
        dark = (strength * np.maximum(1 - (rows**2)[:, None] - columns**2, 0)).astype(np.uint8)
        self._darken(region, dark, hidden)

    def draw_sprite(
        self, sprite: Sprite, number: int, *, depth: float, right: float, clear: float
    ) -> Region | None:
        """Draw an upright image facing the camera; return where, or None if out of sight.

        Args:
            sprite: The image and its size in meters.
            number: Its number in `owner`.
            depth: Meters along the view.
            right: Meters right of the view, of the sprite's middle.
            clear: Share of its own color left by haze, 0 to 1.
        """
        placed = place_sprite(self._camera, sprite, depth=depth, right=right)
        found = self._visible((placed.left, placed.top), (placed.right, placed.bottom), depth)
        if found is None:
            return None
        region, hidden = found
        # Pixel centers at integers on both sides.
        middle = (placed.shrink - 1) / 2
        matrix = np.array(
            [
                [placed.shrink, 0, placed.left - region.left + middle],
                [0, placed.shrink, placed.top - region.top + middle],
            ]
        )
        size = (region.right - region.left, region.bottom - region.top)
        warped = np.asarray(
            cv2.warpAffine(placed.image, matrix, size, flags=cv2.INTER_LINEAR), np.uint8
        )
        warped[:, hidden] = 0
        self._blend(region, warped, clear)
        self.owner[region.slices][warped[..., 3] > 127] = number
        return region

    def draw_polygons(
        self, polygons: Sequence[Polygon], number: int, *, depth: float, clear: float
    ) -> Region | None:
        """Draw faces in their order as one object; return where, or None if out of sight."""
        if not polygons:
            return None
        corners = np.concatenate([polygon.points for polygon in polygons])
        found = self._visible(corners.min(axis=0), corners.max(axis=0), depth)
        if found is None:
            return None
        region, hidden = found
        image, owner = self.image[region.slices], self.owner[region.slices]
        image_before, owner_before = image.copy(), owner.copy()
        for polygon in polygons:
            points = _fixed_point(polygon)
            color = [
                own * clear + haze * (1 - clear)
                for own, haze in zip(polygon.color, self._haze, strict=True)
            ]
            cv2.fillConvexPoly(self.image, points, color, cv2.LINE_AA, _SHIFT)
            cv2.fillConvexPoly(self.owner, points, number, cv2.LINE_8, _SHIFT)
        image[:, hidden], owner[:, hidden] = image_before[:, hidden], owner_before[:, hidden]
        return region

    def draw_ground_shadow(self, polygon: Polygon, depth: float) -> None:
        """Darken a polygon of the ground."""
        found = self._visible(polygon.points.min(axis=0), polygon.points.max(axis=0), depth)
        if found is None:
            return
        region, hidden = found
        dark = np.zeros((region.bottom - region.top, region.right - region.left), np.uint8)
        points = (polygon.points - (region.left, region.top)) * (1 << _SHIFT)
        cv2.fillConvexPoly(dark, np.round(points).astype(np.int32), 140, cv2.LINE_AA, _SHIFT)
        self._darken(region, dark, hidden)

    def _darken(self, region: Region, dark: Image, hidden: NDArray[np.bool_]) -> None:
        dark[:, hidden] = 0
        keep = cv2.merge([255 - dark] * 3)
        part = self.image[region.slices]
        cv2.multiply(part, keep, part, 1 / 255)

    def _blend(self, region: Region, warped: Image, clear: float) -> None:
        part = self.image[region.slices]
        alpha = warped[..., 3]
        own = np.asarray(cv2.cvtColor(warped, cv2.COLOR_BGRA2BGR), np.uint8)
        if clear < 0.98:
            fog = cv2.merge([cv2.convertScaleAbs(alpha, None, c / 255) for c in self._haze])
            own = np.asarray(cv2.addWeighted(own, clear, fog, 1 - clear, 0), np.uint8)
        cv2.multiply(part, cv2.merge([255 - alpha] * 3), part, 1 / 255)
        cv2.add(part, own, part)


def draw_planes(planes: NDArray[np.uint8], polygons: Sequence[Polygon]) -> None:
    """Write into (H, W) the number of the plane that is seen at each pixel of a solid."""
    for polygon in polygons:
        cv2.fillConvexPoly(planes, _fixed_point(polygon), polygon.plane, cv2.LINE_8, _SHIFT)


def _fixed_point(polygon: Polygon) -> NDArray[np.int32]:
    return np.round(polygon.points * (1 << _SHIFT)).astype(np.int32)
