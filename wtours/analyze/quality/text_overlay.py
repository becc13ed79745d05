"""Captions, watermarks and clocks burned into a video: vertical edges that stay while it moves.

No text is read. The strokes of letters are vertical edges of both signs, close together and side
by side; those of an overlay are at the same pixels for seconds, and those of the scene are not as
long as the camera moves. Where it stands nothing can be told apart, and nothing is found.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

EDGE = 24
"""Grays, of 256, by which the pixels on the left and on the right of an edge differ."""
WINDOW_SECONDS = 5
STROKES = 6
"""Lasting edges of either sign in each of two tiles side by side."""
STILL_SHARE = 0.03
"""If more of the other tiles' edges last, the camera stands."""
TILE_ROWS, TILE_COLUMNS = 8, 16
"""Of a tile, in pixels of the frame reduced to 256."""
EDGES_SCHEMA = pa.schema(
    {
        "second": pa.int32(),
        "frames": pa.int32(),
        "height": pa.int32(),
        "width": pa.int32(),
        "rising": pa.binary(),
        "falling": pa.binary(),
        "edges": pa.binary(),
    }
)


@dataclass(eq=False, slots=True)
class SecondEdges:
    """The vertical edges of one second."""

    second: int
    frames: int
    rising: NDArray[np.bool_]
    """(H, W) darker on the left, in every frame."""
    falling: NDArray[np.bool_]
    edges: NDArray[np.int64]
    """(H // 8, W // 16) in each tile, of all frames together."""

    def row(self) -> dict[str, Any]:
        """Return it as a row of EDGES_SCHEMA."""
        height, width = self.rising.shape
        return {
            "second": self.second,
            "frames": self.frames,
            "height": height,
            "width": width,
            "rising": np.packbits(self.rising).tobytes(),
            "falling": np.packbits(self.falling).tobytes(),
            "edges": self.edges.astype("<i8").tobytes(),
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "SecondEdges":
        """Return what `row` wrote."""
        height, width = row["height"], row["width"]
        rising, falling = (
            np.unpackbits(np.frombuffer(row[name], np.uint8), count=height * width)
            .reshape(height, width)
            .astype(np.bool_)
            for name in ("rising", "falling")
        )
        edges = np.frombuffer(row["edges"], "<i8").astype(np.int64)
        shape = (height // TILE_ROWS, width // TILE_COLUMNS)
        return cls(row["second"], row["frames"], rising, falling, edges.reshape(shape))


class EdgeCollector:
    """Gives the edges of each second of the frames pushed, in time order."""

    def __init__(self) -> None:
        self.seconds: list[SecondEdges] = []

    def push(self, second: int, gray: NDArray[np.uint8]) -> None:
        """Add (H, W) grays of a second, reduced."""
        steps = np.zeros(gray.shape, np.int16)
        np.subtract(gray[:, 2:], gray[:, :-2], out=steps[:, 1:-1], dtype=np.int16)
        rising, falling = steps >= EDGE, steps <= -EDGE
        edges = _in_tiles(rising) + _in_tiles(falling)
        last = self.seconds[-1] if self.seconds else None
        if last is None or last.second != second:
            self.seconds.append(SecondEdges(second, 1, rising, falling, edges))
            return
        if last.rising.shape != gray.shape:  # another size within the second: nothing lasts
            last.rising[:] = last.falling[:] = False
            return
        last.frames += 1
        last.rising &= rising
        last.falling &= falling
        last.edges += edges


def text_overlays(seconds: Iterable[SecondEdges]) -> Iterator[bool]:
    """Yield of each second whether it lies in a window in which text is found.

    Args:
        seconds: Those that have a frame, in time order.
    """
    window: deque[SecondEdges] = deque(maxlen=WINDOW_SECONDS)
    pending: deque[bool] = deque()
    for edges in seconds:
        window.append(edges)
        pending.append(False)
        if len(pending) > WINDOW_SECONDS:
            yield pending.popleft()
        if _is_unbroken(window) and _has_text(window):
            pending = deque([True] * WINDOW_SECONDS)
    yield from pending


def _is_unbroken(window: deque[SecondEdges]) -> bool:
    first = window[0]
    return [edges.second - first.second for edges in window] == list(range(WINDOW_SECONDS)) and all(
        edges.rising.shape == first.rising.shape for edges in window
    )


def _has_text(window: Iterable[SecondEdges]) -> bool:
    """Return whether letters last in seconds of one size, and little else does."""
    rising = _in_tiles(np.logical_and.reduce([edges.rising for edges in window]))
    falling = _in_tiles(np.logical_and.reduce([edges.falling for edges in window]))
    is_dense = np.minimum(rising, falling) >= STROKES
    beside = is_dense[:, 1:] & is_dense[:, :-1]
    letters = np.zeros_like(is_dense)
    letters[:, 1:] |= beside
    letters[:, :-1] |= beside
    if not letters.any():
        return False
    rest = ~_widened(letters)  # the ends of the words are in the tiles around
    lasting = int((rising + falling)[rest].sum())
    shown = sum(float(edges.edges[rest].sum()) / edges.frames for edges in window)
    return lasting * WINDOW_SECONDS <= STILL_SHARE * shown


def _widened(tiles: NDArray[np.bool_]) -> NDArray[np.bool_]:
    rows, columns = tiles.shape
    padded = np.pad(tiles, 1)
    shifts = [(i, j) for i in range(3) for j in range(3)]
    found: NDArray[np.bool_] = np.logical_or.reduce(
        [padded[i : i + rows, j : j + columns] for i, j in shifts]
    )
    return found


def _in_tiles(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return how many pixels hold in each whole tile; those beside the last are left out."""
    rows, columns = mask.shape[0] // TILE_ROWS, mask.shape[1] // TILE_COLUMNS
    whole = mask[: rows * TILE_ROWS, : columns * TILE_COLUMNS]
    tiles = whole.reshape(rows, TILE_ROWS, columns, TILE_COLUMNS)
    counts: NDArray[np.int64] = tiles.sum((1, 3), dtype=np.int64)
    return counts
