"""The files in a tar, as the folder that was packed has them: names, order, links.

A tar is read in place and never unpacked, so its names touch no file here; a link leads to what is
in the tar, or the tar is refused.
"""

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from training.data.image_files import (
    FolderFiles,
    Parts,
    StoredFile,
    bounded,
    count_visit,
    is_image,
    unchanged,
)
from wtours.errors import ImageDataError
from wtours.storage.tar_headers import TarMember, read_headers
from wtours.text import first_line

_MAX_LINKS = 40
"""That one name leads through, as on Linux."""


def open_files(path: Path) -> "Files":
    """Return the files of a folder or a tar.

    Raises:
        ImageDataError: there is neither.
    """
    if path.is_dir():
        return FolderFiles(path)
    if path.is_file():
        return TarFiles(path)
    raise ImageDataError(f"{path}: no such file or folder")


@dataclass(frozen=True)
class TarFiles:
    """The files in a tar, compressed or not; only one that is not can be read in any order.

    It is listed once, when that is first asked for.
    """

    path: Path

    def unlisted(self) -> "TarFiles":
        """Return the same files without their list, for another process to read."""
        return TarFiles(self.path)

    def only_folder(self) -> str:
        """Return the one folder that everything lies in, or nothing."""
        tops = {file.name.partition("/")[:2] for file in self._listed}
        name, slash = tops.pop() if len(tops) == 1 else ("", "")
        return name if slash else ""

    def files(self, under: str = "") -> list[StoredFile]:
        """Return the files below a folder of it, ordered by their names' parts.

        Raises:
            ImageDataError: it is no tar or was cut; an image is there twice, is too large, sparse,
                or a link to what is not in the tar; links go round without end.
        """
        prefix = "".join(f"{part}/" for part in _plain_parts(under))
        return [file for file in self._listed if file.name.startswith(prefix)]

    def require_any_order(self) -> None:
        """Refuse a compressed tar.

        Raises:
            ImageDataError: it is one, or cannot be read.
        """
        if self._unpacker is not None:
            raise ImageDataError(
                f"{self.path} is neither a folder nor an uncompressed tar, which can be read in "
                f"any order; unpack it, or store it as a plain .tar"
            )

    def read(self, file: StoredFile) -> bytes:
        """Return what is in a file, in any order.

        Raises:
            ImageDataError: it changed since it was listed, or the tar is compressed.
        """
        self.require_any_order()
        return next(self.read_all([file]))[1]

    def read_all(self, files: Sequence[StoredFile]) -> Iterator[tuple[StoredFile, bytes]]:
        """Yield each file and what is in it, from front to back."""
        with self._opened() as tar:
            place, data = -1, b""
            for file in sorted(files, key=lambda file: file.place):
                if file.place != place:  # else another link to the same bytes
                    tar.seek(file.place)
                    place, data = file.place, tar.read(file.size)
                yield file, unchanged(data, file, self.path)

    @cached_property
    def _listed(self) -> list[StoredFile]:
        tree = _Tree(self.path)
        with self._opened() as tar:
            for member in read_headers(tar):
                tree.place(member)
        return tree.files()

    @cached_property
    def _unpacker(self) -> type[gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile] | None:
        with self._read_errors(), self.path.open("rb") as file:
            start = file.read(6)
        for magic, unpacker in (
            (b"\x1f\x8b", gzip.GzipFile),
            (b"BZh", bz2.BZ2File),
            (b"\xfd7zXZ\0", lzma.LZMAFile),
        ):
            if start.startswith(magic):
                return unpacker
        return None

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        with self._read_errors():
            unpacker = self._unpacker
            if unpacker is None:
                with self.path.open("rb") as file:
                    yield file
            else:
                with unpacker(self.path) as unpacked:
                    yield cast(BinaryIO, unpacked)

    @contextmanager
    def _read_errors(self) -> Iterator[None]:
        try:
            yield
        except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            reason = first_line(error).rstrip(":")
            raise ImageDataError(f"{self.path} cannot be read as a tar ({reason})") from error


Files = FolderFiles | TarFiles
"""A folder, or the tar of one."""


@dataclass(frozen=True, slots=True)
class _Link:
    """A link in a tar: the name that it leads to (None: out of the tar), and for messages."""

    target: Parts | None
    text: str


