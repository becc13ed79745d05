"""A small file system of its own, for disks that fill up or cannot be written."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, options: str) -> Iterator[Path]:
    """Mount an empty tmpfs on a new folder, and skip the test where that needs a right.

    Args:
        folder: Is made.
        options: For example "size=600k" or "ro,size=1m".
    """
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"NOT TESTED: mounting a small tmpfs needs root: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        # Lazily: a process that another test has forked may still hold a file of it.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def resize(disk: Path, size: str) -> None:
    """Give a mounted disk another size, for example "64m"."""
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)
