"""Publishing files so that a reader never sees half of one (the commit rule).

A temporary name in the same directory, write, flush, fsync, rename, fsync of the directory. What a
stage publishes this way is whole or absent, whatever dies at whatever line; the receipt
(`wtours.storage.receipts`), written last by the same steps, says that the stage is done.
"""

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wtours.errors import WtoursError
from wtours.storage.disk_space import explain_full_disk
from wtours.storage.hashing import canonical_json

TEMP_PREFIX = ".tmp-"


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a hidden temporary path beside `path`; publish it under `path` if the block succeeds.

    The file (or directory) written at the temporary path is fsynced and renamed. If the block
    raises, it is removed and `path` stays as it was. A directory is published once: `path` must not
    exist.

    Raises:
        WtoursError: the disk is full; the message names the path and the free space.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two machines may share the folder, and processes of containers the same small number.
    temp = path.with_name(f"{TEMP_PREFIX}{os.getpid()}-{secrets.token_hex(4)}-{path.name}")
    try:
        with explain_full_disk(path):
            yield temp
            fsync_tree(temp)
            temp.replace(path)
            _fsync(path.parent)
    except BaseException:
        remove(temp)
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Publish `data` as the file `path`."""
    with atomic_path(path) as temp:
        temp.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Publish `value` as canonical JSON."""
    write_bytes(path, canonical_json(value))


def read_json(path: Path) -> Any:
    """Return the JSON value in `path`.

    Raises:
        WtoursError: the file is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise WtoursError(
            f"{path} is not JSON ({error}); remove it and run the command again"
        ) from error


def remove(path: Path) -> None:
    """Remove a file or a directory tree, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sweep(directory: Path) -> None:
    """Remove what killed processes left in `directory`. Call it only while holding its lock."""
    for path in sorted(directory.glob(f"{TEMP_PREFIX}*")):
        remove(path)


def fsync_tree(path: Path) -> None:
    """Flush a file, or a directory and everything in it, to the disk."""
    if path.is_dir():
        for child in sorted(path.iterdir()):
            fsync_tree(child)
    _fsync(path)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
