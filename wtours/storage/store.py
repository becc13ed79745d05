"""Objects by name in a folder or an object store: whole or absent, and one winner for each name.

An object store has no rename and no lock, so the commit rule rests on one thing there: `create`
publishes a whole object under a name that is free, and of several that try at once one succeeds.
Data first, the receipt last: who loses reads what is there and compares (`publish`).
"""

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from wtours.errors import ConflictError, StorageError
from wtours.storage.atomic import TEMP_PREFIX, atomic_path, fsync, fsync_tree, remove
from wtours.storage.hashing import sha256_bytes, sha256_file
from wtours.storage.os_errors import explain_os_errors

_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]+)://", re.IGNORECASE)
_OF_THIS_DISK = ("file", "local")
_COLLAPSED = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]+):/+(?P<rest>[^/].*)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What a listing says of one object."""

    key: str
    """Relative to the store's URL, "/" between its parts."""
    bytes: int
    version: str
    """Another one after each change (an ETag, a generation); "": the store has none."""


class Store(Protocol):
    """A place for objects. Every method raises `StorageError`, which names the object."""

    url: str
    """As messages show it: a URL, or the path of a folder."""

    def stat(self, key: str) -> StoredObject | None:
        """Return what is known of an object; None: there is none."""
        ...

    def list(self, folder: str = "") -> Iterator[StoredObject]:
        """Yield every object below a folder, by key; asked of the store anew each time."""
        ...

    def get(self, key: str) -> bytes:
        """Return a small object."""
        ...

    def fetch(self, key: str, path: Path) -> None:
        """Publish a copy of an object as the local file `path`."""
        ...

    def create(self, key: str, content: bytes | Path, *, sha256: str | None = None) -> bool:
        """Publish an object under a free name; return False, and change nothing, if it is taken.

        Args:
            content: Its bytes, or the file that has them.
            sha256: Recorded with the object where the store can; `sha256` then need not read it.
        """
        ...

    def replace(self, key: str, content: bytes | Path, version: str) -> bool:
        """Publish other bytes in place of the version that was seen; False: it is another one."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""
        ...

    def sha256(self, key: str, *, is_read: bool = False) -> str:
        """Return the digest of an object's bytes.

        Args:
            is_read: Read them, also where the store has recorded the digest.
        """
        ...


def as_location(place: str | Path) -> Path | str:
    """Return the path of a local folder, or the URL of one elsewhere without its last "/".

    A path that was made of a URL has lost a slash ("s3:/bucket"); it is given back.
    """
    text = str(place)
    match = _URL.match(text)
    if match is None and (collapsed := _COLLAPSED.fullmatch(text)) and not Path(text).exists():
        slashes = ":///" if collapsed["scheme"].lower() in _OF_THIS_DISK else "://"
        text = f"{collapsed['scheme']}{slashes}{collapsed['rest']}"
        match = _URL.match(text)
    if match is None:
        return Path(text)
    if match["scheme"].lower() in _OF_THIS_DISK:
        return Path(text[match.end() :])
    return text.rstrip("/")


def is_url(text: str) -> bool:
    """Return whether this is the URL of something that is not on this machine's disks."""
    return isinstance(as_location(text), str)


def publish(
    store: Store, key: str, content: bytes | Path, *, sha256: str | None = None
) -> Literal["created", "equal"]:
    """Create an object, or find that it is there with the same bytes.

    So it may be called again after a run was killed, or an answer lost.

    Raises:
        ConflictError: there is one with other bytes.
        StorageError: the store cannot be written.
    """
    if store.create(key, content, sha256=sha256):
        return "created"
    ours = sha256 or (sha256_bytes(content) if isinstance(content, bytes) else sha256_file(content))
    theirs = store.sha256(key)
    if theirs != ours:
        raise ConflictError(
            f"{store.url}/{key} is there with other bytes (sha256 {theirs[:12]}…) than ours "
            f"({ours[:12]}…); nothing was overwritten: remove it if it is not wanted, or choose "
            f"another name, then run the command again"
        )
    return "equal"


class LocalStore:
    """A folder on a disk, with the fsync rule of `wtours.storage.atomic`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = str(folder)

    def stat(self, key: str) -> StoredObject | None:
        """Return size and version of a file; see `Store`."""
        path = self.folder / key
        with explain_os_errors(path):
            try:
                found = path.stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
        return StoredObject(key, found.st_size, f"{found.st_mtime_ns}-{found.st_ino}")

    def list(self, folder: str = "") -> Iterator[StoredObject]:
        """Yield the files below a folder; see `Store`. Temporary ones are none."""
        top = self.folder / folder
        with explain_os_errors(top):
            paths = sorted(p for p in top.rglob("*") if p.is_file())
        for path in paths:
            inside = path.relative_to(self.folder)
            if not any(part.startswith(TEMP_PREFIX) for part in inside.parts):
                found = self.stat(inside.as_posix())
                if found is not None:
                    yield found

    def get(self, key: str) -> bytes:
        """Return a file's bytes; see `Store`."""
        path = self.folder / key
        try:
            with explain_os_errors(path):
                return path.read_bytes()
        except FileNotFoundError as error:
            raise StorageError(f"{path} is missing") from error

    def fetch(self, key: str, path: Path) -> None:
        """Publish a copy of a file; see `Store`."""
        source = self.folder / key
        try:
            with atomic_path(path) as temp:
                _copy(source, temp)
        except FileNotFoundError as error:
            raise StorageError(f"{source} is missing") from error

    def create(self, key: str, content: bytes | Path, *, sha256: str | None = None) -> bool:
        """Publish a file under a free name; see `Store`.

        `os.link` and not a rename: of several that publish at once one wins.
        """
        path = self.folder / key
        if path.exists():
            return False
        temp = path.with_name(f"{TEMP_PREFIX}{os.getpid()}-{os.urandom(4).hex()}-{path.name}")
        try:
            with explain_os_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                _write(content, temp)
                fsync_tree(temp)
                try:
                    os.link(temp, path)
                except FileExistsError:
                    return False
                except OSError:  # exFAT and some network drives have no hard links
                    temp.replace(path)
                fsync(path.parent)
            return True
        finally:
            with contextlib.suppress(OSError):
                remove(temp)

    def replace(self, key: str, content: bytes | Path, version: str) -> bool:
        """Publish other bytes in a file's place; see `Store`. Locks keep others out meanwhile."""
        found = self.stat(key)
        if found is None or found.version != version:
            return False
        with atomic_path(self.folder / key) as temp:
            _write(content, temp)
        return True

    def delete(self, key: str) -> None:
        """Remove a file; see `Store`."""
        path = self.folder / key
        with explain_os_errors(path):
            path.unlink(missing_ok=True)

    def sha256(self, key: str, *, is_read: bool = False) -> str:
        """Return a file's digest; see `Store`."""
        path = self.folder / key
        try:
            with explain_os_errors(path):
                return sha256_file(path)
        except FileNotFoundError as error:
            raise StorageError(f"{path} is missing") from error


def _write(content: bytes | Path, path: Path) -> None:
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        _copy(content, path)


def _copy(source: Path, path: Path) -> None:
    with source.open("rb") as read, path.open("wb") as written:
        while block := read.read(2**22):
            written.write(block)
