"""Captions, watermarks and clocks burned into a video: vertical edges that stay while it moves.

No text is read. The strokes of letters are vertical edges of both signs, close together and side
by side; those of an overlay are at the same pixels for seconds, and those of the scene are not as
long as the camera moves. Where it stands nothing can be told apart, and nothing is found.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
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
        self._done: list[SecondEdges] = []
        self._now: SecondEdges | None = None
        self._counts = np.zeros((0, 0), np.uint16)

    def push(self, second: int, gray: NDArray[np.uint8]) -> None:
        """Add (H, W) grays of a second, reduced."""
        rising, falling = _edges(gray)
        now = self._now
        if now is None or now.second != second:
            self._close()
            self._now = SecondEdges(second, 1, rising, falling, np.zeros((0, 0), np.int64))
            self._counts = rising.astype(np.uint16) + falling
        elif now.rising.shape != gray.shape:  # another size within the second: nothing lasts
            now.rising[:] = now.falling[:] = False
        else:
            now.frames += 1
            now.rising &= rising
            now.falling &= falling
            self._counts += rising
            self._counts += falling

    def finish(self) -> list[SecondEdges]:
        """Return the edges of each second."""
        self._close()
        return self._done

    def _close(self) -> None:
        if self._now is not None:
            self._now.edges = _in_tiles(self._counts)
            self._done.append(self._now)
            self._now = None


def _edges(gray: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return where (H, W) grays rise and fall from left to right; in uint8, ten times as fast."""
    rising, falling = np.zeros(gray.shape, np.bool_), np.zeros(gray.shape, np.bool_)
    if gray.shape[1] > 2:
        left, right = gray[:, :-2], gray[:, 2:]
        rising[:, 1:-1] = np.asarray(cv2.subtract(right, left)) >= EDGE
        falling[:, 1:-1] = np.asarray(cv2.subtract(left, right)) >= EDGE
    return rising, falling


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
    around = cv2.dilate(letters.astype(np.uint8), np.ones((3, 3), np.uint8))
    rest = np.asarray(around) == 0  # the ends of the words are in the tiles around
    lasting = int((rising + falling)[rest].sum())
    shown = sum(float(edges.edges[rest].sum()) / edges.frames for edges in window)
    return lasting * WINDOW_SECONDS <= STILL_SHARE * shown


def _in_tiles(mask: NDArray[np.bool_] | NDArray[np.uint16]) -> NDArray[np.int64]:
    """Return the sum of (H, W) in each whole tile; pixels beside the last are left out."""
    rows, columns = mask.shape[0] // TILE_ROWS, mask.shape[1] // TILE_COLUMNS
    whole = mask[: rows * TILE_ROWS, : columns * TILE_COLUMNS]
    tiles = whole.reshape(rows, TILE_ROWS, columns, TILE_COLUMNS)
    counts: NDArray[np.int64] = tiles.sum((1, 3), dtype=np.int64)
    return counts
