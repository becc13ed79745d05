"""What rendering a frame gives: the image, and whose each pixel is."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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
    """

    key: int
    label: str
    number: int
    region: Region


@dataclass(frozen=True)
class RenderedFrame:
    """A frame and whose each pixel is.

    Attributes:
        image: (H, W, 3) uint8 BGR.
        owner: (H, W) uint16; an object's number, or 0.
        objects: Far to near.
    """

    image: NDArray[np.uint8]
    owner: NDArray[np.uint16]
    objects: tuple[SeenObject, ...]
