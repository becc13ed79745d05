"""Full disks: one clear line instead of a traceback."""

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

from wtours.errors import WtoursError


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


def _existing_parent(path: Path) -> Path:
    return next(parent for parent in path.absolute().parents if parent.exists())
