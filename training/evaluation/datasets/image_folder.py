"""Labeled images for evaluation: class folders, the same packed in a tar, or a saved dataset.

    DIR               DIR/<class>/<file>.jpg
    photos.tar        <class>/<file>.jpg, or <one folder>/<class>/<file>.jpg
    photos.tar:val    val/<class>/<file>.jpg, or <one folder>/val/<class>/<file>.jpg
    DIR               one split as `datasets.Dataset.save_to_disk` writes it

A folder and its tar give the same images in the same order.
"""

import itertools
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from training.data.image_files import SUFFIXES, StoredFile, fingerprint, is_image
from training.data.tar_files import Files, TarFiles, open_files
from training.distributed.collectives import gathered
from training.distributed.world import World
from training.evaluation.datasets.huggingface import SavedImages, is_saved_dataset
from wtours.errors import ImageDataError
from wtours.progress import Progress
from wtours.storage.hashing import sha256_bytes
from wtours.text import counted, listed

_READERS = min(8, os.cpu_count() or 1)

_OTHER_FORMATS = frozenset(
    {".bmp", ".gif", ".tif", ".tiff", ".heic", ".avif", ".jfif", ".jpe", ".jp2", ".ppm", ".pgm"}
)
"""Suffixes of images that are not read; a class with nothing else is refused, not left out."""


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """One labeled image: its name below the class folders' parent, and where it is."""

    name: str
    file: StoredFile

    @property
    def class_name(self) -> str:
        """Return the name of the folder that the image is in."""
        return self.name.partition("/")[0]


@dataclass(frozen=True)
class LabeledImages:
    """The images of one split, listed but not read."""

    spec: str
    """As the user wrote it."""
    source: Files | SavedImages
    """The folder, the tar or the saved dataset."""
    entries: tuple[ImageEntry, ...]
    """Ordered by class and file; of a saved dataset by row."""
    notes: tuple[str, ...] = ()
    """What a reader of a result must know about them, a line each."""

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes, sorted."""
        return tuple(sorted({entry.class_name for entry in self.entries}))

    def read(self) -> Iterator[tuple[ImageEntry, bytes]]:
        """Yield each image's entry and its encoded bytes, a tar from front to back.

        Raises:
            ImageDataError: an image or the tar changed or went away since it was listed.
        """
        by_name = {entry.file.name: entry for entry in self.entries}
        for file, data in self.source.read_all([entry.file for entry in self.entries]):
            yield by_name[file.name], data

    def fingerprint(self, world: World, on_progress: Progress) -> str:
        """Return what identifies the images; each rank reads its share of them."""
        entries = sorted(self.entries, key=lambda entry: entry.name)
        share = entries[world.rank :: world.world_size]

        def digest(entry: ImageEntry) -> str:
            return sha256_bytes(self.source.read(entry.file))

        digests = []
        with ThreadPoolExecutor(_READERS) as readers:
            for done, found in enumerate(readers.map(digest, share), start=1):
                digests.append(found)
                on_progress(f"reading {self.spec}", done, len(share))
        whole = [""] * len(entries)
        for rank, found_there in enumerate(gathered(digests)):
            whole[rank :: world.world_size] = found_there
        return fingerprint(
            (entry.name, entry.file.size, found)
            for entry, found in zip(entries, whole, strict=True)
        )

    def describe(self, fingerprint: str) -> dict[str, Any]:
        """Return what a result's JSON says about the split."""
        return {
            "source": self.spec,
            "num_images": len(self.entries),
            "num_classes": len(self.classes),
            "fingerprint": fingerprint,
        }


