"""Where a frame lies in a shard, and reading it there from a disk."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from wtours.errors import ShardError
from wtours.shards.images.codecs import FORMAT_NAMES, SUFFIXES, is_whole
from wtours.shards.schema import sample_key

BLOCK = 512  # a tar header
_MAX_NAME = 100  # of a member, in its header
_STRETCH_BYTES = 2**19
"""Of a shard that are read at once: few calls, and all still in a core's cache when it is used."""
_GAP_BYTES = 2**12
"""At most, between frames of a stretch: the JSON of the one and the tar header of the other."""
Bytes = TypeVar("Bytes", bytes, memoryview)


@dataclass(frozen=True, slots=True)
class FrameRef:
    """A row of the index: where one frame is."""

    video_id: str
    frame_index: int
    pts_us: int
    shard: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Block:
    """A member of a tar with the header before it."""

    tar: str
    """Its name, without ".tar"."""
    number: int
    """Of the frame in its shard, from 0."""
    start: int
    end: int


def size_problem(path: Path, expected_bytes: int) -> str | None:
    """Return what is wrong with a shard's presence and size, or None."""
    size = None
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        pass
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return listed_problem(size, expected_bytes, f"run `wtours verify {path.parent.name} --repair`")


def listed_problem(
    size: int | None, expected_bytes: int, remedy: str = "copy it there again"
) -> str | None:
    """Return what is wrong with a shard of a listing, or None."""
    if size == expected_bytes:
        return None
    problem = "is missing" if size is None else f"has {size} bytes instead of {expected_bytes}"
    return f"{problem}; {remedy}"


def read_frames(path: Path, refs: Iterable[FrameRef]) -> Iterator[memoryview]:
    """Yield the images of frames of one shard, each checked to be the frame that is meant.

    Each holds until the next is asked for: memory that is new each time would cost as much as the
    reading.

    Raises:
        ShardError: the shard is gone, too short, or has something else at a frame's place.
    """
    with _opened(path) as descriptor:
        buffer = memoryview(bytearray())
        for stretch in _stretches(refs):
            size = sum(ref.size for ref in stretch)
            if size > len(buffer):
                buffer = memoryview(bytearray(size))
            yield from _read(descriptor, stretch, buffer, path)


def read_joined(path: Path, refs: Iterable[FrameRef], images: memoryview) -> None:
    """Read the images of frames of one shard, one after another, into `images`.

    Raises:
        ShardError: as `read_frames`.
    """
    with _opened(path) as descriptor:
        for stretch in _stretches(refs):
            for image in _read(descriptor, stretch, images, path):
                images = images[len(image) :]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
    except FileNotFoundError as error:
        raise ShardError(f"{path} {size_problem(path, 0)}") from error
    except OSError as error:
        raise ShardError(f"{path} cannot be read ({error.strerror})") from error


def _read(
    descriptor: int, stretch: Sequence[FrameRef], images: memoryview, path: Path
) -> Iterator[memoryview]:
    """Read frames that lie beside each other, their images one after another into `images`.

    In one call, in which the system puts each image and what is before it into its place.
    """
    start = end = stretch[0].offset - BLOCK
    pieces: list[memoryview] = []
    for ref in stretch:
        pieces += memoryview(bytearray(ref.offset - end)), images[: ref.size]
        images, end = images[ref.size :], ref.offset + ref.size
    end = start + os.preadv(descriptor, pieces, start)
    for ref, before, image in zip(stretch, pieces[::2], pieces[1::2], strict=True):
        there = max(0, end - ref.offset)  # less than the image, where the file is cut
        yield image_in(before[-BLOCK:], image[:there], ref, str(path))


def _stretches(refs: Iterable[FrameRef]) -> Iterator[list[FrameRef]]:
    """Yield the frames in order, those together that lie beside each other in the shard."""
    stretch: list[FrameRef] = []
    end = 0
    for ref in refs:
        is_next = end <= ref.offset - BLOCK <= end + _GAP_BYTES
        if stretch and not (is_next and ref.offset - stretch[0].offset < _STRETCH_BYTES):
            yield stretch
            stretch = []
        stretch.append(ref)
        end = ref.offset + ref.size
    if stretch:
        yield stretch


def image_in(header: Bytes, image: Bytes, ref: FrameRef, shard: str) -> Bytes:
    """Return the image, checked by it and its tar header to be the frame that is meant.

    Args:
        header: `BLOCK` bytes.
        image: ref.size bytes; fewer where the file ends.
        ref: Which frame.
        shard: The path or URL of the shard, for messages.

    Raises:
        ShardError: something else is there.
    """
    key = sample_key(ref.video_id, ref.frame_index)
    name, dot, kind = (
        bytes(header[:_MAX_NAME]).rstrip(b"\0").decode("ascii", "replace").partition(".")
    )
    if len(image) != ref.size:
        problem = "the file ends before it"
    elif name != key or dot + kind not in SUFFIXES.values():
        problem = "another file is in its place"
    elif not is_whole(image, dot + kind):
        problem = f"it is not a whole {FORMAT_NAMES[dot + kind]}"
    else:
        return image
    raise ShardError(
        f"{shard}: frame {key} is damaged ({problem}); run `wtours verify` to see what else is"
    )
