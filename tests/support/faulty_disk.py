"""A disk whose nth operation fails: opening for writing, writing, fsync, rename, making a folder.

One that fails (EIO), not one that is full, fails at opening for reading too. What Python itself
writes is seen; files that a C library writes are seen when they are flushed and renamed, as every
file that is published is.
"""

import builtins
import errno
import io
import itertools
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from wtours.errors import WtoursError
from wtours.storage.os_errors import explain_os_error

FULL, FAILING = errno.ENOSPC, errno.EIO
KILL = 0
"""Instead of an error: the process is killed before the operation."""


class FaultyDisk:
    """Counts the operations below a folder, and fails at one of them."""

    def __init__(self, folder: Path, fail_at: int, number: int) -> None:
        self._folder = f"{folder.resolve()}{os.sep}"
        self._fail_at = fail_at
        self._number = number
        self._calls = itertools.count()
        self.seen = Counter[str]()
        """How often each operation was asked for."""
        self.failed = ""
        """The operation that failed."""

    def pass_by(self, operation: str, path: Any) -> None:
        """Count an operation on a path, and fail if it is the one."""
        if not os.path.realpath(os.fspath(path)).startswith(self._folder):
            return
        self.seen[operation] += 1
        if next(self._calls) == self._fail_at:
            self.failed = f"{operation} {path}"
            if self._number == KILL:
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(self._number, os.strerror(self._number), os.fspath(path))


class _File:
    """A file opened for writing; everything but `write` is the real one's."""

    def __init__(self, file: Any, path: Any, disk: FaultyDisk) -> None:
        self._file, self._path, self._disk = file, path, disk

    def write(self, data: Any) -> int:
        self._disk.pass_by("write", self._path)
        return self._file.write(data)  # type: ignore[no-any-return]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "_File":
        self._file.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._file.__exit__(*error)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._file)


@contextmanager
def faulty_disk(folder: Path, fail_at: int, number: int = FULL) -> Iterator[FaultyDisk]:
    """Let the operation number `fail_at` below `folder` fail, counted from 0, in the block."""
    disk = FaultyDisk(folder, fail_at, number)
    real_open, fsync = io.open, os.fsync

    def opened(file: Any, mode: str = "r", *options: Any, **named: Any) -> Any:
        if isinstance(file, int):
            return real_open(file, mode, *options, **named)
        if not set(mode) & set("wax+"):
            if number == FAILING:
                disk.pass_by("read", file)
            return real_open(file, mode, *options, **named)
        disk.pass_by("open", file)
        return _File(real_open(file, mode, *options, **named), file, disk)

    def synced(descriptor: int) -> None:
        disk.pass_by("fsync", f"/proc/self/fd/{descriptor}")
        fsync(descriptor)

    def counted(operation: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *rest: Any, **named: Any) -> Any:
            disk.pass_by(operation, path)
            return real(path, *rest, **named)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for module in (io, builtins):
            patch.setattr(module, "open", opened)
        patch.setattr(os, "fsync", synced)
        for name in ("replace", "rename", "link", "mkdir"):
            patch.setattr(os, name, counted(name, getattr(os, name)))
        yield disk


def assert_survives(
    fresh: Callable[[], Path],
    stage: Callable[[Path], object],
    published: Callable[[Path], Mapping[str, bytes]],
    *,
    number: int = FULL,
    every: int = 1,
) -> Counter[str]:
    """Let each operation of a stage fail in turn; return how many of each kind there are.

    After each, nothing that is published differs from what stood there before or from what an
    undisturbed run publishes; the stage said so in one line, or went on without it; and the stage
    run again publishes what an undisturbed run does.

    Args:
        fresh: Makes the folder that the stage begins with.
        stage: Works in it.
        published: The files with final names in it that must be whole, by name.
        number: The error, for example `errno.EIO`.
        every: Only each so manieth operation fails.
    """
    begun, undisturbed = published(fresh()), fresh()
    stage(undisturbed)
    expected = published(undisturbed)
    assert expected
    for fail_at in itertools.count(step=every):
        folder, refusal = fresh(), ""
        with faulty_disk(folder, fail_at, number) as disk:
            try:
                stage(folder)
            except WtoursError as error:
                refusal = str(error)
            except OSError as error:  # as the command line does
                explained = explain_os_error(error)
                assert explained is not None, disk.failed
                refusal = str(explained)
        if not disk.failed:
            return disk.seen
        assert "\n" not in refusal, disk.failed
        left = published(folder)
        wrong = [
            name for name, data in left.items() if data not in (expected.get(name), begun.get(name))
        ]
        assert not wrong, (disk.failed, wrong)
        lost = begun.keys() & expected.keys() - left.keys()
        assert not lost, (disk.failed, lost)
        assert refusal or left == expected, (disk.failed, "and nobody said so")
        stage(folder)
        assert published(folder) == expected, disk.failed
    raise AssertionError("unreachable")
