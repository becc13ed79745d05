"""Lock files: one process at a time."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from wtours.errors import WtoursError
from wtours.storage.os_errors import explain_os_errors

_POLL_SECONDS = 0.05


@contextlib.contextmanager
def lock(path: Path, *, what: str, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold the lock file `path`, so that one process at a time works on `what`.

    Our own instead of a library's, since it names the owner: the file holds the process id. It
    stays, and the kernel frees the lock when the process dies, so no lock is ever stale.

    Raises:
        WtoursError: another process holds it, also after `wait_seconds`; names that process.
    """
    deadline = time.monotonic() + wait_seconds
    with contextlib.ExitStack() as stack:
        with explain_os_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(path.open("a+"))
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() < deadline:
                    time.sleep(_POLL_SECONDS)
                    continue
                file.seek(0)
                owner = file.read().strip() or "unknown"
                raise WtoursError(
                    f"{what} is in use by process {owner}; wait for it or stop it"
                ) from error
        with explain_os_errors(path):
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
        yield
