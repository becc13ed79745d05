"""The order of clips: a pure function of the position, so that resuming needs one integer."""

import hashlib

_ROUNDS = 6
_MIN_HALF_BITS = 3  # with 2, the orders of four clips are visibly not equally likely


class ClipSampler:
    """Says which clip stands at a position of an endless stream of clips.

    Positions 0, 1, 2, … run over all epochs; `clip_at(position)` depends on nothing else. The
    trainer gives the positions out: its global batch of step s is [s * G, (s + 1) * G), and rank r
    of R takes the r-th slice of G / R. So ranks and workers may change between runs, and no two
    ranks see the same clip in an epoch.

    Shuffled, each epoch is a permutation of its own (of the first `clips_per_epoch` of it, where
    that is smaller than the number of clips; permutation after permutation, where it is larger).
    In sequence, the clips follow each other and wrap around, whatever `clips_per_epoch` is.

    Memory does not grow with the number of clips, and the order depends on no library's random
    numbers, so it stays the same over versions.

    Args:
        num_clips: len of the dataset, at least 1.
        seed: Another seed, another order.
        shuffle: False: in the dataset's own order.
        clips_per_epoch: Clips that make an epoch; None: `num_clips`.
    """

    def __init__(
        self,
        num_clips: int,
        *,
        seed: int,
        shuffle: bool = True,
        clips_per_epoch: int | None = None,
    ) -> None:
        if num_clips < 1:
            raise ValueError(f"num_clips must be >= 1, got {num_clips}")
        if clips_per_epoch is not None and clips_per_epoch < 1:
            raise ValueError(f"clips_per_epoch must be >= 1, got {clips_per_epoch}")
        self.num_clips = num_clips
        self.seed = seed
        self.shuffle = shuffle
        self.clips_per_epoch = num_clips if clips_per_epoch is None else clips_per_epoch

    def __len__(self) -> int:
        """Return the clips of an epoch."""
        return self.clips_per_epoch

    def epoch_of(self, position: int) -> int:
        """Return the epoch that a position is in, from 0."""
        return position // self.clips_per_epoch

    def clip_at(self, position: int) -> int:
        """Return the clip number, 0 to num_clips - 1, at a position >= 0."""
        if position < 0:
            raise ValueError(f"position must be >= 0, got {position}")
        if not self.shuffle:
            return position % self.num_clips
        epoch, in_epoch = divmod(position, self.clips_per_epoch)
        turn, index = divmod(in_epoch, self.num_clips)
        return permuted(index, self.num_clips, key=f"{self.seed}/{epoch}/{turn}")


def permuted(index: int, size: int, *, key: str) -> int:
    """Return where a keyed permutation of range(size) sends `index`.

    A Feistel network over the smallest even number of bits that holds `size`, walked along its
    cycle until it falls below `size` (Black and Rogaway, Ciphers with Arbitrary Finite Domains,
    2002): 4 walks on average at most, or 64 / size for fewer than 16.
    """
    half_bits = max(_MIN_HALF_BITS, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half_bits) - 1
    while True:
        left, right = index >> half_bits, index & mask
        for number in range(_ROUNDS):
            left, right = right, left ^ (_round_hash(key, number, right) & mask)
        index = left << half_bits | right
        if index < size:
            return index


def _round_hash(key: str, number: int, value: int) -> int:
    text = f"{key}/{number}/{value}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
