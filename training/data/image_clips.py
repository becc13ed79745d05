"""Still images without labels as clips of one frame, for `method: dora_images` (DORA*, Table 8).

Every JPEG, PNG or WebP below a folder, or in an uncompressed tar, at any depth. A tar is read in
place; its names touch no file here.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.image_decoding import decode_rgb
from training.data.image_files import MAX_IMAGE_BYTES, is_image, plain_members
from training.data.source import DataIdentity
from wtours.errors import ImageDataError


@dataclass(frozen=True, slots=True)
class Still:
    """One encoded image: a clip of a single frame."""

    name: str
    """Its path below the folder or in the tar."""
    source: Path
    data: bytes

    def decode(self) -> list[NDArray[np.uint8]]:
        """Return the frame, (H, W, 3) RGB.

        Raises:
            ImageDataError: it does not decode.
        """
        return [np.asarray(decode_rgb(self.data, what=f"{self.name} of {self.source}"))]

    @property
    def video_id(self) -> str:
        """Return the name as a part of a file's name, where that of a clip has its video."""
        return self.name.replace("/", "_")

    @property
    def pts_us(self) -> tuple[int, ...]:
        """Return the time of the frame, as of a clip."""
        return (0,)


class StillImages:
    """The images of a folder or a tar, listed in the order of their names but not read.

    Args:
        path: The folder or the tar.

    Raises:
        ImageDataError: there is no such folder or plain tar, no image in it, or one that has more
            than 64 MiB.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        listed = sorted(_folder(path) if path.is_dir() else _tar(path))
        if not listed:
            raise ImageDataError(f"{path} holds no JPEG, PNG or WebP image")
        self._names = [name for name, _, _ in listed]
        # Arrays: the lists of ten million images would be copied into every worker.
        self._offsets = np.array([offset for _, offset, _ in listed])
        self._sizes = np.array([size for _, _, size in listed])
        if self._sizes.max() > MAX_IMAGE_BYTES:
            name = self._names[int(self._sizes.argmax())]
            raise ImageDataError(f"image {name} of {path} has more than {MAX_IMAGE_BYTES} bytes")

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, number: int) -> Still:
        """Return one image, encoded.

        Raises:
            ImageDataError: it went away since it was listed.
        """
        name, offset, size = self._names[number], self._offsets[number], self._sizes[number]
        file = self.path / name if self.path.is_dir() else self.path
        try:
            with file.open("rb") as opened:
                opened.seek(int(offset))
                data = opened.read(int(size))
        except OSError as error:
            raise ImageDataError(f"image {file} cannot be read ({error.strerror})") from error
        return Still(name, self.path, data)

    def describe(self, number: int) -> dict[str, Any]:
        """Return which image has a number, to be found again."""
        return {"image": self._names[number]}

    @property
    def mean_bytes(self) -> float:
        """Return the mean size of an encoded image."""
        return float(self._sizes.mean())

    @property
    def identity(self) -> DataIdentity:
        """Return what a checkpoint records: the names and sizes in order, and their number."""
        digest = hashlib.sha256()
        for name, size in zip(self._names, self._sizes, strict=True):
            digest.update(f"{name}\0{size}\n".encode("utf-8", "surrogateescape"))
        return DataIdentity(digest.hexdigest(), len(self))


def _folder(root: Path) -> Iterator[tuple[str, int, int]]:
    """Yield name, offset and size of each image."""
    for folder, below, files in os.walk(root):
        below[:] = [name for name in below if not name.startswith(".")]
        for name in files:
            if is_image(name):
                path = Path(folder, name)
                yield path.relative_to(root).as_posix(), 0, path.stat().st_size


def _tar(path: Path) -> Iterator[tuple[str, int, int]]:
    return (found for found in plain_members(path) if is_image(found[0]))
