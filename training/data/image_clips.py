"""Images without labels as clips of one frame, for methods that take single images.

Every JPEG, PNG or WebP below a folder, or in an uncompressed tar, at any depth.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.config.sections import DataConfig
from training.data.image_decoding import decode_rgb
from training.data.image_files import StoredFile, fingerprint, is_image
from training.data.source import DataIdentity
from training.data.tar_files import TarFiles, open_files
from wtours.errors import ImageDataError, UsageError
from wtours.shards.sampler import ClipKey, ClipSampler
from wtours.storage.hashing import sha256_bytes

_LONGEST_ID = 150
"""In bytes: most file systems take names of 255."""


@dataclass(frozen=True, slots=True)
class ImageClip:
    """One encoded image: a clip of a single frame."""

    name: str
    """Its path below the folder or in the tar."""
    source: Path
    data: bytes
    pts_us: tuple[int, ...] = (0,)
    """The time of the frame, as of a clip."""

    def decode(self) -> list[NDArray[np.uint8]]:
        """Return the frame, (H, W, 3) RGB.

        Raises:
            ImageDataError: it does not decode.
        """
        return [np.asarray(decode_rgb(self.data, what=f"{self.name} of {self.source}"))]

    @property
    def video_id(self) -> str:
        """Return the name as a part of a file's name, where that of a clip has its video.

        No two images have the same.
        """
        whole = self.name.replace("%", "%25").replace("/", "%2F")
        is_short = len(os.fsencode(whole)) <= _LONGEST_ID
        return whole if is_short else sha256_bytes(os.fsencode(self.name))


class ImageClips:
    """The images of a folder or a tar, listed in the order of their names but not read.

    Raises:
        ImageDataError: there is no such folder or plain tar, no image in it, or one that has more
            than 64 MiB or is a link to nothing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        source = open_files(path)
        if isinstance(source, TarFiles):
            source.require_any_order()
        listed = sorted(
            (file for file in source.files() if is_image(file.name)), key=lambda file: file.name
        )
        if not listed:
            raise ImageDataError(f"{path} holds no JPEG, PNG or WebP image")
        self._source = open_files(path)  # one that has not listed anything
        self._names = [file.name for file in listed]
        # Arrays: the lists of ten million images would be copied into every worker.
        self._places = np.array([file.place for file in listed])
        self._sizes = np.array([file.size for file in listed])

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, key: ClipKey) -> ImageClip:
        """Return one image, encoded; a draw is of no use to it.

        Raises:
            ImageDataError: it went away or changed since it was listed.
        """
        number = _number(key)
        name = self._names[number]
        file = StoredFile(name, int(self._sizes[number]), int(self._places[number]))
        return ImageClip(name, self.path, self._source.read(file))

    def describe(self, key: ClipKey) -> dict[str, Any]:
        """Return which image has a number, to be found again."""
        return {"image": self._names[_number(key)]}

    def sampler(self, data: DataConfig, *, seed: int) -> ClipSampler:
        """Return the order of the images.

        Raises:
            UsageError: the config asks for what only videos have.
        """
        if data.mixture:
            raise UsageError("data.mixture weighs videos of a shard set; these are single images")
        of_videos = {
            "clips_per_video": data.clips_per_video is not None,
            "clips_per_neighborhood": data.clips_per_neighborhood > 1,
            "min_start_distance_seconds": data.min_start_distance_seconds > 0,
            "split": data.split is not None,
        }
        for name, is_set in of_videos.items():
            if is_set:
                raise UsageError(f"data.{name} is of a shard set; these are single images")
        return ClipSampler(len(self), seed=seed, clips_per_epoch=data.clips_per_epoch)

    @property
    def mean_bytes(self) -> float:
        """Return the mean size of an encoded image."""
        return float(self._sizes.mean())

    @property
    def identity(self) -> DataIdentity:
        """Return what a checkpoint records: the names and sizes in order, and their number."""
        sizes = self._sizes.tolist()
        return DataIdentity(fingerprint(zip(self._names, sizes, strict=True)), len(self))


def _number(key: ClipKey) -> int:
    return key[0] if isinstance(key, tuple) else key
