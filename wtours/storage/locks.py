"""Lock files: one process at a time."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from wtours.errors import WtoursError
from wtours.storage.disk_space import explain_full_disk


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
