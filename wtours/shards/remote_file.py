"""A file at an fsspec URL, read from its start to its end by ranges, some asked for in advance.

Ranges and not one long answer: each can fail, time out and be asked for again by itself, on any
file system that fsspec knows, and what waits in memory is bounded.
"""

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

from wtours.errors import MissingPackageError, ShardError

RANGE_BYTES = 4 * 2**20
_FIRST_PAUSE_SECONDS = 0.25
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchPolicy:
    """How shards are fetched.

    Raises:
        ValueError: a value is below 1, or timeout_seconds not above 0.
    """

    attempts: int = 3
    """A range that fails so many times ends the stream."""
    timeout_seconds: float = 60.0
    """How long to wait for a range of 4 MiB."""
    ranges_ahead: int = 2
    """Ranges of each open shard that are asked for before they are needed."""
    storage_options: Mapping[str, Any] = field(default_factory=dict)
    """For fsspec: keys, endpoint_url, …"""

    def __post_init__(self) -> None:
        if min(self.attempts, self.ranges_ahead) < 1 or not self.timeout_seconds > 0:
            raise ValueError(f"attempts and ranges_ahead must be >= 1, timeout_seconds > 0: {self}")


class RangeReader:
    """A file at a URL, readable once, in order.

    Asking begins when this is made (if the size is given, otherwise at the first read). Each range
    has a daemon thread: one that hangs is left behind, and does not keep the process.

    Args:
        url: Of any protocol that fsspec knows.
        policy: Retries, timeouts and options.
        size: Bytes of the file, where known; None: the server is asked.
    """

    def __init__(self, url: str, policy: FetchPolicy, *, size: int | None = None) -> None:
        self.name = shown(url)
        self._policy = policy
        self._file_system, self._path = _open_file_system(url, policy.storage_options)
        self._size = size
        self._asked_end = 0
        self._ahead: deque[tuple[int, int, Future[bytes]]] = deque()
        self._block, self._block_at = b"", 0
        self._sha256 = hashlib.sha256()
        if size is not None:
            self._ask_ahead(size)

    @property
    def size(self) -> int:
        """Return the bytes of the file.

        Raises:
            ShardError: the server does not say.
        """
        if self._size is None:
            info = self._attempt(_in_thread(lambda: self._file_system.info(self._path)), self._info)
            if not isinstance(info.get("size"), int):
                raise ShardError(f"{self.name}: the server does not say how large it is")
            self._size = int(info["size"])
        return self._size

    def read(self, num_bytes: int) -> bytes:
        """Return the next bytes; fewer only at the end of the file.

        Raises:
            ShardError: a range could not be had.
        """
        pieces = []
        while num_bytes > 0 and (self._block_at < len(self._block) or self._next_block()):
            piece = self._block[self._block_at : self._block_at + num_bytes]
            self._block_at += len(piece)
            num_bytes -= len(piece)
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def sha256(self) -> str:
        """Return the digest of what was fetched so far, in ranges."""
        return self._sha256.hexdigest()

    def _next_block(self) -> bool:
        self._ask_ahead(self.size)
        if not self._ahead:
            return False
        start, end, future = self._ahead.popleft()
        self._block = self._attempt(future, lambda: self._range(start, end))
        self._block_at = 0
        self._sha256.update(self._block)
        return True

    def _ask_ahead(self, size: int) -> None:
        while self._asked_end < size and len(self._ahead) < self._policy.ranges_ahead:
            start, end = self._asked_end, min(size, self._asked_end + RANGE_BYTES)
            self._ahead.append((start, end, self._range(start, end)))
            self._asked_end = end

    def _info(self) -> Future[dict[str, Any]]:
        return _in_thread(lambda: self._file_system.info(self._path))

    def _range(self, start: int, end: int) -> Future[bytes]:
        def fetch() -> bytes:
            data: bytes = self._file_system.cat_file(self._path, start=start, end=end)
            if len(data) != end - start:
                raise OSError(f"{len(data)} bytes came for the {end - start} from {start} on")
            return data

        return _in_thread(fetch)

    def _attempt(self, future: Future[T], ask_again: Callable[[], Future[T]]) -> T:
        """Return what a future gives, asking again as often as the policy says."""
        attempts, pause_seconds = self._policy.attempts, _FIRST_PAUSE_SECONDS
        for attempt in range(1, attempts + 1):
            try:
                return future.result(self._policy.timeout_seconds)
            except FileNotFoundError as error:
                raise ShardError(f"{self.name} is missing") from error
            except TimeoutError as error:
                reason = f"nothing came for {self._policy.timeout_seconds:g} s"
                cause: Exception = error
            except Exception as error:  # whatever the protocol's library raises
                reason = " ".join(str(error).split()) or type(error).__name__
                cause = error
            if attempt < attempts:
                time.sleep(pause_seconds)
                pause_seconds *= 2
                future = ask_again()
        raise ShardError(f"{self.name}: {reason}; given up after {attempts} attempts") from cause


def read_small(url: str, policy: FetchPolicy, *, max_bytes: int) -> bytes:
    """Return a whole small file.

    Raises:
        ShardError: it is missing, larger than max_bytes, or could not be had.
    """
    reader = RangeReader(url, policy)
    if reader.size > max_bytes:
        raise ShardError(f"{reader.name} is larger than {max_bytes} bytes; it is not ours")
    return reader.read(reader.size)


def shown(url: str) -> str:
    """Return a URL as messages show it: without its query, which may hold a signature."""
    return url.split("?", 1)[0]


def _open_file_system(url: str, storage_options: Mapping[str, Any]) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    try:
        file_system, path = url_to_fs(url, **storage_options)
    except ImportError as error:
        if urlsplit(url).scheme in ("http", "https"):
            raise MissingPackageError("aiohttp", "stream", f"reading {shown(url)}") from error
        raise ShardError(f"{shown(url)} cannot be read: {error}") from error
    except ValueError as error:
        raise ShardError(f"{shown(url)} cannot be read: {error}") from error
    return file_system, path


def _in_thread(call: Callable[[], T]) -> Future[T]:
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # or the reader would wait for nothing
            future.set_exception(error)

    threading.Thread(target=run, name="wtours-fetch", daemon=True).start()
    return future
