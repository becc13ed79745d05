"""Where a frame lies in a shard, and reading it there from a disk."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from wtours.errors import ShardError
from wtours.shards.images.codecs import FORMAT_NAMES, SUFFIXES, is_whole
from wtours.shards.schema import sample_key

BLOCK = 512  # a tar header
_MAX_NAME = 100  # of a member, in its header
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
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return f"is missing; run `wtours verify {path.parent.name} --repair`"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if size != expected_bytes:
        return (
            f"has {size} bytes instead of {expected_bytes}; "
            f"run `wtours verify {path.parent.name} --repair`"
        )
    return None


def listed_problem(size: int | None, expected_bytes: int) -> str | None:
    """Return what is wrong with a shard of a listing, or None."""
    if size is None:
        return "is missing; copy it there again"
    if size != expected_bytes:
        return f"has {size} bytes instead of {expected_bytes}; copy it there again"
    return None


def read_frames(path: Path, refs: Iterable[FrameRef]) -> Iterator[memoryview]:
    """Yield the images of frames of one shard, each checked to be the frame that is meant.

    As views of what was read: a copy of the image without its header would cost as much again.

    Raises:
        ShardError: the shard is gone, too short, or has something else at a frame's place.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            for ref in refs:
                block = os.pread(descriptor, BLOCK + ref.size, ref.offset - BLOCK)
                yield image_in(memoryview(block), ref, str(path))
        finally:
            os.close(descriptor)
    except FileNotFoundError as error:
        raise ShardError(f"{path} {size_problem(path, 0)}") from error
    except OSError as error:
        raise ShardError(f"{path} cannot be read ({error.strerror})") from error


def image_in(block: Bytes, ref: FrameRef, shard: str) -> Bytes:
    """Return the image behind its tar header, checked to be the frame that is meant.

    Args:
        block: The header and the payload, `BLOCK` + ref.size bytes.
        ref: Which frame.
        shard: The path or URL of the shard, for messages.

    Raises:
        ShardError: something else is there.
    """
    key = sample_key(ref.video_id, ref.frame_index)
    name, dot, kind = (
        bytes(block[:_MAX_NAME]).rstrip(b"\0").decode("ascii", "replace").partition(".")
    )
    if len(block) != BLOCK + ref.size:
        problem = "the file ends before it"
    elif name != key or dot + kind not in SUFFIXES.values():
        problem = "another file is in its place"
    elif not is_whole(image := block[BLOCK:], dot + kind):
        problem = f"it is not a whole {FORMAT_NAMES[dot + kind]}"
    else:
        return image
    raise ShardError(
        f"{shard}: frame {key} is damaged ({problem}); run `wtours verify` to see what else is"
    )
