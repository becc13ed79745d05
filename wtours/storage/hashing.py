"""Hashes of files and of JSON-able values."""

import contextlib
import functools
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wtours.errors import StorageError


def sha256_file(path: Path) -> str:
    """Return the sha256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def unchanged(path: Path) -> Iterator[None]:
    """Hold that what is read of a file inside, by its name, and its sha256 are of one file.

    Raises:
        StorageError: another took its name meanwhile, it was written to, or it was removed.
    """
    before = _identity(path)
    yield
    if _identity(path) != before:
        raise StorageError(
            f"{path} was replaced or removed while it was read; run the command again"
        )


def sha256_of_shared(path: Path) -> str:
    """Return the sha256 of a file that many tasks read: a process reads it once, while it stays."""
    return _sha256_of(path, _identity(path))


def _identity(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()  # what opens it says why
    return found.st_size, found.st_mtime_ns, found.st_ino, found.st_ctime_ns


@functools.lru_cache(maxsize=16)
def _sha256_of(path: Path, _identity: tuple[int, ...]) -> str:
    return sha256_file(path)


def sha256_bytes(data: bytes) -> str:
    """Return the sha256 of bytes as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def canonical_json(value: Any) -> bytes:
    """Return JSON bytes that are equal for equal values: sorted keys, no NaN, a final newline."""
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def digest(value: Any) -> str:
    """Return 16 hexadecimal digits that name a JSON-able value (parameters of a stage)."""
    return hashlib.sha256(canonical_json(value)).hexdigest()[:16]
