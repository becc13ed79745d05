"""`overlap`: does one shard set hold what another holds? The same videos, or nearly equal frames.

For whoever trains on one set and evaluates on another: a leak shows as stretches of time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wtours.comparison.perceptual_hash import distances, image_dhash
from wtours.errors import UsageError
from wtours.progress import Progress, no_progress
from wtours.shards.index import ShardIndex
from wtours.shards.schema import sample_key

_US = 1_000_000
_READ_ROWS = 64
_COMPARED = 2**22
"""Pairs of hashes compared at once: 32 MiB."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Frames of one video of A, one after the other, that are nearly frames of one video of B."""

    video_a: str
    start_us_a: int
    end_us_a: int
    video_b: str
    start_us_b: int
    end_us_b: int
    frames: int
    min_distance: int


@dataclass(frozen=True, slots=True)
class Overlap:
    """What two shard sets share."""

    same_videos: tuple[tuple[str, str, str], ...]
    """(video of A, video of B, why: "sha256" or "source")."""
    stretches: tuple[Stretch, ...]
    frames_a: int
    """Frames of A that were looked for."""
    frames_b: int
    """Frames of B that they were compared with."""
    num_near: int
    """Frames of A that are near a frame of B."""
    flat: int
    """Frames of both that are too flat for a hash: black, for example."""

    @property
    def none(self) -> bool:
        """Whether the sets share nothing that was found."""
        return not self.same_videos and not self.stretches


def find_overlap(
    a: Path | str,
    b: Path | str,
    *,
    every_seconds: float = 1.0,
    max_distance: int = 4,
    on_progress: Progress = no_progress,
) -> Overlap:
    """Look for the same videos and for nearly equal frames in two shard sets.

    Each frame that is taken of A is compared with each that is taken of B: 50,000 against 50,000
    take seconds, a million against a million hours.

    Args:
        a: A set's folder or URL.
        b: Of the other.
        every_seconds: Frames are taken so far apart, of both. A camera that walks shows another
            picture after a second, so a smaller value finds more.
        max_distance: Bits of 64 in which two hashes may differ.
        on_progress: Called with the set's folder and the frames hashed and in all.

    Raises:
        UsageError: every_seconds is below a microsecond.
        ShardError: a set is not finished, or a frame does not decode.
    """
    if not 1 / _US <= every_seconds < 1e6:
        raise UsageError(f"--every-seconds {every_seconds:g} must be above 0")
    one, other = ShardIndex.open(a), ShardIndex.open(b)
    rows_a, hashes_a, flat_a = _hash_frames(one, every_seconds, on_progress)
    rows_b, hashes_b, flat_b = _hash_frames(other, every_seconds, on_progress)
    nearest, bits = _nearest(hashes_a, hashes_b)
    near = np.flatnonzero(bits <= max_distance)
    pairs = zip(
        rows_a[near].tolist(),
        rows_b[nearest[near]].tolist(),
        bits[near].tolist(),
        strict=True,
    )
    return Overlap(
        same_videos=tuple(_same_videos(one, other)),
        stretches=tuple(_stretches(one, other, list(pairs), round(3 * every_seconds * _US))),
        frames_a=len(rows_a),
        frames_b=len(rows_b),
        num_near=len(near),
        flat=flat_a + flat_b,
    )


def _same_videos(one: ShardIndex, other: ShardIndex) -> Iterator[tuple[str, str, str]]:
    for mine in one.dataset.videos:
        for theirs in other.dataset.videos:
            if mine.source_sha256 == theirs.source_sha256:
                yield mine.video_id, theirs.video_id, "sha256"
            elif mine.source == theirs.source and "://" in (mine.source or ""):
                yield mine.video_id, theirs.video_id, "source"


def _hash_frames(
    index: ShardIndex, every_seconds: float, on_progress: Progress
) -> tuple[NDArray[np.int64], NDArray[np.uint64], int]:
    """Hash the first frame in each stretch of `every_seconds` of each video.

    Returns:
        (N,) increasing rows of the index, their (N,) hashes, and how many frames are too flat.
    """
    chosen = [
        video.start + np.unique(pts // round(every_seconds * _US), return_index=True)[1]
        for video in index.videos
        if len(pts := index.pts_us[video.start : video.stop])
    ]
    rows = np.concatenate(chosen) if chosen else np.empty(0, np.int64)
    kept, values = [], []
    for first in range(0, len(rows), _READ_ROWS):
        some = rows[first : first + _READ_ROWS].tolist()
        for row, jpeg in zip(some, index.read_jpegs(some), strict=True):
            frame = index.frame(row)
            name = f"{index.directory}: {sample_key(frame.video_id, frame.frame_index)}"
            value = image_dhash(jpeg, name)
            if value is not None:
                kept.append(row)
                values.append(value)
        on_progress(str(index.directory), min(first + _READ_ROWS, len(rows)), len(rows))
    return np.array(kept, np.int64), np.array(values, np.uint64), len(rows) - len(kept)


def _nearest(
    hashes: NDArray[np.uint64], others: NDArray[np.uint64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return for each hash which of the others is nearest (the first of equals), and how near."""
    nearest = np.zeros(len(hashes), np.int64)
    bits = np.full(len(hashes), 65, np.int64)
    if not len(others):
        return nearest, bits
    step = max(1, _COMPARED // len(others))
    for first in range(0, len(hashes), step):
        table = distances(hashes[first : first + step, None], others[None])
        place = table.argmin(1)
        nearest[first : first + step] = place
        bits[first : first + step] = table[np.arange(len(table)), place]
    return nearest, bits


def _stretches(
    one: ShardIndex, other: ShardIndex, pairs: list[tuple[int, int, int]], reach_us: int
) -> Iterator[Stretch]:
    """Join pairs (row of A, row of B, distance) that follow each other in both videos."""
    group: list[tuple[int, int, int]] = []
    for pair in pairs:
        last = group[-1] if group else pair
        follows = all(
            index.video_of(before) == index.video_of(now)
            and abs(int(index.pts_us[now]) - int(index.pts_us[before])) <= reach_us
            for index, before, now in ((one, last[0], pair[0]), (other, last[1], pair[1]))
        )
        if not follows:
            yield _stretch(one, other, group)
            group = []
        group.append(pair)
    if group:
        yield _stretch(one, other, group)


def _stretch(one: ShardIndex, other: ShardIndex, group: list[tuple[int, int, int]]) -> Stretch:
    pts_a = one.pts_us[[row for row, _, _ in group]]
    pts_b = other.pts_us[[row for _, row, _ in group]]
    return Stretch(
        video_a=one.video_of(group[0][0]).video_id,
        start_us_a=int(pts_a.min()),
        end_us_a=int(pts_a.max()),
        video_b=other.video_of(group[0][1]).video_id,
        start_us_b=int(pts_b.min()),
        end_us_b=int(pts_b.max()),
        frames=len(group),
        min_distance=min(bits for _, _, bits in group),
    )
