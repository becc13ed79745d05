"""Files of images: which are taken for one, and those of a folder.

`training.data.tar_files` gives a tar of a folder the same names in the same order. Hidden files and
folders are left out; links are followed.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from wtours.errors import ImageDataError
from wtours.storage.hashing import sha256_bytes

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
MAX_IMAGE_BYTES = 64 * 2**20
"""No encoded image is larger; a size above it is refused before anything is read."""
_LONGEST_NAME = 255 - len(".jpeg")
"""In bytes, of a name in a list: file systems take 255 with the suffix."""
_MAX_VISITS = 1000
"""Of one folder, by different links: else a few links to folders would make names without end."""

Parts = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of a source."""

    name: str
    """Its whole name there, below the folder or in the tar."""
    size: int
    """In bytes; -1: not known before it is read."""
    place: int = 0
    """Where it is: the byte in a tar, the row of a saved dataset."""


def is_image(name: str) -> bool:
    """Return whether a file, with or without its folders, is named as an image and not hidden."""
    file = PurePosixPath(name)
    return not file.name.startswith(".") and file.suffix.lower() in SUFFIXES


def read_file(path: Path) -> bytes:
    """Return what is in a file.

    Raises:
        ImageDataError: it cannot be read, or is larger than an image may be.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_IMAGE_BYTES + 1)
    except OSError as error:
        raise ImageDataError(f"{path} cannot be read ({error.strerror})") from error
    if len(data) > MAX_IMAGE_BYTES:
        raise ImageDataError(f"{path} has more than {MAX_IMAGE_BYTES} bytes")
    return data


def read_names(path: Path) -> list[str]:
    """Return the names in a list of a data set, the first word of each line.

    Raises:
        ImageDataError: it cannot be read, is empty, or has what is no name: files are read and
            written under them.
    """
    text = read_file(path).decode("utf-8", "replace")
    names = [line.split()[0] for line in text.splitlines() if line.strip()]
    if not names:
        raise ImageDataError(f"{path} is empty")
    for name in names:
        # Longer ones make `Path.glob` and `Path.is_file` raise, where "missing" would be said.
        too_long = len(os.fsencode(name)) > _LONGEST_NAME
        if too_long or "/" in name or name.startswith(".") or not name.isprintable():
            raise ImageDataError(
                f"{path} has {name[:100]!r}, which is not the name of an image or video"
            )
    return names


def fingerprint(rows: Iterable[Iterable[str | int]]) -> str:
    """Return the sha256 over a line for each file: name, bytes and, where known, its sha256."""
    whole = hashlib.sha256()
    for row in rows:
        line = "\0".join(map(str, row)) + "\n"
        whole.update(line.encode("utf-8", "surrogateescape"))
    return whole.hexdigest()


class FilesSeen(dict[str, tuple[int, str]]):
    """Size and sha256 of files that were read, by name."""

    def add(self, files: Mapping[str, bytes]) -> None:
        """Count these files in."""
        self.update((name, (len(data), sha256_bytes(data))) for name, data in files.items())

    def fingerprint(self) -> str:
        """Return the fingerprint of all files so far, sorted by name."""
        return fingerprint((name, *facts) for name, facts in sorted(self.items()))


@dataclass(frozen=True)
class FolderFiles:
    """The files below a folder."""

    path: Path

    def unlisted(self) -> "FolderFiles":
        """Return the same files, for another process to read."""
        return self

    def only_folder(self) -> str:
        """Return the one folder that everything lies in, or nothing."""
        inside = [entry for entry in self.path.iterdir() if not entry.name.startswith(".")]
        return inside[0].name if len(inside) == 1 and inside[0].is_dir() else ""

    def files(self, under: str = "") -> list[StoredFile]:
        """Return the files below a folder of it, ordered by their names' parts.

        Raises:
            ImageDataError: an image is a link to nothing, or too large; links go round without end.
        """
        if not (self.path / under).is_dir():
            return []
        found = list(self._walk(PurePosixPath(under).parts, (), Counter()))
        return sorted(found, key=lambda file: file.name.split("/"))

    def read(self, file: StoredFile) -> bytes:
        """Return what is in a file, in any order.

        Raises:
            ImageDataError: it cannot be read, or changed since it was listed.
        """
        data = read_file(self.path / file.name)
        return unchanged(data, file, self.path)

    def read_all(self, files: Sequence[StoredFile]) -> Iterator[tuple[StoredFile, bytes]]:
        """Yield each file and what is in it."""
        return ((file, self.read(file)) for file in files)

    def _walk(
        self, parts: Parts, above: tuple[tuple[int, int], ...], visits: "Counter[Any]"
    ) -> Iterator[StoredFile]:
        folder = self.path.joinpath(*parts)
        try:
            facts = folder.stat()
            here = facts.st_dev, facts.st_ino
            if here in above:  # a link to a folder that it lies in
                return
            count_visit(visits, here, folder)
            with os.scandir(folder) as scanned:
                entries = list(scanned)
        except OSError as error:
            raise ImageDataError(f"{folder} cannot be read ({error.strerror})") from error
        for entry in entries:
            name = "/".join((*parts, entry.name))
            if entry.name.startswith("."):
                continue
            # pathlib takes a link to itself for nothing, DirEntry raises.
            if Path(entry).is_dir() if entry.is_symlink() else entry.is_dir():
                yield from self._walk((*parts, entry.name), (*above, here), visits)
            elif Path(entry).is_file() if entry.is_symlink() else entry.is_file():
                yield bounded(StoredFile(name, entry.stat().st_size), self.path)
            elif entry.is_symlink() and is_image(entry.name):
                raise ImageDataError(f"{self.path}: image {name!r} is a link to nothing")


def bounded(file: StoredFile, source: Path) -> StoredFile:
    """Return a file, unless it is an image that is too large."""
    if file.size > MAX_IMAGE_BYTES and is_image(file.name):
        raise ImageDataError(f"{source}: image {file.name!r} has more than {MAX_IMAGE_BYTES} bytes")
    return file


def unchanged(data: bytes, file: StoredFile, source: Path) -> bytes:
    """Return what was read of a file, if it has the bytes that were listed."""
    if len(data) != file.size:
        raise ImageDataError(
            f"{file.name} of {source} changed while it was read; run the command again"
        )
    return data


def count_visit(visits: "Counter[Any]", folder: Any, name: Path) -> None:
    """Count that a folder is listed once more, and refuse links that multiply."""
    visits[folder] += 1
    if visits[folder] > _MAX_VISITS:
        raise ImageDataError(f"{name}: links lead to the same folder more than {_MAX_VISITS} times")
