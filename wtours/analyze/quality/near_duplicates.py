"""Seconds that show nearly what an earlier second of the same video shows: stops and repeats."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from wtours.comparison.dhash import cell_means, hash_bytes

ROWS, COLUMNS = 16, 17
BITS = 24
"""Of 256, in which two hashes may differ. Measured on real drives: frames encoded again differ by
about 20 from what they were, frames a second apart by 40 and more."""
APART_US = 1_000_000
"""The earlier frame is at least so old: frames that follow each other are alike."""
_FLAT_GRAYS = 16
"""With a smaller range of the cells there is nothing to compare: a black or white picture."""
_WORDS = ROWS * (COLUMNS - 1) // 64


def frame_hash(gray: NDArray[np.uint8]) -> bytes | None:
    """Return the 256 bits of (H, W) grays; None: too flat, or too small."""
    if gray.shape[0] < ROWS or gray.shape[1] < COLUMNS:
        return None
    cells = cell_means(gray, ROWS, COLUMNS)
    return None if np.ptp(cells) < _FLAT_GRAYS else hash_bytes(cells)


def near_duplicates(
    pts_us: NDArray[np.int64], hashes: list[bytes | None], seconds: NDArray[np.int64]
) -> Iterator[bool]:
    """Yield of each second whether it nearly equals what was shown at least a second before.

    The first frame of each of its halves must, so that one that happens to match is not enough.

    Args:
        pts_us: (N,) times of the frames, increasing.
        hashes: Theirs, by `frame_hash`.
        seconds: (S,) the seconds that have a frame, increasing.
    """
    known = np.array([value is not None for value in hashes], np.bool_)
    text = b"".join(value for value in hashes if value is not None)
    # Word by word: most earlier frames are told apart by the first one.
    words = np.ascontiguousarray(np.frombuffer(text, np.uint64).reshape(-1, _WORDS).T)
    times_us, place = pts_us[known], np.cumsum(known) - 1
    half = pts_us // (APART_US // 2)
    for second in seconds.tolist():
        first = np.searchsorted(half, (2 * second, 2 * second + 1))
        stop = np.searchsorted(half, (2 * second + 1, 2 * second + 2))
        asked = first[first < stop].tolist()
        yield all(
            known[frame]
            and _is_near(
                words[:, : np.searchsorted(times_us, pts_us[frame] - APART_US, "right")],
                words[:, place[frame]],
            )
            for frame in asked
        )


def _is_near(earlier: NDArray[np.uint64], word: NDArray[np.uint64]) -> bool:
    """Return whether one of (W, N) hashes is within BITS of the (W,) hash."""
    bits = np.bitwise_count(earlier[0] ^ word[0])
    candidates = np.flatnonzero(bits <= BITS)
    rest = np.bitwise_count(earlier[1:, candidates] ^ word[1:, None]).sum(0, np.int64)
    return bool((bits[candidates] + rest <= BITS).any())
