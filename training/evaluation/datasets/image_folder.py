"""Labeled images for evaluation: class folders, the same packed in a tar, or a saved dataset.

    DIR               DIR/<class>/<file>.jpg
    photos.tar        <class>/<file>.jpg, or <one folder>/<class>/<file>.jpg
    photos.tar:val    val/<class>/<file>.jpg, or <one folder>/val/<class>/<file>.jpg
    DIR               one split as `datasets.Dataset.save_to_disk` writes it

A tar is read from front to back and never unpacked, so its names touch no file here.
"""

import lzma
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from training.data.image_files import (
    MAX_IMAGE_BYTES,
    is_image,
    plain_members,
    read_file,
    regular_members,
)
from training.evaluation.datasets.huggingface import SavedImages, is_saved_dataset
from wtours.errors import ImageDataError

Parts = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """One labeled image: its name below the class folders' parent, and its size when encoded."""

    name: str
    num_bytes: int

    @property
    def class_name(self) -> str:
        """Return the name of the folder that the image is in."""
        return self.name.partition("/")[0]


@dataclass(frozen=True)
class LabeledImages:
    """The images of one split, listed but not read.

    Attributes:
        spec: As the user wrote it.
        path: The folder, the tar or the saved dataset.
        prefix: Folders inside the tar above the class folders.
        entries: In the order in which `read` gives them.
    """

    spec: str
    path: Path
    prefix: Parts
    entries: tuple[ImageEntry, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes, sorted."""
        return tuple(sorted({entry.class_name for entry in self.entries}))

    def read(self) -> Iterator[tuple[ImageEntry, bytes]]:
        """Yield each image's entry and its encoded bytes.

        Raises:
            ImageDataError: an image or the tar changed or went away since it was listed.
        """
        if self.path.is_dir():
            for entry in self.entries:
                yield entry, self.read_one(entry)
        else:
            yield from self._read_tar()

    def read_one(self, entry: ImageEntry) -> bytes:
        """Return the encoded bytes of one image, in any order; a tar must not be compressed.

        Raises:
            ImageDataError: as of `read`, or the tar is compressed.
        """
        if self._saved is not None:
            return self._saved.read_row(int(entry.name.rpartition("/")[2]))
        if self.path.is_dir():
            return read_file(self.path / entry.name)
        with self.path.open("rb") as file:
            file.seek(self._offsets[entry.name])
            return file.read(entry.num_bytes)

    @cached_property
    def _saved(self) -> SavedImages | None:
        is_saved = self.path.is_dir() and is_saved_dataset(self.path)
        return SavedImages(self.path, self.spec) if is_saved else None

    @cached_property
    def _offsets(self) -> dict[str, int]:
        """Return where each image begins in the tar."""
        depth = len(self.prefix)
        return {
            "/".join(PurePosixPath(name).parts[depth:]): offset
            for name, offset, _ in plain_members(self.path)
            if is_image(name)
        }

    def _read_tar(self) -> Iterator[tuple[ImageEntry, bytes]]:
        wanted = {self.prefix + tuple(entry.name.split("/")): entry for entry in self.entries}
        with _open_tar(self.path) as tar:
            for parts, member in _members(tar):
                entry = wanted.pop(parts, None)
                if entry is None:
                    continue
                file = tar.extractfile(member)
                data = file.read() if file else b""
                if len(data) != entry.num_bytes:
                    raise ImageDataError(f"{self.path}: {member.name!r} is cut short")
                yield entry, data
        if wanted:
            raise ImageDataError(f"{self.path} changed while it was read; run the command again")


def open_images(spec: str) -> LabeledImages:
    """List the labeled images that `spec` names: DIR, TAR or TAR:prefix.

    Hidden files and files that are not named as JPEG, PNG or WebP are left out.

    Raises:
        ImageDataError: nothing is there, it is no tar, it has no image, an image lies outside a
            class folder or deeper than one, there is one class only, or an image is too large.
    """
    path, prefix = _split_spec(spec)
    if path.is_dir() and is_saved_dataset(path):
        rows = SavedImages(path, spec).names_and_sizes()
        files: list[tuple[Parts, int]] = [((label, name), size) for label, name, size in rows]
    elif path.is_dir():
        files = list(_folder_files(path))
    else:
        files, prefix = _below(prefix, list(_tar_files(path)), spec)
    entries = [_entry(parts, size, spec) for parts, size in files]
    images = LabeledImages(spec, path, prefix, tuple(entries))
    _check(images)
    return images


def require_known_classes(train: LabeledImages, val: LabeledImages) -> None:
    """Refuse validation images of a class that has no training image.

    Raises:
        ImageDataError: see above; the message names the classes.
    """
    unknown = sorted(set(val.classes) - set(train.classes))
    if unknown:
        raise ImageDataError(
            f"{val.spec} has classes that {train.spec} has no image of: {_some(unknown)}"
        )


def _split_spec(spec: str) -> tuple[Path, Parts]:
    path = Path(spec)
    if path.exists():
        return path, ()
    before, colon, prefix = spec.rpartition(":")
    if colon and Path(before).is_file():
        return Path(before), PurePosixPath(prefix).parts
    raise ImageDataError(f"{spec}: no such file or folder; give DIR, TAR or TAR:prefix")


def _folder_files(root: Path) -> Iterator[tuple[Parts, int]]:
    for folder in sorted(root.iterdir()):
        if folder.is_file() and is_image(folder.name):
            yield (folder.name,), folder.stat().st_size
        if not folder.is_dir() or folder.name.startswith("."):
            continue
        for file in sorted(folder.iterdir()):
            if file.is_dir() and not file.name.startswith("."):
                yield from _first_image_below(file, root)
            elif file.is_file() and is_image(file.name):
                yield (folder.name, file.name), file.stat().st_size


def _first_image_below(folder: Path, root: Path) -> Iterator[tuple[Parts, int]]:
    """Yield one image that lies too deep, if there is one: enough to refuse the folder."""
    for file in folder.rglob("*"):
        if file.is_file() and is_image(file.name):
            yield file.relative_to(root).parts, file.stat().st_size
            return


def _tar_files(path: Path) -> Iterator[tuple[Parts, int]]:
    with _open_tar(path) as tar:
        for parts, member in _members(tar):
            yield parts, member.size


def _members(tar: tarfile.TarFile) -> Iterator[tuple[Parts, tarfile.TarInfo]]:
    for member in regular_members(tar):
        if is_image(member.name):
            yield PurePosixPath(member.name).parts, member


@contextmanager
def _open_tar(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(path, "r:*") as tar:
            yield tar
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        reason = str(error).partition("\n")[0].rstrip(":")
        raise ImageDataError(f"{path} cannot be read as a tar ({reason})") from error


def _below(
    prefix: Parts, files: list[tuple[Parts, int]], spec: str
) -> tuple[list[tuple[Parts, int]], Parts]:
    """Return the files below the prefix, named from there, and the whole prefix.

    A folder that everything in the tar lies in need not be given: `tar cf x.tar folder` makes one.
    """
    shared = _shared_folders([parts for parts, _ in files])
    for whole in (prefix, shared + prefix):
        found = [(p[len(whole) :], size) for p, size in files if p[: len(whole)] == whole]
        if found and all(len(parts) <= 2 for parts, _ in found):
            return found, whole
    parents = sorted({"/".join(parts[:-2]) for parts, _ in files} - {""})
    hint = f"; TAR:prefix may say where: {_some(parents)}" if parents else ""
    raise ImageDataError(f"{spec} has no class folders of images directly there{hint}")


def _shared_folders(names: list[Parts]) -> Parts:
    """Return the folders that all files lie in, above the class folders."""
    first, last = min(names, default=()), max(names, default=())
    folders = min(len(first), len(last)) - 2
    shared = 0
    while shared < folders and first[shared] == last[shared]:
        shared += 1
    return first[:shared]


def _entry(parts: Parts, num_bytes: int, spec: str) -> ImageEntry:
    name = "/".join(parts)
    if len(parts) == 1:
        raise ImageDataError(f"{spec}: image {name!r} lies in no class folder")
    if len(parts) > 2:
        raise ImageDataError(
            f"{spec}: image {name!r} lies deeper than class/file; "
            f"name the folder directly above the class folders"
        )
    if num_bytes > MAX_IMAGE_BYTES:
        raise ImageDataError(f"{spec}: image {name!r} has more than {MAX_IMAGE_BYTES} bytes")
    return ImageEntry(name, num_bytes)


def _check(images: LabeledImages) -> None:
    spec, names = images.spec, [entry.name for entry in images.entries]
    if not names:
        raise ImageDataError(f"{spec} has no JPEG, PNG or WebP image in class folders")
    if len(images.classes) == 1:
        raise ImageDataError(
            f"{spec} has one class folder only, {images.classes[0]!r}; two or more are needed"
        )
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise ImageDataError(f"{spec} has image {name!r} {count} times")


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
