"""What rendering a frame gives: the image, whose each pixel is, and where all that stands."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wtours.synthetic.camera_path import Camera

if TYPE_CHECKING:  # they need opencv, and the truth is read without
    from wtours.synthetic.drawing.backdrop import Walls
    from wtours.synthetic.drawing.sprites import Sprite


@dataclass(frozen=True)
class Region:
    """A rectangle of pixels, half-open."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """The rows and columns to index an image with."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


@dataclass(frozen=True)
class SeenObject:
    """An object drawn in a frame; perhaps none of it is left in sight.

    Attributes:
        key: The same object's number in every frame of a scene.
        label: Its class.
        number: Its number in the frame's `owner`.
        region: Where it was drawn.
        x: Meters, of its middle.
        y: Meters, of its middle.
        heading: Of a car: where its front points, radians from the x axis.
        sprite: Of all others: the upright image that faces the camera; None for a car.
    """

    key: int
    label: str
    number: int
    region: Region
    x: float
    y: float
    heading: float
    sprite: "Sprite | None"


@dataclass(frozen=True)
class RenderedFrame:
    """A frame, whose each pixel is, and what it was drawn of.

    Attributes:
        image: (H, W, 3) uint8 BGR.
        owner: (H, W) uint16; an object's number, or 0.
        objects: Far to near.
        camera: Where from.
        walls: The house fronts behind them.
    """

    image: NDArray[np.uint8]
    owner: NDArray[np.uint16]
    objects: tuple[SeenObject, ...]
    camera: Camera
    walls: "Walls"
