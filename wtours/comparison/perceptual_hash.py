"""dHash: 64 bits of a picture that change little when it is scaled, recoded or brightened.

Each bit says whether a cell of an 8 x 9 grid of mean grays is darker than its right neighbor
(Krawetz, "Kind of Like That", 2013). The number of bits that differ is the distance: 0 to about 4
for two encodings of one frame, about 32 for two pictures that have nothing to do with each other.
"""

import numpy as np
from numpy.typing import NDArray

from wtours.comparison.dhash import cell_means, hash_bytes
from wtours.errors import ShardError
from wtours.shards.images.codecs import decode_gray

ROWS, COLUMNS = 8, 9
_MIN_SIDE = 64
"""Of the decoded picture, in pixels: several pixels a cell, by the scaled inverse DCT."""
_FLAT_GRAYS = 4.0
"""Below this standard deviation of the cells, bits are noise: a black or overexposed picture."""


def image_dhash(image: bytes, what: str) -> int | None:
    """Return the hash of an encoded picture; None: it is too flat for the hash to say anything.

    Raises:
        ShardError: it does not decode, or is too small; the message has `what`.
    """
    try:
        gray = decode_gray(image, min_short_side=_MIN_SIDE)
        cells = cell_means(gray, ROWS, COLUMNS)
    except ValueError as error:
        raise ShardError(f"{what} has no perceptual hash ({error})") from error
    return None if cells.std() < _FLAT_GRAYS else int.from_bytes(hash_bytes(cells), "big")


def distances(hashes: NDArray[np.uint64], others: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Return the number of bits that differ, by the rules of broadcasting."""
    bits: NDArray[np.uint8] = np.bitwise_count(hashes ^ others)
    return bits
