"""The order of clips: a pure function of (seed, position), so that resuming needs one integer."""

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

# A Feistel network and not numpy's permutation of each epoch, which would be shorter. A checkpoint
# holds a position and nothing of the order, so another order would give running runs other clips
# (and, unlike the data, it would not be noticed), and the recorded losses would all change. numpy
# (NEP 19) does not keep a generator's permutation over versions either; one that is kept, an
# argsort of Philox's raw numbers, takes 0.16 s and 12 MB per process and epoch of 1.5 M clips. This
# takes 18 us a clip, whose decoding takes 10 ms, and no memory.
_ROUNDS = 6
_MIN_HALF_BITS = 3  # with 2, the orders of four clips are visibly not equally likely


ClipKey = int | tuple[int, float]
"""What a `ClipDataset` is indexed by: a clip's number, or that and a draw in [0, 1)."""


@dataclass(frozen=True, slots=True)
class ClipShare:
    """The clips of one video and their part in a mixture; `ClipDataset.shares` makes them."""

    name: str
    """The video's id, a part of the key of the order."""
    clips: range
    weight: int
    """So many of each sum(weights) clips are of this video."""


class ClipSampler:
    """Says which clip stands at a position of an endless stream of clips.

    Positions 0, 1, 2, … run over all epochs; `clip_at(position)` depends on nothing else. The
    trainer gives the positions out: its global batch of step s is [s * G, (s + 1) * G), and rank r
    of R takes the r-th slice of G / R (`ClipBatches`). So ranks and workers may change between
    runs, and no two ranks see the same clip in an epoch.

    Each epoch is a permutation of its own (of the first `clips_per_epoch` of it, where that is
    smaller than the number of clips; permutation after permutation, where it is larger).

    With a mixture, W is the sum of the weights. Every W positions from the start of an epoch hold
    each video exactly `weight` times, and each video has an order of its own, as above. An epoch of
    E clips takes at most ceil(E / W) * weight clips of a video: where the video has as many, none
    comes twice in the epoch, on whatever rank; where it has fewer, its clips come equally often in
    the epoch, give or take one, if E is a multiple of W.

    Memory does not grow with the number of clips, and the order depends on no library's random
    numbers, so it stays the same over versions.

    >>> sampler = ClipSampler(5, seed=0)
    >>> sorted(sampler.clip_at(position) for position in range(5))  # the first epoch
    [0, 1, 2, 3, 4]
    >>> sampler.epoch_of(7)
    1

    Args:
        num_clips: len of the dataset, at least 1.
        seed: Another seed, another order.
        clips_per_epoch: Clips that make an epoch; None: all (with a mixture: of its videos).
        mixture: What to draw from, in what parts; empty: from all clips alike.
        clips_per_neighborhood: k. Positions [k * g, k * g + k) hold a clip of the order above and
            k - 1 others out of those that begin near it, each once if there are as many. An epoch
            is a multiple of k (rounded down, where it is not given).
        neighbors: Says which clips begin near a clip, itself among them; `ClipDataset.sampler`
            gives it.
        draws: Whether each clip needs a draw (`key_at`), for an interval that is a range.
    """

    def __init__(
        self,
        num_clips: int,
        *,
        seed: int,
        clips_per_epoch: int | None = None,
        mixture: Sequence[ClipShare] = (),
        clips_per_neighborhood: int = 1,
        neighbors: Callable[[int], range] | None = None,
        draws: bool = False,
    ) -> None:
        if num_clips < 1:
            raise ValueError(f"num_clips must be >= 1, got {num_clips}")
        if clips_per_epoch is not None and clips_per_epoch < 1:
            raise ValueError(f"clips_per_epoch must be >= 1, got {clips_per_epoch}")
        for share in mixture:
            if not (len(share.clips) and share.clips.start >= 0 and share.clips.stop <= num_clips):
                raise ValueError(
                    f"{share.name!r} has the clips {share.clips}, of {num_clips} in all"
                )
            if share.weight < 1:
                raise ValueError(f"the weight of {share.name!r} must be >= 1, got {share.weight}")
        self.num_clips = num_clips
        self.seed = seed
        self.mixture = tuple(mixture) or (ClipShare("", range(num_clips), 1),)
        num_mixed = sum(len(share.clips) for share in self.mixture)
        self.clips_per_epoch = num_mixed if clips_per_epoch is None else clips_per_epoch
        self.clips_per_neighborhood, self.draws = clips_per_neighborhood, draws
        self._neighbors = neighbors
        if clips_per_neighborhood != 1:
            self._require_neighborhoods(clips_per_epoch)
        self._first_slots = [0, *itertools.accumulate(share.weight for share in self.mixture)]

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
        epoch, in_epoch = divmod(position, self.clips_per_epoch)
        if self._neighbors is None or self.clips_per_neighborhood == 1:
            return self._clip_of(epoch, in_epoch)
        group, member = divmod(in_epoch, self.clips_per_neighborhood)
        first = self._clip_of(epoch, group)
        near = self._neighbors(first)
        if member == 0 or len(near) == 1:
            return first
        turn, index = divmod(member - 1, len(near) - 1)
        key = f"{self.seed}/{epoch}/neighborhood/{group}/{turn}"
        other = near[permuted(index, len(near) - 1, key=key)]
        return other if other < first else other + 1  # any but the first

    def draw_at(self, position: int) -> float:
        """Return a number in [0, 1) that is the position's own."""
        return (_hash(f"{self.seed}/draw/{position}") >> 11) / 2**53

    def key_at(self, position: int) -> ClipKey:
        """Return what the dataset is indexed by for a position: the clip, and its draw if any."""
        clip = self.clip_at(position)
        return (clip, self.draw_at(position)) if self.draws else clip

    def _require_neighborhoods(self, clips_per_epoch: int | None) -> None:
        size = self.clips_per_neighborhood
        if size < 1 or self._neighbors is None:
            raise ValueError(f"clips_per_neighborhood ({size}) must be >= 1, with neighbors")
        if clips_per_epoch is None:
            self.clips_per_epoch = max(size, self.clips_per_epoch - self.clips_per_epoch % size)
        if self.clips_per_epoch % size:
            raise ValueError(
                f"clips_per_epoch ({self.clips_per_epoch}) must be a multiple of "
                f"clips_per_neighborhood ({size})"
            )

    def _clip_of(self, epoch: int, in_epoch: int) -> int:
        share, drawn = self._share_at(in_epoch, key=f"{self.seed}/{epoch}")
        turn, index = divmod(drawn, len(share.clips))
        name = f"/{share.name}" if share.name else ""
        key = f"{self.seed}/{epoch}/{turn}{name}"
        return share.clips[permuted(index, len(share.clips), key=key)]

    def _share_at(self, position: int, *, key: str) -> tuple[ClipShare, int]:
        """Return the video at a position, and which of its own stream's clips stands there.

        A block of W positions has a slot for each unit of weight, in an order of the block's own:
        as many of a video's clips stand before the block as it has slots in all earlier ones.
        """
        num_slots = self._first_slots[-1]
        block, slot = divmod(position, num_slots)
        slot = permuted(slot, num_slots, key=f"{key}/mixture/{block}")
        number = next(n for n, first in enumerate(self._first_slots[1:]) if slot < first)
        share = self.mixture[number]
        return share, block * share.weight + slot - self._first_slots[number]


