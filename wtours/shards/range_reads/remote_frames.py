"""Frames of a shard set on an object store: read by ranges, and kept near.

The frames of a clip that are not at hand are asked for at once, those that lie close together in
one request; each request is timed out and tried again by itself, and then the shard is named.
"""

import functools
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from wtours.shards.frames import BLOCK, FrameRef, image_in
from wtours.shards.range_reads.frame_cache import FrameCache
from wtours.shards.range_reads.remote import FetchPolicy, answers, folder_url
from wtours.storage.remote_calls import open_file_system, shown


@dataclass(frozen=True, slots=True)
class _Range:
    """Frames of one shard that are read by one request, in the order of their offsets."""

    places: tuple[int, ...]
    """In the list of frames that was asked for."""
    shard: str
    start: int
    end: int


class RemoteFrames:
    """Reads the frames of a shard set at a URL; may be pickled, forked and shared by threads.

    Args:
        url: Of the set's folder.
        policy: Retries, timeouts, the caches.
        set_id: Names the set by its content.
    """

    def __init__(self, url: str, policy: FetchPolicy, set_id: str) -> None:
        self._url = url
        self.policy = policy
        self._cache = FrameCache(
            policy.cache_dir,
            set_id,
            disk_bytes=policy.cache_bytes,
            memory_bytes=policy.memory_bytes,
        )
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

    def read(self, refs: Sequence[FrameRef], numbers: Sequence[int]) -> list[bytes]:
        """Return the image of each frame.

        Args:
            refs: The frames.
            numbers: Of each frame in its shard, from 0.

        Raises:
            ShardError: a shard is gone, too short, cannot be read after the retries, or has
                something else at a frame's place.
        """
        blocks = {
            place: block
            for place, (ref, number) in enumerate(zip(refs, numbers, strict=True))
            if (block := self._cache.get(ref, number)) is not None
        }
        missing = [place for place in range(len(refs)) if place not in blocks]
        ranges = list(_coalesced(refs, missing, self.policy.coalesce_bytes))
        asks = [(shown(self._tar(r.shard)), functools.partial(self._fetch, r)) for r in ranges]
        for one, data in zip(ranges, answers(self.policy, asks), strict=True):
            self.requests += 1
            self.frames_read += len(one.places)
            self.bytes_read += len(data)
            for place in one.places:
                ref = refs[place]
                first = ref.offset - BLOCK - one.start
                block = data[first : first + BLOCK + ref.size]
                image_in(block, ref, shown(self._tar(ref.shard)))
                blocks[place] = block
                self._cache.put(ref, numbers[place], block)
        return [
            image_in(blocks[place], ref, shown(self._tar(ref.shard)))
            for place, ref in enumerate(refs)
        ]

    def _fetch(self, one: _Range) -> bytes:
        if self._opened is None or self._opened[0] != os.getpid():
            client, _ = open_file_system(self._url, self.policy.storage_options)
            self._opened = os.getpid(), client
        client = self._opened[1]
        # Not through `url_to_fs` again, which costs as much as a warm read.
        path = client._strip_protocol(self._tar(one.shard))
        data: bytes = client.cat_file(path, start=one.start, end=one.end)
        if len(data) != one.end - one.start:
            raise OSError(f"{len(data)} bytes came for the {one.end - one.start} from {one.start}")
        return data

    def _tar(self, shard: str) -> str:
        return folder_url(self._url, f"{shard}.tar")


def _coalesced(refs: Sequence[FrameRef], places: Sequence[int], gap_bytes: int) -> Iterator[_Range]:
    """Yield what to ask for: frames of a shard at most `gap_bytes` apart go together."""
    ordered = sorted(places, key=lambda place: (refs[place].shard, refs[place].offset))
    for shard, group in itertools.groupby(ordered, key=lambda place: refs[place].shard):
        taken: list[int] = []
        start = end = 0
        for place in group:
            ref = refs[place]
            if taken and ref.offset - BLOCK - end > gap_bytes:
                yield _Range(tuple(taken), shard, start, end)
                taken = []
            if not taken:
                start = ref.offset - BLOCK
            taken.append(place)
            end = max(end, ref.offset + ref.size)
        yield _Range(tuple(taken), shard, start, end)
