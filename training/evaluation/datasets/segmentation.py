"""Images with a label for each pixel: CamVid's and ADE20k's folders, or the same in a tar.

    CAMVID/{train,test}/<name>.png         CAMVID/{trainannot,testannot}/<name>.png
    ADE20K/images/{training,validation}/   ADE20K/annotations/{training,validation}/

CamVid is in its form with 11 classes: a label is 0 to 10, and 11 is not scored. ADE20k is the scene
parsing benchmark's: a label is 1 to 150, and 0 is not scored. An image and its labels have the same
name but for the suffix.
"""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.data.image_decoding import decode_labels, decode_rgb
from training.data.image_files import StoredFile, fingerprint, is_image
from training.data.tar_files import Files, TarFiles, open_files
from wtours.errors import ImageDataError
from wtours.storage.hashing import sha256_bytes

VOID = -1
"""What a pixel that is not scored is read as."""


Pair = tuple[str, str]


@dataclass(frozen=True)
class Layout:
    """How a data set names its folders and its labels."""

    name: str
    """Of the data set."""
    train: Pair
    """Folder of the training images, and of their labels."""
    test: Pair
    """The same of the images that are scored."""
    num_classes: int
    """Classes that are scored."""
    first: int
    """The label of the first class; the others follow."""
    void: int
    """The label of what is not scored."""


LAYOUTS = (
    Layout("camvid", ("train", "trainannot"), ("test", "testannot"), 11, 0, 11),
    Layout(
        "ade20k",
        ("images/training", "annotations/training"),
        ("images/validation", "annotations/validation"),
        150,
        1,
        0,
    ),
)


@dataclass(frozen=True)
class LabeledPixels:
    """One split: images and their labels, listed but not read."""

    source: Files
    """The folder or the tar."""
    layout: Layout
    """What its labels mean."""
    folder: str
    """Of its images, in the source."""
    root: str
    """The folder around everything in the source, with a slash, or nothing."""
    files: tuple[tuple[StoredFile, StoredFile], ...]
    """(image, labels), ordered by their names without the suffix."""

    def __len__(self) -> int:
        return len(self.files)

    def image(self, number: int) -> Image.Image:
        """Return an image, RGB."""
        file = self.files[number][0]
        return decode_rgb(self.source.read(file), what=self._what(file))

    def labels(self, number: int) -> NDArray[np.int64]:
        """Return the labels of an image, (H, W), 0 to num_classes - 1 or `VOID`.

        Raises:
            ImageDataError: they do not decode, or one is out of range.
        """
        file = self.files[number][1]
        what = f"labels {self._what(file)}"
        raw = decode_labels(self.source.read(file), what=what)
        labels = raw - self.layout.first
        labels[raw == self.layout.void] = VOID  # ADE20k's 0 is so already
        wrong = labels >= self.layout.num_classes
        if wrong.any():
            last = self.layout.first + self.layout.num_classes - 1
            raise ImageDataError(
                f"{what} hold {int(raw[wrong][0])}; {self.layout.name} has "
                f"{self.layout.first} to {last}, and {self.layout.void} for what is not scored"
            )
        return labels

    def pair(self, number: int) -> tuple[Image.Image, NDArray[np.int64]]:
        """Return an image and its labels, of the same size.

        Raises:
            ImageDataError: see `labels`; or their sizes differ.
        """
        image, labels = self.image(number), self.labels(number)
        if image.size != labels.shape[::-1]:
            name = self._what(self.files[number][0])
            raise ImageDataError(
                f"image {name} is {image.width}x{image.height}, its labels are "
                f"{labels.shape[1]}x{labels.shape[0]}"
            )
        return image, labels

    def describe(self) -> dict[str, Any]:
        """Return what a result's JSON says of the split."""
        return {
            "source": f"{self.source.path}:{self.folder}",
            "num_images": len(self),
            "fingerprint": self.fingerprint(),
        }

    def fingerprint(self) -> str:
        """Return the fingerprint over the images and their labels, by turns."""
        return fingerprint(
            (file.name.removeprefix(self.root), file.size, sha256_bytes(data))
            for pair in self.files
            for file in pair
            for data in [self.source.read(file)]
        )

    def _what(self, file: StoredFile) -> str:
        return f"{file.name.removeprefix(self.root)} of {self.source.path}"


def open_labeled_pixels(path: Path) -> tuple[LabeledPixels, LabeledPixels]:
    """List the training and test images of CamVid's or ADE20k's folders.

    Raises:
        ImageDataError: neither layout is there, a split is empty, or an image has no labels.
    """
    source = open_files(path)
    if isinstance(source, TarFiles):
        source.require_any_order()
    root = source.only_folder() and f"{source.only_folder()}/"
    for layout in LAYOUTS:
        if source.files(root + layout.train[1]):
            return (
                _split(source, root, layout, layout.train),
                _split(source, root, layout, layout.test),
            )
    known = "; ".join(f"{layout.name}: {', '.join(layout.train)}" for layout in LAYOUTS)
    raise ImageDataError(f"{path} has labels of no known layout ({known})")


def _split(source: Files, root: str, layout: Layout, folders: Pair) -> LabeledPixels:
    images, labels = (
        {
            file.name: file
            for file in source.files(root + folder)
            if PurePosixPath(file.name).parent == PurePosixPath(root + folder)
            and is_image(file.name)
        }
        for folder in folders
    )
    if not images:
        raise ImageDataError(f"{source.path} has no image in {folders[0]}")
    pairs: dict[str, tuple[StoredFile, StoredFile]] = {}
    for name, image in images.items():
        stem = PurePosixPath(name).stem
        if stem in pairs:
            raise ImageDataError(
                f"{source.path}: {pairs[stem][0].name} and {name} have the same labels; keep one"
            )
        wanted = f"{folders[1]}/{stem}.png"
        if root + wanted not in labels:
            raise ImageDataError(f"{source.path}: {name.removeprefix(root)} has no labels {wanted}")
        pairs[stem] = image, labels[root + wanted]
    return LabeledPixels(
        source, layout, folders[0], root, tuple(pairs[stem] for stem in sorted(pairs))
    )
