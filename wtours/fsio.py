"""Publishing files so that a reader never sees half of one (the commit rule).

A temporary name in the same directory, write, flush, fsync, rename, fsync of the directory. What a
stage publishes this way is whole or absent, whatever dies at whatever line; the receipt
(`wtours.receipts`), written last by the same steps, says that the stage is done.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wtours.errors import WtoursError

TEMP_PREFIX = ".tmp-"


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(value: Any) -> bytes:
    """Return JSON bytes that are equal for equal values: sorted keys, no NaN, a final newline."""
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def digest(value: Any) -> str:
    """Return 16 hexadecimal digits that name a JSON-able value (parameters of a stage)."""
    return hashlib.sha256(canonical_json(value)).hexdigest()[:16]


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


@contextlib.contextmanager
def lock(path: Path, *, what: str) -> Iterator[None]:
    """Hold the lock file `path`, so that one process at a time works on `what`.

    The kernel frees the lock when the process dies; the file itself stays and holds the last
    owner's process id.

    Raises:
        WtoursError: another process holds it; the message names that process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with explain_full_disk(path), path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise WtoursError(
                f"{what} is in use by process {owner}; wait for it or stop it"
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


@contextlib.contextmanager
def explain_full_disk(path: Path) -> Iterator[None]:
    """Turn "no space left" into an error that says where and how much is free."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise WtoursError(f"{full_disk_message(path)} ({error.strerror})") from error


def full_disk_message(path: Path) -> str:
    """Return the one line for a full disk: where, how much is free, what to do."""
    free_mib = shutil.disk_usage(_existing_parent(path)).free / 2**20
    return (
        f"disk full while writing {path}: {free_mib:.0f} MiB free; free some space or choose "
        f"another --root, then run the same command again: it goes on where it stopped"
    )


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


def _existing_parent(path: Path) -> Path:
    return next(parent for parent in path.absolute().parents if parent.exists())
