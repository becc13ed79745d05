"""Videos with masks in the layout of DAVIS 2017.

JPEGImages/480p/<sequence>/00000.jpg   Annotations/480p/<sequence>/00000.png
ImageSets/2017/<split>.txt
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.data.image_decoding import decode_indices, decode_rgb
from training.data.image_files import is_image, read_file, read_names
from training.evaluation.datasets.voc import VOID
from wtours.errors import ImageDataError
from wtours.text import counted

_RESOLUTION = "480p"


@dataclass(frozen=True)
class Sequence:
    """One video: its frames and masks, in the order of time, as files that are there."""

    name: str
    frames: tuple[Path, ...]
    masks: tuple[Path, ...]

    def read_frame(self, number: int) -> NDArray[np.uint8]:
        """Return a frame, (H, W, 3) RGB."""
        path = self.frames[number]
        return np.asarray(decode_rgb(read_file(path), what=str(path)))

    def read_mask(self, number: int) -> NDArray[np.uint8]:
        """Return a frame's mask, (H, W): 0 is background, 1 and more are objects.

        Raises:
            ImageDataError: it cannot be read, or the first marks its object as DAVIS 2016 does.
        """
        path = self.masks[number]
        values = decode_indices(read_file(path), what=f"mask {path}")
        if number == 0 and set(np.unique(values)) == {0, VOID}:
            raise ImageDataError(
                f"mask {path} has one object, marked by {VOID} as in DAVIS 2016; DAVIS 2017 counts "
                f"objects from 1, and takes {VOID} for background"
            )
        # As in davis2017-evaluation, which scores these pixels as background.
        return np.where(values == VOID, 0, values).astype(np.uint8)

    def files(self, root: Path) -> dict[str, bytes]:
        """Return name (below the root) and content of every file."""
        paths = (*self.frames, *self.masks)
        return {str(path.relative_to(root)): read_file(path) for path in paths}


def list_sequences(root: Path, split: str) -> list[Sequence]:
    """Return the sequences of a split.

    Args:
        root: The folder with JPEGImages; one that holds DAVIS will do.
        split: A list in ImageSets/2017.

    Raises:
        ImageDataError: another layout, no such list, an empty one, a frame without a mask, or a
            sequence of fewer than three frames (the first and the last are not measured).
    """
    root = root / "DAVIS" if (root / "DAVIS" / "JPEGImages").is_dir() else root
    images, masks = root / "JPEGImages" / _RESOLUTION, root / "Annotations" / _RESOLUTION
    for needed in (images, masks):
        if not needed.is_dir():
            raise ImageDataError(f"{root} is not laid out as DAVIS 2017: {needed} is missing")
    path = root / "ImageSets" / "2017" / f"{split}.txt"
    if not path.is_file():
        raise ImageDataError(f"{root} has no split {split!r}: {path} is missing")
    return [_sequence(name, images / name, masks / name) for name in read_names(path)]


def save_indices(path: Path, indices: NDArray[np.uint8]) -> None:
    """Write a mask as a PNG with DAVIS's palette."""
    height, width = indices.shape
    image = Image.frombytes("P", (width, height), indices.tobytes())
    image.putpalette(_palette())
    image.save(path, "PNG")


def _sequence(name: str, frames_dir: Path, masks_dir: Path) -> Sequence:
    frames = tuple(sorted(file for file in frames_dir.glob("*.jpg") if is_image(file.name)))
    if len(frames) < 3:
        raise ImageDataError(
            f"sequence {name} has {counted(len(frames), 'frame')} in {frames_dir}; three or more "
            f"are needed"
        )
    masks = tuple(masks_dir / f"{frame.stem}.png" for frame in frames)
    missing = next((mask for mask in masks if not mask.is_file()), None)
    if missing is not None:
        raise ImageDataError(f"sequence {name} has no mask {missing}")
    return Sequence(name, frames, masks)


def _palette() -> list[int]:
    """Return the colors of Pascal VOC, which DAVIS uses: bits of the index spread over RGB."""
    colors = []
    for index in range(256):
        for channel in range(3):
            bits = (index >> (3 * place + channel) & 1 for place in range(8))
            colors.append(sum(bit << (7 - place) for place, bit in enumerate(bits)))
    return colors
