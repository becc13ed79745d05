"""Publishing files so that a reader never sees half of one (the commit rule).

A temporary name in the same directory, write, flush, fsync, rename, fsync of the directory. What a
stage publishes this way is whole or absent, whatever dies at whatever line; the receipt
(`wtours.storage.receipts`), written last by the same steps, says that the stage is done.
"""

import contextlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wtours.errors import StorageError, WtoursError
from wtours.storage.hashing import canonical_json
from wtours.storage.os_errors import explain_os_errors

TEMP_PREFIX = ".tmp-"
RECEIPT_FILE = "receipt.json"
"""Of a folder that one result has to itself."""
RECEIPTS_FOLDER = "receipts"
"""Of a folder that many results share."""
MAX_JSON_BYTES = 256 * 2**20
"""No JSON of ours is as large: a `dataset.json` of a million shards has about 200 MB."""

_SMALL_BYTES = 2**16
_IDLE_SECONDS = 24 * 3600
_TEMP_NAME = re.compile(rf"{re.escape(TEMP_PREFIX)}\d+-[0-9a-f]{{8}}-")
"""Of `atomic_path`: a folder of the user's may have other hidden files."""


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a hidden temporary path beside `path`; publish it under `path` if the block succeeds.

    The file (or directory) written at the temporary path is fsynced and renamed. If the block
    raises, it is removed and `path` stays as it was. A directory is published once: `path` must not
    exist.

    Raises:
        StorageError: the file system refuses it (full, read-only, …), or it is a URL's, which would
            make a folder "s3:"; names the path.
    """
    # Two machines may share the folder, and processes of containers the same small number.
    if not path.is_absolute() and path.parts[0].endswith(":") and len(path.parts) > 1:
        raise StorageError(f"{path} is a URL, and this is written to a disk: give a path")
    temp = path.with_name(f"{TEMP_PREFIX}{os.getpid()}-{secrets.token_hex(4)}-{path.name}")
    try:
        with explain_os_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temp
            fsync_tree(temp)
            temp.replace(path)
            fsync(path.parent)
    except BaseException:
        with contextlib.suppress(OSError, WtoursError):  # it may be the disk that fails
            remove(temp)
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Publish `data` as the file `path`."""
    with atomic_path(path) as temp:
        temp.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Publish `value` as canonical JSON."""
    write_bytes(path, canonical_json(value))


def read_bytes(path: Path, *, max_bytes: int = MAX_JSON_BYTES) -> bytes:
    """Return the bytes of a small file of our own.

    Raises:
        FileNotFoundError: it does not exist.
        WtoursError: it cannot be read, or is larger than anything that we write.
    """
    with explain_os_errors(path), path.open("rb") as file:
        data = file.read(_SMALL_BYTES)
        if len(data) == _SMALL_BYTES:  # room for the most at once would cost more than the reading
            data += file.read(max_bytes + 1 - _SMALL_BYTES)
    if len(data) > max_bytes:
        raise WtoursError(
            f"{path} is larger than {max_bytes} bytes; remove it and run the command again"
        )
    return data


def read_json(path: Path) -> Any:
    """Return the JSON value in `path`.

    Raises:
        WtoursError: the file is not JSON, or cannot be read.
    """
    try:
        return json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise WtoursError(
            f"{path} is not JSON ({str(error)[:200]}); remove it and run the command again"
        ) from error


def remove(path: Path) -> None:
    """Remove a file or a directory tree, if it is there.

    Raises:
        StorageError: the file system refuses it; names the path.
    """
    with explain_os_errors(path):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def sweep(directory: Path) -> None:
    """Remove what killed processes left in `directory`. Call it only while holding its lock."""
    for path in sorted(directory.glob(f"{TEMP_PREFIX}*")):
        remove(path)


def sweep_idle(directory: Path) -> None:
    """Remove what killed processes left in `directory`, where several write without a lock.

    What was written to within a day may be another process's, which is about to publish it; and
    what cannot be removed is no reason to stop.
    """
    oldest = time.time() - _IDLE_SECONDS  # noqa: TID251 -- as file systems date what is written
    for path in sorted(directory.glob(f"{TEMP_PREFIX}*")):
        with contextlib.suppress(OSError, WtoursError):
            is_ours = _TEMP_NAME.match(path.name) is not None
            if is_ours and all(each.stat().st_mtime < oldest for each in (path, *path.rglob("*"))):
                remove(path)


def fsync_tree(path: Path) -> None:
    """Flush a file, or a directory and everything in it, to the disk."""
    if path.is_dir():
        for child in sorted(path.iterdir()):
            fsync_tree(child)
    fsync(path)


def fsync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