def open_images(spec: str) -> LabeledImages:
    """List the labeled images that `spec` names: DIR, TAR or TAR:prefix.

    Hidden files and files that are not named as JPEG, PNG or WebP are left out.

    Raises:
        ImageDataError: nothing is there, it is no tar, it has no image, an image lies outside a
            class folder or deeper than one, there is one class only, an image is too large or a
            link to nothing, or a class has images of other formats only.
    """
    path, prefix = _split_spec(spec)
    notes: tuple[str, ...] = ()
    source: Files | SavedImages
    if path.is_dir() and is_saved_dataset(path):
        source = SavedImages(path, spec)
        entries = [ImageEntry(file.name, file) for file in source.files()]
    else:
        source = open_files(path)
        files = source.files()
        if isinstance(source, TarFiles):
            prefix = _whole_prefix(prefix, files, spec)
        inside = "".join(f"{part}/" for part in prefix)
        below = [f for f in files if f.name.startswith(inside)]
        notes = _left_out([f.name.removeprefix(inside) for f in below], spec)
        entries = [_entry(f.name.removeprefix(inside), f, spec) for f in below if is_image(f.name)]
    images = LabeledImages(spec, source, tuple(entries), notes)
    if not entries:
        raise ImageDataError(f"{spec} has no JPEG, PNG or WebP image in class folders")
    if len(images.classes) == 1:
        raise ImageDataError(
            f"{spec} has one class folder only, {images.classes[0]!r}; two or more are needed"
        )
    return images


def require_known_classes(train: LabeledImages, val: LabeledImages) -> None:
    """Refuse validation images of a class that has no training image.

    Raises:
        ImageDataError: see above; the message names the classes.
    """
    unknown = sorted(set(val.classes) - set(train.classes))
    if unknown:
        raise ImageDataError(
            f"{val.spec} has classes that {train.spec} has no image of: {listed(unknown, most=5)}"
        )


def _split_spec(spec: str) -> tuple[Path, tuple[str, ...]]:
    path = Path(spec)
    if path.exists():
        return path, ()
    before, colon, prefix = spec.rpartition(":")
    if colon and Path(before).is_file():
        return Path(before), PurePosixPath(prefix).parts
    raise ImageDataError(f"{spec}: no such file or folder; give DIR, TAR or TAR:prefix")


def _whole_prefix(
    prefix: tuple[str, ...], files: Sequence[StoredFile], spec: str
) -> tuple[str, ...]:
    """Return the folders in a tar above the class folders.

    A folder that everything in the tar lies in need not be given: `tar cf x.tar folder` makes one.
    """
    names = [tuple(file.name.split("/")) for file in files if is_image(file.name)]
    # The folders that all files lie in, above the class folders.
    pairs = zip(min(names, default=())[:-2], max(names, default=())[:-2], strict=False)
    shared = itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)
    for whole in (prefix, (*(folder for folder, _ in shared), *prefix)):
        found = [name for name in names if name[: len(whole)] == whole]
        if found and all(len(name) <= len(whole) + 2 for name in found):
            return whole
    parents = sorted({"/".join(name[:-2]) for name in names} - {""})
    hint = f"; TAR:prefix may say where: {listed(parents, most=5)}" if parents else ""
    raise ImageDataError(f"{spec} has no class folders of images directly there{hint}")


def _entry(name: str, file: StoredFile, spec: str) -> ImageEntry:
    depth = name.count("/")
    if depth == 0:
        raise ImageDataError(f"{spec}: image {name!r} lies in no class folder")
    if depth > 1:
        raise ImageDataError(
            f"{spec}: image {name!r} lies deeper than class/file; "
            f"name the folder directly above the class folders"
        )
    return ImageEntry(name, file)


def _left_out(names: Sequence[str], spec: str) -> tuple[str, ...]:
    """Return a note on images of other formats; refuse a class that has no others."""
    suffixes = defaultdict[str, Counter[str]](Counter)
    for name in names:
        class_name, slash, file = name.partition("/")
        if slash and "/" not in file:
            suffixes[class_name][PurePosixPath(file).suffix.lower()] += 1
    others = Counter[str]()
    for class_name, found in sorted(suffixes.items()):
        here = Counter({each: count for each, count in found.items() if each in _OTHER_FORMATS})
        if here and not found.keys() & SUFFIXES:
            raise ImageDataError(
                f"{spec}: class {class_name!r} has no JPEG, PNG or WebP, only "
                f"{listed(sorted(here), most=5)}; convert its images, or remove its folder"
            )
        others += here
    if not others:
        return ()
    images = counted(others.total(), "image is", "images are")
    return (f"{spec}: {images} left out ({listed(sorted(others), most=5)})",)
