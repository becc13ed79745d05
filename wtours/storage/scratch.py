"""The folder on this machine's disk for copies of what lies on an object store, and its bound.

A copy of a root has a list of what was seen there, a line of JSON for each object.

Both come from the environment, as the credentials of the store do: every process of a run has them.
"""

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from wtours.errors import StorageError, UsageError
from wtours.storage.atomic import atomic_path, remove, sweep
from wtours.storage.locks import lock
from wtours.storage.os_errors import explain_os_errors
from wtours.text import parse_bytes

SCRATCH = "WTOURS_SCRATCH"
SCRATCH_SIZE = "WTOURS_SCRATCH_SIZE"
DEFAULT_SIZE = "100GB"
_USED, _ROOM = ".used", ".room"
_ALIVE = ".alive"
_WAIT_SECONDS = 60


def scratch_folder() -> Path:
    """Return the folder for copies: $WTOURS_SCRATCH, or wtours in the user's folder of caches."""
    given = os.environ.get(SCRATCH)
    if given:
        return Path(given)
    caches = os.environ.get("XDG_CACHE_HOME")
    return (Path(caches) if caches else Path.home() / ".cache") / "wtours"


def scratch_bytes() -> int:
    """Return how much may lie there: $WTOURS_SCRATCH_SIZE, or 100 GB.

    Raises:
        UsageError: it is not a size.
    """
    return parse_size(os.environ.get(SCRATCH_SIZE) or DEFAULT_SIZE)


def parse_size(text: str) -> int:
    """Return the bytes that "500GB" or "1.5 T" names; a k is 1000, a Ki 1024.

    Raises:
        UsageError: it is not a size above 0.
    """
    size = parse_bytes(text)
    if not size:
        raise UsageError(
            f"--scratch-size {text!r} must be a number of bytes above 0, for example 500GB"
        )
    return size


def own_folder(top: Path) -> tuple[Path, IO[str]]:
    """Make a folder of this process alone below `top`; those of processes that have ended go.

    Returns:
        The folder, and a file that keeps it: close it, and the next call removes the folder.

    Raises:
        WtoursError: another process has been making one for a minute.
    """
    with lock(top / ".lock", what=str(top), wait_seconds=_WAIT_SECONDS):
        for stamp in top.glob(f"*/{_ALIVE}"):
            # FileNotFoundError: its process is just removing it.
            with contextlib.suppress(BlockingIOError, FileNotFoundError), stamp.open() as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove(stamp.parent)
        folder = top / f"{os.getpid()}-{secrets.token_hex(4)}"
        with explain_os_errors(folder):
            folder.mkdir()
            alive = (folder / _ALIVE).open("w")
        fcntl.flock(alive, fcntl.LOCK_EX)
    return folder, alive


@contextlib.contextmanager
def at_hand(video: Path, fetch: Callable[[], None]) -> Iterator[None]:
    """Hold a copy of a video, which no process then removes; one of several fetches it."""
    stamp = video.parent / _USED
    with explain_os_errors(stamp):
        stamp.parent.mkdir(parents=True, exist_ok=True)
    with stamp.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        while not video.is_file():
            fcntl.flock(file, fcntl.LOCK_EX)
            if not video.is_file():
                sweep(video.parent)  # half of it, of a process that was killed
                fetch()
            fcntl.flock(file, fcntl.LOCK_SH)  # another process may be between: look again
        os.utime(stamp)  # not its own dates, which its reader watches
        yield


def make_room(video: Path, num_bytes: int, *, is_free: Callable[[Path], bool]) -> None:
    """Remove the copies of videos that were used longest ago, until another one fits.

    Call it in `fetch` of `at_hand`: until the video has come, others count its bytes too.

    Args:
        video: The one that is to come, in a folder of its own in `videos` of a working copy.
        num_bytes: Of it.
        is_free: Whether a copy may be removed.

    Raises:
        StorageError: those that are in use leave too little.
    """
    bound, folder = scratch_bytes(), video.parent.parent
    with (folder / _ROOM).open("a") as room:
        fcntl.flock(room, fcntl.LOCK_EX)
        files = [path for path in folder.glob("*/[!.]*") if path.is_file()]
        copies = [path for path in files if path.suffix not in (".json", ".md")]
        sizes = {path: path.stat().st_size for path in copies} | _coming(folder, copies, video)
        for path in sorted(filter(is_free, copies), key=_last_used):
            if sum(sizes.values()) + num_bytes <= bound:
                break
            with (path.parent / _USED).open("a") as file, contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # else a process has it at hand
                remove(path)
                del sizes[path]
        total = sum(sizes.values()) + num_bytes
        if total <= bound:
            (video.parent / _USED).write_text(f"{num_bytes}\n")
    if total > bound:
        raise StorageError(
            f"the videos that are needed at once take {total / 1e9:.1f} GB, and --scratch-size "
            f"allows {bound / 1e9:.1f}: raise it, or name fewer videos (--video)"
        )


def _coming(folder: Path, copies: Iterable[Path], video: Path) -> dict[Path, int]:
    """Return the bytes of the other videos that processes are fetching, by stamp."""
    coming, there = dict[Path, int](), {path.parent for path in (*copies, video)}
    for stamp in folder.glob(f"*/{_USED}"):
        num_bytes = stamp.read_text().strip()
        if stamp.parent in there or not num_bytes:
            continue
        with stamp.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                coming[stamp] = int(num_bytes)
    return coming


def _last_used(video: Path) -> float:
    stamp = video.parent / _USED
    return stamp.stat().st_mtime if stamp.exists() else 0.0


@dataclass(frozen=True, slots=True)
class Seen:
    """An object as it was on the store when this machine looked."""

    version: str
    bytes: int
    sha256: str | None
    """None: its bytes were not read."""


def write_seen(path: Path, seen: Mapping[str, Seen]) -> None:
    """Publish what was seen, by key."""
    with atomic_path(path) as temp, temp.open("w", encoding="utf-8") as file:
        for key, one in seen.items():
            file.write(json.dumps([key, one.version, one.bytes, one.sha256]) + "\n")


def read_seen(path: Path) -> dict[str, Seen]:
    """Return what was seen, by key; nothing without a file, or with a damaged one."""
    # What cannot be read was not seen: it is fetched again, and compared when it is published.
    unread = (FileNotFoundError, ValueError, TypeError)
    with contextlib.suppress(*unread), path.open(encoding="utf-8") as file:
        return {key: Seen(*values) for key, *values in map(json.loads, file)}
    return {}
