"""Which cell of a picture is darker than its right neighbor: bits that outlast scaling and coding.

Krawetz, "Kind of Like That", 2013. On pixels alone: it knows no image format.
"""

import numpy as np
from numpy.typing import NDArray


def cell_means(gray: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.float64]:
    """Return (rows, columns) means of nearly equal boxes that cover the picture.

    Raises:
        ValueError: the picture has fewer pixels than that.
    """
    height, width = gray.shape
    if height < rows or width < columns:
        raise ValueError(f"{width}x{height} pixels are less than {columns}x{rows}")
    tops = np.arange(rows) * height // rows
    lefts = np.arange(columns) * width // columns
    sums = np.add.reduceat(np.add.reduceat(gray, tops, 0, np.int64), lefts, 1)
    sizes = np.outer(np.diff([*tops, height]), np.diff([*lefts, width]))
    means: NDArray[np.float64] = sums / sizes
    return means


def hash_bytes(cells: NDArray[np.float64]) -> bytes:
    """Return the bits of (R, C) cells, row by row, eight to a byte; R x (C - 1) bits."""
    return np.packbits(cells[:, :-1] < cells[:, 1:]).tobytes()
