"""What a layer is made from: the base of every kind of layer."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from wtours.errors import ShardError
from wtours.exporting.units import Unit
from wtours.shards.images.codecs import decode_image
from wtours.shards.index import ShardIndex


class LayerSource(ABC):
    """Gives the values of a layer, shard by shard of the frames.

    A unit is the frames of one shard; a source is made for one open index and holds it. What a
    source cannot give it refuses when it is made, before anything is written.
    """

    about: str
    """What a value is, with its shape and units, in a sentence."""
    params: dict[str, Any]
    """Everything that decides the values, apart from `inputs`; JSON."""
    packages: ClassVar[tuple[str, ...]] = ()
    """Those that compute the values: receipts record their versions."""

    @abstractmethod
    def inputs(self, unit: Unit) -> dict[str, str]:
        """Return the sha256 of what the values of a unit are made from, by name."""

    @abstractmethod
    def values(self, unit: Unit) -> Iterator[NDArray[Any] | None]:
        """Yield the value of each frame of a unit, in order; None: it has none.

        Raises:
            ShardError: a value cannot be computed or read.
        """


def require_values(index: ShardIndex, known: NDArray[np.bool_], *, allow_missing: bool) -> None:
    """Refuse a layer that lacks values.

    Raises:
        ShardError: no frame has one; or one has none, and that is not allowed.
    """
    if not known.any():
        raise ShardError(f"there is no value for any frame of {index.directory}")
    if not known.all() and not allow_missing:
        frame = index.frame(int(np.argmin(known)))
        raise ShardError(
            f"{int((~known).sum())} of {len(known)} frames have no value, the first "
            f"{frame.video_id} at {frame.pts_us / 1e6:g} s (frame {frame.frame_index}): give them, "
            f"or --allow-missing"
        )


def frame_pixels(index: ShardIndex, row: int) -> NDArray[np.uint8]:
    """Return a frame, (H, W, 3) uint8 RGB.

    Raises:
        ShardError: it does not decode.
    """
    (image,) = index.read_jpegs([row])
    try:
        return decode_image(image)
    except ValueError as error:
        raise ShardError(
            f"the frame {index.frame(row)} does not decode ({error}); run `wtours verify`"
        ) from error
