"""An object store behind fsspec: s3://, gs://, az:// and others that publish by put-if-absent.

Objects are written by `pipe_file` and `put_file` in the mode "create" alone. A block
`with fs.open(path, "wb")` publishes half an object under the final name when it is left by an
exception (fsspec/s3fs#154).
"""

import hashlib
import secrets
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from wtours.errors import StorageError
from wtours.storage.atomic import TEMP_PREFIX, atomic_path
from wtours.storage.os_errors import explain_os_errors
from wtours.storage.remote_calls import (
    ObjectMissingError,
    PreconditionError,
    call,
    open_file_system,
    read_range,
    shown,
)
from wtours.storage.store import LocalStore, Store, StoredObject, as_location

T = TypeVar("T")
_ATTEMPTS = 6
"""Of a request that fails in a way that may pass."""
_BLOCK_BYTES = 16 * 2**20
_WHOLE_BYTES = 64 * 2**20
"""A file up to this is sent from memory by one request."""
_SHA256 = "sha256"
_VERSION_FIELDS = ("ETag", "etag", "generation", "created", "mtime", "Last-Modified")
_PROBE_FOLDER = ".wtours-probe"


class ObjectStore:
    """The objects below a URL; may be pickled, and used in a forked process.

    Args:
        url: Of any protocol that fsspec knows.
    """

    def __init__(self, url: str) -> None:
        self.url = shown(url).rstrip("/")
        self._is_probed = False

    def stat(self, key: str) -> StoredObject | None:
        """Return size and version of an object; see `Store`."""
        try:
            info = self._call(key, lambda fs, path: fs.info(path))
        except ObjectMissingError:
            return None
        return None if info.get("type") == "directory" else _stored(key, info)

    def list(self, folder: str = "") -> Iterator[StoredObject]:
        """Yield every object below a folder; see `Store`."""
        _, root = self._open("")

        def ask(fs: Any, path: str) -> dict[str, dict[str, Any]]:
            fs.invalidate_cache()
            return fs.find(path, detail=True)  # type: ignore[no-any-return]

        try:
            found = self._call(folder, ask)
        except ObjectMissingError:
            return
        for path in sorted(found):
            key = path.removeprefix(root).strip("/")
            if key and found[path].get("type") != "directory" and not path.endswith("/"):
                yield _stored(key, found[path])

    def get(self, key: str) -> bytes:
        """Return a small object; see `Store`."""
        return self._call(key, lambda fs, path: fs.cat_file(path))  # type: ignore[no-any-return]

    def fetch(self, key: str, path: Path) -> None:
        """Publish a copy of an object as a local file; see `Store`."""
        found = self.stat(key)
        if found is None:
            raise ObjectMissingError(f"{self.url}/{key} is missing")
        with atomic_path(path) as temp, temp.open("wb") as file:
            for block in self._blocks(key, found.bytes):
                file.write(block)

    def fetch_listed(self, found: StoredObject, path: Path) -> str:
        """Copy an object of a listing to a file that can be fetched again; return its sha256.

        By one request, and not synced to the disk: receipts come by the hundred thousand.
        """
        digest = hashlib.sha256()
        path.parent.mkdir(parents=True, exist_ok=True)
        temp = path.with_name(f"{TEMP_PREFIX}{secrets.token_hex(8)}")
        try:
            with explain_os_errors(path), temp.open("wb") as file:
                for block in self._blocks(found.key, found.bytes):
                    digest.update(block)
                    file.write(block)
            temp.replace(path)
        finally:
            temp.unlink(missing_ok=True)
        return digest.hexdigest()

    def create(self, key: str, content: bytes | Path, *, sha256: str | None = None) -> bool:
        """Publish an object under a free name; see `Store`."""
        self.require_put_if_absent()
        return self._create(key, content, sha256)

    def _create(self, key: str, content: bytes | Path, sha256: str | None = None) -> bool:
        try:
            self._call(key, lambda fs, path: self._put(fs, path, content, "create", sha256))
        except (FileExistsError, PreconditionError):
            return False
        except ObjectMissingError as error:
            raise StorageError(
                f"{self.url} cannot be written: there is no such bucket or container"
            ) from error
        return True

    def replace(self, key: str, content: bytes | Path, version: str) -> bool:
        """Publish other bytes in place of a version; see `Store`.

        S3 compares the version itself; elsewhere it is compared just before.
        """
        found = self.stat(key)
        if found is None or found.version != version:
            return False
        data = content if isinstance(content, bytes) else None
        if isinstance(content, Path) and content.stat().st_size <= _WHOLE_BYTES:
            data = content.read_bytes()

        def ask(fs: Any, path: str) -> None:
            if data is None:
                self._put(fs, path, content, "overwrite", None)
            elif _is_s3(fs):
                fs.pipe_file(path, data, IfMatch=version)
            else:
                fs.pipe_file(path, data)

        try:
            self._call(key, ask)
        except PreconditionError:
            return False
        return True

    def delete(self, key: str) -> None:
        """Remove an object; see `Store`."""
        try:
            self._call(key, lambda fs, path: fs.rm_file(path))
        except ObjectMissingError:
            return

    def sha256(self, key: str, *, is_read: bool = False) -> str:
        """Return an object's digest; see `Store`."""

        def recorded(fs: Any, path: str) -> str | None:
            return fs.metadata(path).get(_SHA256) if _is_s3(fs) else None

        known: str | None = None if is_read else self._call(key, recorded)
        if known is not None:
            return known
        found = self.stat(key)
        if found is None:
            raise ObjectMissingError(f"{self.url}/{key} is missing")
        digest = hashlib.sha256()
        for block in self._blocks(key, found.bytes):
            digest.update(block)
        return digest.hexdigest()

    def require_put_if_absent(self) -> None:
        """Make sure, once, that a second object under one name is refused.

        Raises:
            StorageError: the store overwrites it, so no commit on it could be trusted.
        """
        if self._is_probed:
            return
        file_system, _ = self._open("")
        key = f"{_PROBE_FOLDER}/{secrets.token_hex(8)}"
        refused = False
        if _has_own(file_system, "pipe_file"):
            self._create(key, b"1")
            refused = not self._create(key, b"2")
            self.delete(key)
        if not refused:
            raise StorageError(
                f"{self.url} does not refuse a second object of the same name (put-if-absent), so "
                f"two writers could overwrite each other; S3, Google Cloud Storage, Azure and "
                f"MinIO do: use one of them, or work on a disk"
            )
        self._is_probed = True

    def _put(
        self, fs: Any, path: str, content: bytes | Path, mode: str, sha256: str | None
    ) -> None:
        recorded = {"Metadata": {_SHA256: sha256}} if sha256 and _is_s3(fs) else {}
        if isinstance(content, Path) and (
            content.stat().st_size <= _WHOLE_BYTES or not _has_own(fs, "put_file")
        ):
            content = content.read_bytes()
        if isinstance(content, bytes):
            fs.pipe_file(path, content, mode=mode, **recorded)
        else:
            fs.put_file(str(content), path, mode=mode, **recorded)

    def _blocks(self, key: str, num_bytes: int) -> Iterator[bytes]:
        """Yield an object in ranges, each tried again by itself."""
        for start in range(0, num_bytes, _BLOCK_BYTES):
            end = min(start + _BLOCK_BYTES, num_bytes)
            yield self.read_range(key, start, end)

    def read_range(self, key: str, start: int, end: int) -> bytes:
        """Return the bytes [start, end) of an object.

        Raises:
            StorageError: it cannot be had, or ends before.
        """
        return self._call(key, lambda fs, path: read_range(fs, path, start, end))

    def _call(self, key: str, ask: Callable[[Any, str], T]) -> T:
        file_system, path = self._open(key)
        name = f"{self.url}/{key}".rstrip("/")
        return call(lambda: ask(file_system, path), name, attempts=_ATTEMPTS)

    def _open(self, key: str) -> tuple[Any, str]:
        return open_file_system(f"{self.url}/{key}".rstrip("/"), {})


