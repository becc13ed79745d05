"""What a layer is made from: the Protocol that every kind of layer satisfies."""

from collections.abc import Iterator
from typing import Any, Protocol

from numpy.typing import NDArray

from wtours.exporting.units import Unit


class LayerSource(Protocol):
    """Gives the values of a layer, shard by shard of the frames.

    A unit is the frames of one shard; a source is made for one open index and holds it. What a
    source cannot give it refuses when it is made, before anything is written.
    """

    @property
    def about(self) -> str:
        """Return what a value is, with its shape and units, in a sentence."""
        ...

    @property
    def params(self) -> dict[str, Any]:
        """Return everything that decides the values, apart from `inputs`; JSON."""
        ...

    @property
    def versions(self) -> dict[str, str]:
        """Return the versions of the packages that compute the values."""
        ...

    def inputs(self, unit: Unit) -> dict[str, str]:
        """Return the sha256 of what the values of a unit are made from, by name."""
        ...

    def values(self, unit: Unit) -> Iterator[NDArray[Any] | None]:
        """Yield the value of each frame of a unit, in order; None: it has none.

        Raises:
            ShardError: a value cannot be computed or read.
        """
        ...
