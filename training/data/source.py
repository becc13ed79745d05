"""Where clips come from: a shard set (`clips.ShardClips`) or images (`image_clips.ImageClips`)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wtours.shards import ClipShare


@dataclass(frozen=True)
class DataIdentity:
    """Which clips a run is trained on: the order of clips follows from these and the seed."""

    index_sha256: str
    num_clips: int


class SourceClip(Protocol):
    """One encoded clip of T frames, or an image as a clip of one."""

    @property
    def video_id(self) -> str:
        """Return the video's id; of an image a name that a file can have."""
        ...

    @property
    def pts_us(self) -> tuple[int, ...]:
        """Return the T times, in microseconds from the video's start."""
        ...

    def decode(self) -> list[NDArray[np.uint8]]:
        """Return T frames, (H, W, 3) RGB.

        Raises:
            WtoursError: one does not decode.
        """
        ...


class ClipSource(Protocol):
    """Encoded clips by number; picklable, since workers read it."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> SourceClip: ...

    def describe(self, number: int) -> dict[str, Any]:
        """Return what a clip can be found by again: video, frames and times, or the image."""
        ...

    def shares(self, weights: Mapping[str, int]) -> tuple[ClipShare, ...]:
        """Return what mixes videos by weight.

        Raises:
            WtoursError: a video is not there.
        """
        ...

    @property
    def identity(self) -> DataIdentity:
        """Return what a checkpoint records of the data."""
        ...

    @property
    def mean_bytes(self) -> float:
        """Return the mean size of an encoded clip."""
        ...
