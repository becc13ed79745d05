"""A clip: frames as they are in the tars, decoded, and as an item of a dataset for torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wtours.errors import ShardError
from wtours.shards.images.codecs import decode_image
from wtours.shards.layers.arrays import stacked


@dataclass(frozen=True, slots=True)
class Clip:
    """T frames of one video, in time order, encoded."""

    video_id: str
    start: int | None
    """Row of the first frame in the index; None from `stream_clips`, which reads no index."""
    pts_us: tuple[int, ...]
    jpegs: tuple[bytes, ...]
    """JPEGs, or images of the set's other codec (`index.dataset.params.codec`)."""
    layers: Mapping[str, tuple[NDArray[Any] | None, ...]] = field(
        default_factory=dict, compare=False
    )
    """By the name of a layer: a value for each frame, None where it has none."""

    def decode(self, *, min_short_side: int | None = None) -> list[NDArray[np.uint8]]:
        """Return T arrays (H, W, 3) uint8 RGB.

        Args:
            min_short_side: None: decoded in full, by the exact inverse DCT. Otherwise in the
                smallest of the sizes 1/8, 2/8, … 8/8 (libjpeg's scaled inverse DCT, several times
                quicker) that keeps min(H, W) at this many pixels or more, if it has them. Other
                codecs than JPEG are decoded in full.

        Raises:
            ShardError: an image is damaged, or larger than 8192 x 8192 pixels.
            MissingPackageError: they are no JPEGs, and Pillow is not installed.
        """
        frames = []
        for jpeg, pts_us in zip(self.jpegs, self.pts_us, strict=True):
            try:
                frames.append(decode_image(jpeg, min_short_side=min_short_side or 0))
            except ValueError as error:
                raise ShardError(
                    f"the frame of {self.video_id} at {pts_us} us does not decode ({error}); run "
                    f"`wtours verify` to find the damaged shard"
                ) from error
        return frames


class Clips(Protocol):
    """Clips by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: int) -> Clip: ...


@dataclass(frozen=True, slots=True)
class TorchClips:
    """Decoded clips as a map-style dataset of dicts; made by `ClipDataset.torch`."""

    clips: Clips
    transform: Callable[[NDArray[np.uint8]], Any] | None
    min_short_side: int | None

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self.clips)

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Return a clip, decoded; see `ClipDataset.torch`.

        Raises:
            ShardError: a shard was damaged since the index was opened, or values of a layer cannot
                be stacked.
        """
        clip = self.clips[number]
        frames = np.stack(clip.decode(min_short_side=self.min_short_side))
        return {
            **{name: stacked(values, name) for name, values in clip.layers.items()},
            "frames": frames if self.transform is None else self.transform(frames),
            "pts_us": np.array(clip.pts_us, np.int64),
            "video_id": clip.video_id,
            "start": clip.start,
        }
