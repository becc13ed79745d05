"""What the file system refuses, in one line that names the place and the remedy.

Only errors of the world are explained; an OSError that tells of a bug stays a traceback.
"""

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

from wtours.errors import DiskFullError, StorageError, TransientError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FREE_BYTES = 16 * 2**20
"""A disk with less is taken for the one that is full."""
SHARED_MEMORY = Path("/dev/shm")
_TRANSIENT = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT)
_REMEDIES = {
    errno.EROFS: "it is read-only; mount it writable, or choose another --root",
    errno.EACCES: "change its owner or its mode, or choose another --root",
    errno.EPERM: "change its owner or its mode, or choose another --root",
    errno.ENOTDIR: "move the file away, or choose another --root",
    errno.EISDIR: "move the folder away, or choose another --root",
    errno.EEXIST: "move it away, or choose another --root",
    errno.ENAMETOOLONG: "choose a shorter --root or a shorter name",
    errno.EFBIG: "the file system, or `ulimit -f`, allows no file as large; raise it or choose "
    "another --root",
    errno.EMFILE: "raise the limit (`ulimit -n 4096`), or use fewer --jobs",
    errno.ENFILE: "the machine has too many open files; end what holds them",
    errno.EIO: "the disk or the network drive fails; check it (dmesg), then run the command again",
    errno.ESTALE: "the network drive was changed or remounted; run the command again",
    errno.ETIMEDOUT: "the network drive does not answer; run the command again",
    errno.ELOOP: "its links lead in a circle; remove them",
}


@contextlib.contextmanager
def explain_os_errors(path: Path) -> Iterator[None]:
    """Raise what the file system refuses inside the block as one line about `path`.

    Raises:
        DiskFullError: there is no room.
        StorageError: anything else that the file system refuses.
    """
    try:
        yield
    except OSError as error:
        explained = explain_os_error(error, path)
        if explained is None:
            raise
        raise explained from error


def explain_os_error(error: OSError, path: Path | None = None) -> StorageError | None:
    """Return our error for the operating system's; None if it tells of a bug.

    Args:
        error: The operating system's; the file that it names is shown, if it is not temporary.
        path: What was being read or written, if that is known.
    """
    named = Path(error.filename) if isinstance(error.filename, str) else None
    if named is not None and (path is None or ".tmp-" not in error.filename):
        path = named
    if error.errno in _FULL:
        return DiskFullError(full_disk_message(path))
    if error.errno == errno.ENOENT and path is not None and path.absolute().is_relative_to("/proc"):
        return StorageError(f"{path}: no files can be made there; choose another --root")
    if path is None or error.errno not in _REMEDIES:
        return None
    what = (error.strerror or "").lower()
    if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
        path = next((p for p in [*reversed(path.parents), path] if _is_file(p)), path)
        what = "a file where a folder should be" if _is_file(path) else what
    shown = str(path) if len(str(path)) < 400 else f"{str(path)[:200]}…"
    kind = TransientError if error.errno in _TRANSIENT else StorageError
    return kind(f"{shown}: {what}; {_REMEDIES[error.errno]}")


def full_disk_message(path: Path | None) -> str:
    """Return the one line for a full disk: where, how much is free, what to do."""
    free = None
    if path is not None:
        there = next(parent for parent in path.absolute().parents if parent.is_dir())
        free = shutil.disk_usage(there).free
    is_shared_full = SHARED_MEMORY.is_dir() and shutil.disk_usage(SHARED_MEMORY).free < _FREE_BYTES
    if is_shared_full and (path is None or (free is not None and free > _FREE_BYTES)):
        return (
            f"{SHARED_MEMORY} is full, not the disk; enlarge it (in Docker: --shm-size=8g), or "
            f"train with fewer loader workers: --set data.num_workers=0"
        )
    where = ", or where the output goes"
    if path is not None:
        where = f" while writing {path}: {(free or 0) / 2**20:.0f} MiB free"
    quota = " (a quota, or no inode left?)" if free is not None and free > _FREE_BYTES else ""
    return (
        f"disk full{where}{quota}; free some space or choose another --root, then run the same "
        f"command again: it goes on where it stopped"
    )


def _is_file(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return path.exists() and not path.is_dir()
    return False
