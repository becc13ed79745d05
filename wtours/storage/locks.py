"""Lock files: one process at a time."""

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from wtours.errors import StorageError, WtoursError
from wtours.storage.os_errors import explain_os_errors, other_place

_POLL_SECONDS = 0.05
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextlib.contextmanager
def shared_lock(
    path: Path, *, what: str, on_alone: Callable[[], None] | None = None
) -> Iterator[None]:
    """Hold the lock file `path` together with others; see `lock`, which it excludes.

    Args:
        on_alone: Called at the beginning if nobody else holds it. Of two that begin together one
            may then refuse the other: let them begin one after the other.

    Raises:
        WtoursError: a process holds it alone; names that process.
    """
    with explain_os_errors(path), _opened(path) as file:
        if on_alone is not None:
            with contextlib.suppress(BlockingIOError):  # others hold it, or one alone
                _flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                on_alone()
        try:
            _flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise WtoursError(
                f"{what} is in use by process {_owner(file)}, which works on all of it; wait for "
                f"it or stop it"
            ) from error
        _sign(file)  # for the message of a process that wants it alone: one of the others
        yield


@contextlib.contextmanager
def lock(path: Path, *, what: str, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold the lock file `path`, so that one process at a time works on `what`.

    Our own instead of a library's, since it names the owner: the file holds the process id. It
    stays, and the kernel frees the lock when the process dies, so no lock is ever stale.

    Raises:
        WtoursError: another process holds it, also after `wait_seconds`; names that process.
    """
    deadline = time.monotonic() + wait_seconds
    with _opened(path) as file:
        while True:
            try:
                _flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    raise WtoursError(
                        f"{what} is in use by process {_owner(file)}; wait for it or stop it"
                    ) from error
                time.sleep(_POLL_SECONDS)
        _sign(file)
        yield


def _opened(path: Path) -> IO[str]:
    with explain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a+")


def _owner(file: IO[str]) -> str:
    file.seek(0)
    return file.read().strip() or "unknown"


def _sign(file: IO[str]) -> None:
    with explain_os_errors(Path(file.name)):
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()


def _flock(file: IO[str], operation: int) -> None:
    try:
        fcntl.flock(file, operation)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise StorageError(
            f"{file.name}: the file system has no file locks; mount it with them (Lustre: -o "
            f"flock), or choose {other_place(Path(file.name))}"
        ) from error
