"""Frames of a remote shard set that were read before: some in memory, more on a disk.

On the disk a shard is a sparse file with its frames at their own offsets, and beside it a CRC-32 of
each frame, written after the frame. So several processes may fill one cache without a lock: what is
torn, by a power cut or a process that died, has another CRC and is fetched again.
"""

import logging
import os
import shutil
import threading
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

from wtours.shards.frames import BLOCK, FrameRef

logger = logging.getLogger(__name__)

_FOLDER_PREFIX = "shards-"
_CHECK_BYTES = 16 * 2**20
"""The room on the disk is looked at after so many bytes written by this process."""
_CRC_BYTES = 4


class FrameCache:
    """The blocks (tar header and JPEG) of a set's frames; may be pickled and forked.

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

    def get(self, ref: FrameRef, number: int) -> bytes | None:
        """Return the block of a frame, the `number`-th of its shard, if it is there."""
        if self._pid != os.getpid():  # the lock may have been held when the process forked
            self._clear_memory()
        with self._lock:
            block = self._recent.get((ref.shard, number))
            if block is not None:
                self._recent.move_to_end((ref.shard, number))
                return block
        block = self._read(ref, number)
        if block is not None:
            self._remember(ref, number, block)
        return block

    def put(self, ref: FrameRef, number: int, block: bytes) -> None:
        """Keep the block of a frame."""
        self._remember(ref, number, block)
        if self._folder is None or self._is_full:
            return
        try:
            self._written += len(block)
            if self._written >= _CHECK_BYTES:
                self._written = 0
                self._is_full = not _make_room(self._folder, self._disk_bytes)
            if not self._is_full:
                _pwrite(self._folder / f"{ref.shard}.frames", ref.offset - BLOCK, block)
                crc = _crc(block).to_bytes(_CRC_BYTES, "little")
                _pwrite(self._folder / f"{ref.shard}.crc32", number * _CRC_BYTES, crc)
        except OSError as error:  # training goes on without
            logger.warning("%s: no more frames are kept there (%s)", self._folder, error)
            self._is_full = True

    def _remember(self, ref: FrameRef, number: int, block: bytes) -> None:
        with self._lock:
            if (ref.shard, number) not in self._recent:
                self._recent[ref.shard, number] = block
                self._recent_bytes += len(block)
            while self._recent_bytes > self._memory_bytes:
                self._recent_bytes -= len(self._recent.popitem(last=False)[1])

    def _read(self, ref: FrameRef, number: int) -> bytes | None:
        if self._folder is None:
            return None
        try:
            known = _pread(self._folder / f"{ref.shard}.crc32", number * _CRC_BYTES, _CRC_BYTES)
            if not any(known):
                return None
            path = self._folder / f"{ref.shard}.frames"
            block = _pread(path, ref.offset - BLOCK, BLOCK + ref.size)
        except OSError:  # not there, or the disk fails: the store has it
            return None
        return block if _crc(block) == int.from_bytes(known, "little") else None


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
        try:
            total += path.stat().st_blocks * 512  # the files are sparse
        except FileNotFoundError:
            continue
    return total


def _last_used(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _crc(block: bytes) -> int:
    return zlib.crc32(block) or 1  # 0: not there


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