def open_store(place: str | Path) -> Store:
    """Return the store of a folder or an fsspec URL.

    Raises:
        MissingPackageError: fsspec has no client for the protocol.
        StorageError: the URL cannot be understood.
    """
    location = as_location(place)
    return LocalStore(location) if isinstance(location, Path) else ObjectStore(location)


def version_of(info: Mapping[str, Any]) -> str:
    """Return the version in what fsspec says of an object; "": the store has none."""
    version = next((info[name] for name in _VERSION_FIELDS if info.get(name)), "")
    if isinstance(version, datetime):  # a listing and a look at one object differ in the type
        version = version.timestamp()
    return str(version)


def _stored(key: str, info: Mapping[str, Any]) -> StoredObject:
    return StoredObject(key, int(info["size"]), version_of(info))


def _is_s3(file_system: Any) -> bool:
    protocol = file_system.protocol
    return "s3" in ((protocol,) if isinstance(protocol, str) else protocol)


def _has_own(file_system: Any, method: str) -> bool:
    """Return whether the store has its own `put_file` or `pipe_file`, which publishes at once.

    fsspec's default asks whether the name is free, then writes into it: two writers may both find
    it free, and a reader sees half of the object.
    """
    from fsspec.asyn import AsyncFileSystem
    from fsspec.spec import AbstractFileSystem

    own = type(file_system)
    if issubclass(own, AsyncFileSystem):
        return getattr(own, f"_{method}") is not getattr(AsyncFileSystem, f"_{method}")
    return getattr(own, method) is not getattr(AbstractFileSystem, method)
