"""Randomness without state: every draw follows from (seed, purpose, index).

A resumed run needs only its step, and a clip at a global position gets the same draws whichever
rank, worker or process handles it.
"""

import hashlib

import numpy as np
import torch


def derived_seed(seed: int, purpose: str, *index: int) -> int:
    """Return a 63-bit seed for one purpose and index, unrelated to that of any other."""
    text = "/".join([str(seed), purpose, *map(str, index)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def numpy_generator(seed: int, purpose: str, *index: int) -> np.random.Generator:
    """Return numpy's counter-based Philox generator for one purpose and index."""
    return np.random.Generator(np.random.Philox(derived_seed(seed, purpose, *index)))


def torch_generator(seed: int, purpose: str, *index: int) -> torch.Generator:
    """Return a CPU generator of torch for one purpose and index."""
    return torch.Generator().manual_seed(derived_seed(seed, purpose, *index))
