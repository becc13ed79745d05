"""Frames of a shard set on an object store, and values of its layers: by ranges, and kept near.

The blocks of a clip that are not at hand are asked for at once, those that lie close together in
one request; each request is timed out and tried again by itself, and then the tar is named.
"""

import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from wtours.shards.frames import BLOCK, Block, FrameRef, image_in
from wtours.shards.range_reads.frame_cache import FrameCache
from wtours.shards.range_reads.remote import FetchPolicy, answers, folder_url
from wtours.storage.remote_calls import open_file_system, read_range, shown

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Range:
    """Blocks of one tar that are read by one request, in the order of their offsets."""

    places: tuple[int, ...]
    """In the list of blocks that was asked for."""
    tar: str
    start: int
    end: int


class RemoteFrames:
    """Reads the tars in a folder at a URL; may be pickled, forked and shared by threads.

    Args:
        url: Of the folder.
        policy: Retries, timeouts.
        cache: Of the shard set.
        kept_as: Names the tars in the cache apart from those of the frames, by their content.
    """

    def __init__(
        self, url: str, policy: FetchPolicy, cache: FrameCache, *, kept_as: str = ""
    ) -> None:
        self._url = url
        self.policy = policy
        self._cache, self._kept_as = cache, kept_as
        self._opened: tuple[int, Any] | None = None
        self.requests = 0
        """Sent by this process, those that were tried again apart."""
        self.frames_read = 0
        """That came with them."""
        self.bytes_read = 0
        """That came with them."""

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the client of this process."""
        return {**vars(self), "_opened": None, "requests": 0, "frames_read": 0, "bytes_read": 0}

    def of_layer(self, folder: str, content: str) -> "RemoteFrames":
        """Return a reader of the tars in a folder of the set, which are kept where the frames are.

        Args:
            folder: Relative to the set's.
            content: Another one when any byte of the tars is another.
        """
        return RemoteFrames(
            folder_url(self._url, folder), self.policy, self._cache, kept_as=f"{content}-"
        )

    def read(self, refs: Sequence[FrameRef], numbers: Sequence[int]) -> list[bytes]:
        """Return the image of each frame.

        Args:
            refs: The frames.
            numbers: Of each frame in its shard, from 0.

        Raises:
            ShardError: a shard is gone, too short, cannot be read after the retries, or has
                something else at a frame's place.
        """
        blocks = [
            Block(ref.shard, number, ref.offset - BLOCK, ref.offset + ref.size)
            for ref, number in zip(refs, numbers, strict=True)
        ]

        def image(place: int, data: bytes) -> bytes:
            shard = self.name_of(f"{refs[place].shard}.tar")
            return image_in(data[:BLOCK], data[BLOCK:], refs[place], shard)

        return self.read_blocks(blocks, image)

    def read_blocks(
        self,
        wanted: Sequence[Block],
        decode: Callable[[int, bytes], T],
        *,
        on_fetched: Callable[[], None] = lambda: None,
    ) -> list[T]:
        """Return what `decode` makes of each block.

        Args:
            wanted: The blocks.
            decode: Called with the place in `wanted` and the bytes; what it refuses is not kept.
            on_fetched: Called when all has come that was not at hand; what it refuses is not kept.

        Raises:
            ShardError: a tar is gone, too short, or cannot be read after the retries.
        """
        found: dict[int, T] = {}
        for place, block in enumerate(wanted):
            kept = self._cache.get(self._near(block))
            if kept is not None:
                found[place] = decode(place, kept)
        missing = [place for place in range(len(wanted)) if place not in found]
        ranges = list(_coalesced(wanted, missing, self.policy.coalesce_bytes))
        asks = [(self.name_of(f"{r.tar}.tar"), functools.partial(self._fetch, r)) for r in ranges]
        fetched = list(answers(self.policy, asks))
        if fetched:
            on_fetched()
        for one, data in zip(ranges, fetched, strict=True):
            self.requests += 1
            self.frames_read += len(one.places)
            self.bytes_read += len(data)
            for place in one.places:
                block = wanted[place]
                mine = data[block.start - one.start : block.end - one.start]
                found[place] = decode(place, mine)
                self._cache.put(self._near(block), mine)
        return [found[place] for place in range(len(wanted))]

    def name_of(self, file: str) -> str:
        """Return where a file is, as messages show it."""
        return shown(folder_url(self._url, file))

    def _near(self, block: Block) -> Block:
        return dataclasses.replace(block, tar=f"{self._kept_as}{block.tar}")

    def _fetch(self, one: _Range) -> bytes:
        if self._opened is None or self._opened[0] != os.getpid():
            client, _ = open_file_system(self._url, self.policy.storage_options)
            self._opened = os.getpid(), client
        client = self._opened[1]
        # Not through `url_to_fs` again, which costs as much as a warm read.
        path = client._strip_protocol(folder_url(self._url, f"{one.tar}.tar"))
        return read_range(client, path, one.start, one.end)


def _coalesced(wanted: Sequence[Block], places: Sequence[int], gap_bytes: int) -> Iterator[_Range]:
    """Yield what to ask for: blocks of a tar at most `gap_bytes` apart go together."""
    ordered = sorted(places, key=lambda place: (wanted[place].tar, wanted[place].start))
    for tar, group in itertools.groupby(ordered, key=lambda place: wanted[place].tar):
        taken: list[int] = []
        start = end = 0
        for place in group:
            block = wanted[place]
            if taken and block.start - end > gap_bytes:
                yield _Range(tuple(taken), tar, start, end)
                taken = []
            if not taken:
                start = block.start
            taken.append(place)
            end = max(end, block.end)
        yield _Range(tuple(taken), tar, start, end)
