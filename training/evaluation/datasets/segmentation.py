"""Images with a label for each pixel: CamVid's and ADE20k's folders, or the same in a tar.

    CAMVID/{train,test}/<name>.png         CAMVID/{trainannot,testannot}/<name>.png
    ADE20K/images/{training,validation}/   ADE20K/annotations/{training,validation}/

CamVid is in its form with 11 classes: a label is 0 to 10, and 11 is not scored. ADE20k is the scene
parsing benchmark's: a label is 1 to 150, and 0 is not scored. An image and its labels have the same
name but for the suffix.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.data.image_decoding import decode_image, decode_rgb
from training.data.image_files import MAX_IMAGE_BYTES, is_image, plain_members
from wtours.errors import ImageDataError

VOID = -1
"""What a pixel that is not scored is read as."""


@dataclass(frozen=True)
class Layout:
    """How a data set names its folders and its labels.

    Attributes:
        name: Of the data set.
        train: Folder of the training images, and of their labels.
        test: The same of the images that are scored.
        num_classes: Classes that are scored.
        first: The label of the first class; the others follow.
        void: The label of what is not scored.
    """

    name: str
    train: tuple[str, str]
    test: tuple[str, str]
    num_classes: int
    first: int
    void: int


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
    """One split: images and their labels, listed but not read.

    Attributes:
        source: The folder or the tar.
        layout: What its labels mean.
        folder: Of its images, in the source.
        files: (image, labels) by name, sorted; names are below `source`.
    """

    source: "Files"
    layout: Layout
    folder: str
    files: tuple[tuple[str, str], ...]

    def __len__(self) -> int:
        return len(self.files)

    def image(self, number: int) -> Image.Image:
        """Return an image, RGB."""
        name = self.files[number][0]
        return decode_rgb(self.source.read(name), what=self.source.what(name))

    def labels(self, number: int) -> NDArray[np.int64]:
        """Return the labels of an image, (H, W), 0 to num_classes - 1 or `VOID`.

        Raises:
            ImageDataError: they do not decode, or one is out of range.
        """
        name = self.files[number][1]
        what = f"labels {self.source.what(name)}"
        picture = decode_image(self.source.read(name), what=what)
        if picture.mode not in ("L", "P", "I;16", "I"):
            raise ImageDataError(
                f"{what} are a picture of mode {picture.mode}, not one number for each pixel"
            )
        raw = np.asarray(picture).astype(np.int64)
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
            name = self.source.what(self.files[number][0])
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
        """Return the sha256 over the names, sizes and sha256 of images and labels."""
        whole = hashlib.sha256()
        for names in self.files:
            for name in names:
                data = self.source.read(name)
                whole.update(f"{name}\0{len(data)}\0{hashlib.sha256(data).hexdigest()}\n".encode())
        return whole.hexdigest()


class Files:
    """The files of a folder or of an uncompressed tar, by name.

    Args:
        path: The folder or the tar. A folder around everything in it need not be named.

    Raises:
        ImageDataError: it is neither.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._members: dict[str, tuple[int, int]] | None = None  # offset and size in the tar
        if path.is_file():
            self._members = {
                str(PurePosixPath(name)): (offset, size)
                for name, offset, size in plain_members(path)
            }
        elif not path.is_dir():
            raise ImageDataError(f"{path}: no such file or folder")
        self.root = self._root()

    def names(self, folder: str) -> list[str]:
        """Return the names of the files directly in a folder, sorted; none if it is not there."""
        if self._members is None:
            directory = self.path / self.root / folder
            found = directory.iterdir() if directory.is_dir() else iter(())
            return sorted(f"{folder}/{file.name}" for file in found if file.is_file())
        parent = str(PurePosixPath(self.root, folder))
        return sorted(
            f"{folder}/{PurePosixPath(name).name}"
            for name in self._members
            if str(PurePosixPath(name).parent) == parent
        )

    def read(self, name: str) -> bytes:
        """Return what is in a file.

        Raises:
            ImageDataError: it cannot be read, or is larger than any image.
        """
        try:
            if self._members is None:
                with (self.path / self.root / name).open("rb") as file:
                    data = file.read(MAX_IMAGE_BYTES + 1)
            else:
                offset, size = self._members[str(PurePosixPath(self.root, name))]
                with self.path.open("rb") as file:
                    file.seek(offset)
                    data = file.read(min(size, MAX_IMAGE_BYTES + 1))
        except OSError as error:
            raise ImageDataError(f"{self.what(name)} cannot be read ({error.strerror})") from error
        if len(data) > MAX_IMAGE_BYTES:
            raise ImageDataError(f"{self.what(name)} has more than {MAX_IMAGE_BYTES} bytes")
        return data

    def what(self, name: str) -> str:
        """Return how messages name a file."""
        return f"{name} of {self.path}"

    def _root(self) -> str:
        """Return the one folder that everything lies in, or nothing."""
        if self._members is None:
            inside = [entry for entry in self.path.iterdir() if not entry.name.startswith(".")]
            return inside[0].name if len(inside) == 1 and inside[0].is_dir() else ""
        tops = {PurePosixPath(name).parts[0] for name in self._members}
        return tops.pop() if len(tops) == 1 else ""


def open_labeled_pixels(path: Path) -> tuple[LabeledPixels, LabeledPixels]:
    """List the training and test images of CamVid's or ADE20k's folders.

    Raises:
        ImageDataError: neither layout is there, a split is empty, or an image has no labels.
    """
    files = Files(path)
    for layout in LAYOUTS:
        if files.names(layout.train[1]):
            return _split(files, layout, layout.train), _split(files, layout, layout.test)
    known = "; ".join(f"{layout.name}: {', '.join(layout.train)}" for layout in LAYOUTS)
    raise ImageDataError(f"{path} has labels of no known layout ({known})")


def _split(files: Files, layout: Layout, folders: tuple[str, str]) -> LabeledPixels:
    images = {_stem(name): name for name in files.names(folders[0]) if is_image(name)}
    labels = {_stem(name): name for name in files.names(folders[1]) if name.endswith(".png")}
    if not images:
        raise ImageDataError(f"{files.path} has no image in {folders[0]}")
    missing = sorted(set(images) - set(labels))
    if missing:
        raise ImageDataError(
            f"{files.path}: {images[missing[0]]} has no labels {folders[1]}/{missing[0]}.png"
        )
    pairs = tuple((images[stem], labels[stem]) for stem in sorted(images))
    return LabeledPixels(files, layout, folders[0], pairs)


def _stem(name: str) -> str:
    return PurePosixPath(name).stem
