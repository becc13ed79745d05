"""What the file system refuses, in one line that names the place and the remedy.

Only errors of the world are explained; an OSError that tells of a bug stays a traceback.
"""

import contextlib
import errno
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from wtours.errors import DiskFullError, StorageError, TransientError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FREE_BYTES = 16 * 2**20
"""A disk with less is taken for the one that is full."""
SHARED_MEMORY = Path("/dev/shm")
_TRANSIENT = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT)
_REMEDIES = {
    errno.EROFS: "it is read-only; mount it writable, or choose {place}",
    errno.EACCES: "change its owner or its mode, or choose {place}",
    errno.EPERM: "change its owner or its mode, or choose {place}",
    errno.ENOTDIR: "move the file away, or choose {place}",
    errno.EISDIR: "move the folder away, or choose {place}",
    errno.EEXIST: "move it away, or choose {place}",
    errno.ENAMETOOLONG: "choose a shorter name, or {place}",
    errno.EFBIG: "the file system, or `ulimit -f`, allows no file as large; raise it or choose "
    "{place}",
    errno.EMFILE: "raise the limit (`ulimit -n 4096`), or use fewer processes",
    errno.ENFILE: "the machine has too many open files; end what holds them",
    errno.EIO: "the disk or the network drive fails; check it (dmesg), then run the command again",
    errno.ESTALE: "the network drive was changed or remounted; run the command again",
    errno.ETIMEDOUT: "the network drive does not answer; run the command again",
    errno.ELOOP: "its links lead in a circle; remove them",
}


_PLACES: dict[Path, str] = {}
"""What the command line names to read from or write to, and by which option."""


@contextlib.contextmanager
def places_chosen(places: Mapping[Path, str]) -> Iterator[None]:
    """Have remedies name the option of the command line by which a place was chosen.

    Args:
        places: The options, by what they were given.

    Raises:
        StorageError: the file system refuses something inside the block.
    """
    _PLACES.update({place.absolute(): option for place, option in places.items()})
    try:
        yield
    except OSError as error:
        explained = explain_os_error(error)
        if explained is None:
            raise
        raise explained from error
    finally:
        _PLACES.clear()


def other_place(path: Path | None) -> str:
    """Return what to choose instead of the place that a path lies in: "another --out".

    Where no command line is known, in a process of a stage, it is the root's.
    """
    if path is None or not _PLACES:
        return "another --root"
    inside = path.absolute()
    around = [place for place in _PLACES if inside.is_relative_to(place)]
    below = [place for place in _PLACES if place.is_relative_to(inside)]  # not yet made
    nearest = around or (below if len(below) == 1 else [])
    if not nearest:
        return "another place"
    return f"another {_PLACES[max(nearest, key=lambda place: len(place.parts))]}"


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
        return StorageError(f"{path}: no files can be made there; choose {other_place(path)}")
    if path is None or error.errno not in _REMEDIES:
        return None
    what, place = (error.strerror or "").lower(), other_place(path)
    if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
        path = next((p for p in [*reversed(path.parents), path] if _is_file(p)), path)
        what = "a file where a folder should be" if _is_file(path) else what
    shown = str(path) if len(str(path)) < 400 else f"{str(path)[:200]}…"
    kind = TransientError if error.errno in _TRANSIENT else StorageError
    return kind(f"{shown}: {what}; {_REMEDIES[error.errno].format(place=place)}")


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
        f"disk full{where}{quota}; free some space or choose {other_place(path)}, then run the "
        f"same command again: it goes on where it stopped"
    )


def _is_file(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return path.exists() and not path.is_dir()
    return False
