"""Shards at fsspec URLs: which there are, and each read once, in order, by ranges.

Ranges and not one long response: each can fail, time out and be retried by itself, on any file
system that fsspec knows, and what waits in memory is bounded. fsspec's own caches fetch one block
ahead at most, and time nothing out: a tar of 64 MiB from a server 50 ms away that sends 40 MB/s a
connection takes 1.4 s here, 2.6 s by its "background" cache. tenacity would replace five lines.
"""

import contextlib
import functools
import hashlib
import itertools
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from wtours.errors import ShardError, StorageError
from wtours.shards.schema import (
    DATASET_FILE,
    MAX_DATASET_BYTES,
    Dataset,
    ShardRecord,
    parse_dataset,
    read_dataset,
)
from wtours.storage.object_store import version_of
from wtours.storage.remote_calls import (
    ObjectMissingError,
    call,
    in_thread,
    open_file_system,
    read_range,
    shown,
)
from wtours.storage.scratch import scratch_bytes, scratch_folder
from wtours.storage.store import as_location
from wtours.text import VIDEO_ID

RANGE_BYTES = 4 * 2**20
_MOST_AT_ONCE = 32
"""Requests of one process that are under way at a time."""
_SHARD_FILE = re.compile(rf"(?P<video_id>{VIDEO_ID})-(?P<segment>[0-9]{{5,18}})\.tar")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchPolicy:
    """How shards are fetched.

    Raises:
        ValueError: a value is below 1, or timeout_seconds not above 0.
    """

    attempts: int = 3
    """A range that fails this many times ends the stream."""
    timeout_seconds: float = 60.0
    """How long to wait for a range of 4 MiB."""
    ranges_ahead: int = 2
    """Ranges of each open shard that are asked for before they are needed."""
    storage_options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the fsspec file system, such as `key` or `endpoint_url`."""
    coalesce_bytes: int = 64 * 2**10
    """`ShardIndex` reads frames of a shard by one request if so much, or less, lies between."""
    cache_dir: Path | None = field(default_factory=scratch_folder)
    """`ShardIndex` keeps frames here, for all processes of this machine; None: on no disk."""
    cache_bytes: int = field(default_factory=scratch_bytes)
    """Of the frames kept there, of all sets together."""
    memory_bytes: int = 64 * 2**20
    """Of the frames that each process keeps in memory."""

    def __post_init__(self) -> None:
        if min(self.attempts, self.ranges_ahead) < 1 or not self.timeout_seconds > 0:
            raise ValueError(f"attempts and ranges_ahead must be >= 1, timeout_seconds > 0: {self}")
        if min(self.coalesce_bytes, self.cache_bytes, self.memory_bytes) < 0:
            raise ValueError(f"no number of bytes may be negative: {self}")


class RangeReader:
    """A file at a URL, readable once, in order.

    The first requests are sent when this is made (if the size is given, otherwise at the first
    read). Each range has a daemon thread: one that hangs is left behind, and does not keep the
    process alive.

    Args:
        url: Of any protocol that fsspec knows.
        policy: Retries, timeouts and options.
        size: Bytes of the file; None: the server is asked.
    """

    def __init__(self, url: str, policy: FetchPolicy, *, size: int | None = None) -> None:
        self.name = shown(url)
        self._policy = policy
        with as_shard_error():
            self._file_system, self._path = open_file_system(url, policy.storage_options)
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
            info = answer(self._policy, self.name, self._info, in_thread(self._info))
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
        self._block = answer(self._policy, self.name, lambda: self._fetch(start, end), future)
        self._block_at = 0
        self._sha256.update(self._block)
        return True

    def _ask_ahead(self, size: int) -> None:
        while self._asked_end < size and len(self._ahead) < self._policy.ranges_ahead:
            start, end = self._asked_end, min(size, self._asked_end + RANGE_BYTES)
            future = in_thread(functools.partial(self._fetch, start, end))
            self._ahead.append((start, end, future))
            self._asked_end = end

    def _info(self) -> dict[str, Any]:
        return self._file_system.info(self._path)  # type: ignore[no-any-return]

    def _fetch(self, start: int, end: int) -> bytes:
        return read_range(self._file_system, self._path, start, end)


def answer(policy: FetchPolicy, name: str, ask: Callable[[], T], first: Future[T]) -> T:
    """Return what a request that is under way gives, asking again as often as the policy says.

    Raises:
        ShardError: it could not be had; the message has `name`.
    """
    with as_shard_error():
        return call(
            ask,
            name,
            attempts=policy.attempts,
            timeout_seconds=policy.timeout_seconds,
            first=first,
        )


def answers(policy: FetchPolicy, asks: Iterable[tuple[str, Callable[[], T]]]) -> Iterator[T]:
    """Yield what requests give, by their names; each is timed out and tried again by itself."""
    waiting = iter(asks)
    while batch := list(itertools.islice(waiting, _MOST_AT_ONCE)):
        under_way = [in_thread(ask) for _, ask in batch]
        for (name, ask), first in zip(batch, under_way, strict=True):
            yield answer(policy, name, ask, first)


@contextlib.contextmanager
def as_shard_error() -> Iterator[None]:
    """Raise what a store refuses inside the block as a `ShardError`."""
    try:
        yield
    except StorageError as error:
        raise ShardError(str(error)) from error


@dataclass(frozen=True, slots=True)
class RemoteShard:
    """A shard at a URL."""

    url: str
    video_id: str
    segment: int
    record: ShardRecord | None = None
    """Its entry in dataset.json."""


def list_shards(
    source: str | Sequence[str], policy: FetchPolicy
) -> tuple[Dataset | None, list[RemoteShard]]:
    """Return the shards ordered by video and time, and `dataset.json` where it is known.

    Args:
        source: See `stream_clips`.
        policy: How to fetch `dataset.json`.

    Raises:
        ShardError: `dataset.json` cannot be fetched or is not of format 1, a tar's name does not
            say which shard it is, or there is none.
    """
    if isinstance(source, str):
        dataset = fetch_dataset(source, policy)
        return dataset, [
            RemoteShard(
                folder_url(source, f"{record.shard}.tar"), record.video_id, record.segment, record
            )
            for record in dataset.shards
        ]
    if not source:
        raise ShardError("there is no shard to stream: the list of URLs is empty")
    return None, sorted(
        map(_named_shard, source), key=lambda shard: (shard.video_id, shard.segment)
    )


def _named_shard(url: str) -> RemoteShard:
    match = _SHARD_FILE.fullmatch(urlsplit(url).path.rsplit("/", 1)[-1])
    if match is None:
        raise ShardError(f"{shown(url)} is not named <video_id>-<segment>.tar, as shards are")
    return RemoteShard(url, match["video_id"], int(match["segment"]))


def folder_url(folder: str, name: str) -> str:
    """Return the URL of a file in a folder, whose URL may have a query (a signature)."""
    base, mark, query = folder.partition("?")
    return f"{base.rstrip('/')}/{name}{mark}{query}"


def fetch_dataset(folder: str, policy: FetchPolicy) -> Dataset:
    """Return `dataset.json` of a shard set at a URL.

    Raises:
        ShardError: it cannot be had, is too large, or not of format 1.
    """
    url = folder_url(folder, DATASET_FILE)
    return parse_dataset(read_at_url(url, policy), shown(url))


def read_at_url(url: str, policy: FetchPolicy, num_bytes: int | None = None) -> bytes:
    """Return a small file of a set, of which `num_bytes` may be known.

    Raises:
        ShardError: it cannot be had, or is too large.
    """
    reader = RangeReader(url, policy, size=num_bytes)
    if num_bytes is None and reader.size > MAX_DATASET_BYTES:
        raise ShardError(f"{reader.name} is larger than {MAX_DATASET_BYTES} bytes; it is not ours")
    return reader.read(reader.size)


def dataset_at(place: str | Path, policy: FetchPolicy | None = None) -> Dataset:
    """Return `dataset.json` of the shard set in a folder or at a URL.

    Raises:
        ShardError: there is no finished set of format 1.
    """
    location = as_location(place)
    if isinstance(location, Path):
        return read_dataset(location)
    try:
        return fetch_dataset(location, policy or FetchPolicy())
    except ShardError as error:
        if isinstance(error.__cause__, ObjectMissingError):
            raise ShardError(
                f"{shown(location)} is not a finished shard set (no {DATASET_FILE}); run `wtours "
                f"shard`, or `wtours copy` one there"
            ) from error
        raise


def version_at(url: str, policy: FetchPolicy) -> str | None:
    """Return what is another after each change of an object (its ETag, its date); None: no object.

    Raises:
        ShardError: the server does not answer.
    """

    def ask() -> dict[str, Any]:
        file_system, path = open_file_system(url, policy.storage_options)
        return file_system.info(path)  # type: ignore[no-any-return]

    try:
        return version_of(answer(policy, shown(url), ask, in_thread(ask)))
    except ShardError as error:
        if isinstance(error.__cause__, ObjectMissingError):
            return None
        raise


def listed_sizes(folder: str, policy: FetchPolicy) -> dict[str, int] | None:
    """Return the bytes of each file in a folder by its name; None: the server does not list.

    Raises:
        ShardError: it does not answer.
    """
    if urlsplit(folder).scheme in ("http", "https"):
        return None

    def ask() -> list[dict[str, Any]]:
        file_system, path = open_file_system(folder, policy.storage_options)
        file_system.invalidate_cache()
        return file_system.ls(path, detail=True)  # type: ignore[no-any-return]

    with as_shard_error():
        found = call(ask, shown(folder), attempts=policy.attempts, timeout_seconds=None)
    return {info["name"].rsplit("/", 1)[-1]: int(info["size"] or 0) for info in found}
