"""Frames of a remote shard set that were read before: some in memory, more on a disk.

The values of its layers too. On the disk a tar is a sparse file with its blocks at their own
offsets, and beside it a CRC-32 of each block, written after the block. So several processes may
fill one cache without a lock: what is torn, by a power cut or a process that died, has another CRC
and is fetched again.
"""

import contextlib
import logging
import os
import shutil
import threading
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

from wtours.shards.frames import Block

logger = logging.getLogger(__name__)

_FOLDER_PREFIX = "shards-"
_CHECK_BYTES = 16 * 2**20
"""The room on the disk is looked at after so many bytes written by this process."""
_CRC_BYTES = 4


class FrameCache:
    """The blocks of a set's tars; may be pickled and forked.

    When the disk's bound is reached, the sets that were not used for longest are removed, and then
    nothing more of this one is kept: clips come in a random order without end, where what is kept
    serves as often as what would take its place.

    Args:
        folder: Of the caches of all sets; None: nothing is kept on a disk.
        set_id: Names the set by its content.
        disk_bytes: Of all sets together, give or take 16 MiB for each process.
        memory_bytes: Of this process.
    """

    def __init__(
        self, folder: Path | None, set_id: str, *, disk_bytes: int, memory_bytes: int
    ) -> None:
        self._folder = None if folder is None else folder / f"{_FOLDER_PREFIX}{set_id}"
        self._disk_bytes, self._memory_bytes = disk_bytes, memory_bytes
        self._written = _CHECK_BYTES  # looked at before the first frame is kept
        self._is_full = False
        self._clear_memory()

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without what is in memory."""
        return {k: v for k, v in vars(self).items() if k not in ("_recent", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._clear_memory()

    def _clear_memory(self) -> None:
        self._pid, self._recent_bytes = os.getpid(), 0
        self._recent: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, block: Block) -> bytes | None:
        """Return the bytes of a block, if they are there."""
        if self._pid != os.getpid():  # the lock may have been held when the process forked
            self._clear_memory()
        with self._lock:
            data = self._recent.get((block.tar, block.number))
            if data is not None:
                self._recent.move_to_end((block.tar, block.number))
                return data
        data = self._read(block)
        if data is not None:
            self._remember(block, data)
        return data

    def put(self, block: Block, data: bytes) -> None:
        """Keep the bytes of a block."""
        self._remember(block, data)
        if self._folder is None or self._is_full:
            return
        try:
            self._written += len(data)
            if self._written >= _CHECK_BYTES:
                self._written = 0
                self._is_full = not _make_room(self._folder, self._disk_bytes)
            if not self._is_full:
                _pwrite(self._folder / f"{block.tar}.frames", block.start, data)
                crc = _crc(data).to_bytes(_CRC_BYTES, "little")
                _pwrite(self._folder / f"{block.tar}.crc32", block.number * _CRC_BYTES, crc)
        except OSError as error:  # training goes on without
            logger.warning("%s: no more frames are kept there (%s)", self._folder, error)
            self._is_full = True

    def _remember(self, block: Block, data: bytes) -> None:
        with self._lock:
            if (block.tar, block.number) not in self._recent:
                self._recent[block.tar, block.number] = data
                self._recent_bytes += len(data)
            while self._recent_bytes > self._memory_bytes:
                self._recent_bytes -= len(self._recent.popitem(last=False)[1])

    def _read(self, block: Block) -> bytes | None:
        if self._folder is None:
            return None
        try:
            crcs, at = self._folder / f"{block.tar}.crc32", block.number * _CRC_BYTES
            known = _pread(crcs, at, _CRC_BYTES)
            if not any(known):
                return None
            path = self._folder / f"{block.tar}.frames"
            data = _pread(path, block.start, block.end - block.start)
        except OSError:  # not there, or the disk fails: the store has it
            return None
        return data if _crc(data) == int.from_bytes(known, "little") else None


def _make_room(folder: Path, max_bytes: int) -> bool:
    """Remove sets that were not used for longest until the bound is kept; return whether it is."""
    folder.mkdir(parents=True, exist_ok=True)
    os.utime(folder)
    sets = {path: _used_bytes(path) for path in folder.parent.glob(f"{_FOLDER_PREFIX}*")}
    others = sorted((path for path in sets if path != folder), key=_last_used)
    free = shutil.disk_usage(folder).free
    for path in others:
        if sum(sets.values()) < max_bytes and free > _CHECK_BYTES:
            break
        logger.info("removing %s to make room for %s", path, folder)
        shutil.rmtree(path, ignore_errors=True)  # another process may be removing it too
        free += sets.pop(path)
    return sum(sets.values()) < max_bytes and free > 4 * _CHECK_BYTES


def _used_bytes(folder: Path) -> int:
    total = 0
    for path in folder.glob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_blocks * 512  # the files are sparse
    return total


def _last_used(folder: Path) -> float:
    with contextlib.suppress(FileNotFoundError):
        return folder.stat().st_mtime
    return 0.0


def _crc(data: bytes) -> int:
    return zlib.crc32(data) or 1  # 0: not there


def _pread(path: Path, offset: int, num_bytes: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(descriptor, num_bytes, offset)
    finally:
        os.close(descriptor)


def _pwrite(path: Path, offset: int, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.pwrite(descriptor, data, offset)
    finally:
        os.close(descriptor)