@dataclass(frozen=True, slots=True)
class ClipBatches:
    """The clip numbers of one rank's batches, a list per step: a `batch_sampler` for torch.

    Step s has the positions [s * G, (s + 1) * G) of the sampler's stream, and each rank its
    contiguous share of them. So a run resumes at `first_step`, on any number of ranks and workers,
    with the very clips that one rank would have seen. It may be iterated more than once.

    >>> sampler = ClipSampler(100, seed=0)
    >>> whole = list(ClipBatches(sampler, global_batch_size=4, num_steps=3))
    >>> resumed = ClipBatches(sampler, global_batch_size=4, num_steps=2, first_step=1)
    >>> list(resumed) == whole[1:]
    True
    >>> ranks = [
    ...     ClipBatches(sampler, global_batch_size=4, num_steps=3, rank=rank, world_size=2)
    ...     for rank in (0, 1)
    ... ]
    >>> [first + second for first, second in zip(*ranks)] == whole
    True

    Raises:
        ValueError: the global batch does not divide by the number of ranks, or there is no such
            rank.
    """

    sampler: ClipSampler
    global_batch_size: int
    """G, clips in a step over all ranks."""
    num_steps: int
    first_step: int = 0
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.global_batch_size < 1 or self.global_batch_size % self.world_size:
            raise ValueError(
                f"global_batch_size ({self.global_batch_size}) must be a multiple of world_size "
                f"({self.world_size})"
            )
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank ({self.rank}) must be 0 to {self.world_size - 1}")

    def __len__(self) -> int:
        """Return the number of batches."""
        return self.num_steps

    def __iter__(self) -> Iterator[list[ClipKey]]:
        """Yield what this rank's clips are indexed by, step by step."""
        share = self.global_batch_size // self.world_size
        for step in range(self.first_step, self.first_step + self.num_steps):
            first = step * self.global_batch_size + self.rank * share
            yield [self.sampler.key_at(position) for position in range(first, first + share)]


def permuted(index: int, size: int, *, key: str) -> int:
    """Return where a keyed permutation of range(size) sends `index`.

    A Feistel network over the smallest even number of bits that holds `size`, walked along its
    cycle until it falls below `size` (Black and Rogaway, Ciphers with Arbitrary Finite Domains,
    2002): 4 walks on average at most, or 64 / size for fewer than 16.
    """
    if size == 1:
        return 0
    half_bits = max(_MIN_HALF_BITS, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half_bits) - 1
    while True:
        left, right = index >> half_bits, index & mask
        for number in range(_ROUNDS):
            left, right = right, left ^ (_hash(f"{key}/{number}/{right}") & mask)
        index = left << half_bits | right
        if index < size:
            return index


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