@dataclass(frozen=True, slots=True)
class _Folder:
    entries: "dict[str, _Node]" = field(default_factory=dict)


_Node = _Folder | StoredFile | _Link


class _Tree:
    """The folders of a tar while it is listed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._root = _Folder()

    def place(self, member: TarMember) -> None:
        """Put a member where its name says."""
        *parents, name = _plain_parts(member.name) or ("",)
        if not name:  # the folder that was packed
            return
        whole, here = "/".join((*parents, name)), self._root
        for part in parents:
            below = here.entries.setdefault(part, _Folder())
            if not isinstance(below, _Folder):
                raise ImageDataError(f"{self._path}: {whole!r} lies below a file or a link")
            here = below
        node = _node(member, tuple(parents))
        earlier = here.entries.setdefault(name, node)
        if earlier is node or (isinstance(earlier, _Folder) and isinstance(node, _Folder)):
            return
        if is_image(name) or isinstance(earlier, _Folder) or isinstance(node, _Folder):
            raise ImageDataError(f"{self._path} has image {whole!r} more than once")
        here.entries[name] = node  # as unpacking it would

    def files(self) -> list[StoredFile]:
        """Return the visible files; a folder around everything may be hidden."""
        start, parts = self._root, Parts()
        if len(start.entries) == 1:
            ((name, only),) = start.entries.items()
            start, parts = (only, (name,)) if isinstance(only, _Folder) else (start, parts)
        found = self._walk(start, parts, (), Counter())
        return sorted(found, key=lambda file: file.name.split("/"))

    def _walk(
        self, folder: _Folder, parts: Parts, above: tuple[int, ...], visits: "Counter[int]"
    ) -> Iterator[StoredFile]:
        if id(folder) in above:  # a link to a folder that it lies in
            return
        count_visit(visits, id(folder), self._path.joinpath(*parts))
        for name, entry in folder.entries.items():
            if name.startswith("."):
                continue
            whole, node = "/".join((*parts, name)), self._resolved(entry)
            if isinstance(node, _Folder):
                yield from self._walk(node, (*parts, name), (*above, id(folder)), visits)
            elif isinstance(node, StoredFile):
                yield bounded(StoredFile(whole, node.size, node.place), self._path)
            elif isinstance(entry, _Link) and is_image(name):
                raise ImageDataError(
                    f"{self._path}: image {whole!r} is {entry.text}, which is not in the tar; "
                    f"pack it with --dereference"
                )

    def _resolved(self, node: _Node) -> _Node | None:
        if not isinstance(node, _Link):
            return node
        chain = None if node.target is None else self._follow(node.target, Counter(followed=1))
        return chain[-1] if chain else None

    def _follow(self, parts: Parts, links: "Counter[str]") -> list[_Node] | None:
        """Return the folders that a name leads through, and what it names; None: nothing."""
        chain: list[_Node] = [self._root]
        for part in parts:
            here = chain[-1]
            if part == "..":
                chain = chain[:-1]
            elif isinstance(here, _Folder) and part in here.entries:
                chain = [*chain, here.entries[part]]
            else:
                return None
            if not chain:
                return None
            if isinstance(link := chain[-1], _Link):
                links["followed"] += 1
                if link.target is None or links["followed"] > _MAX_LINKS:
                    return None
                found = self._follow(link.target, links)
                if found is None:
                    return None
                chain = found
        return chain


def _node(member: TarMember, parents: Parts) -> _Node:
    if member.kind == "folder":
        return _Folder()
    if member.kind == "file":
        return StoredFile("", member.size, member.offset)
    if member.kind == "other":
        return _Link(None, "a device or a sparse file")
    text = f"a link to {member.target!r}"
    if member.kind == "hard link":  # it names a member
        return _Link(_plain_parts(member.target), text)
    if member.target.startswith("/"):
        return _Link(None, text)
    return _Link((*parents, *PurePosixPath(member.target).parts), text)


def _plain_parts(name: str) -> Parts:
    """Return a name's folders and file, without what tar leaves out: "/", "./", up to "../"."""
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    last_up = max((place for place, part in enumerate(parts) if part == ".."), default=-1)
    return parts[last_up + 1 :]
