"""Where clips come from: a shard set (`clips.ShardClips`) or images (`image_clips.ImageClips`)."""

from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from training.config.sections import DataConfig
from wtours.shards.sampler import ClipKey, ClipSampler


@dataclass(frozen=True)
class DataIdentity:
    """Which clips a run is trained on: the order of clips follows from these and the seed."""

    index_sha256: str
    num_clips: int
    set_sha256: str | None = None
    """The set hash of `wtours lock`; None: images, or a checkpoint that is older than this."""
    split_sha256: str | None = None
    """Of the set's `split.json`; None: all of the set is trained on."""

    def is_of(self, other: "DataIdentity") -> bool:
        """Whether both are the same clips; what one of them does not say is not compared."""
        known = None in (self.set_sha256, other.set_sha256) or self.set_sha256 == other.set_sha256
        return known and (self.index_sha256, self.num_clips, self.split_sha256) == (
            other.index_sha256,
            other.num_clips,
            other.split_sha256,
        )

    def recorded(self) -> dict[str, str | int]:
        """Return what a checkpoint holds."""
        return {name: value for name, value in asdict(self).items() if value is not None}


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

    def __getitem__(self, key: ClipKey) -> SourceClip: ...

    def describe(self, key: ClipKey) -> dict[str, Any]:
        """Return what a clip can be found by again: video, frames and times, or the image."""
        ...

    def sampler(self, data: DataConfig, *, seed: int) -> ClipSampler:
        """Return the order of the clips.

        Raises:
            WtoursError: what the config asks for is not there.
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
