"""Writing one shard: a WebDataset tar whose bytes depend only on the samples."""

import io
import itertools
import json
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wtours.errors import ShardError
from wtours.shards.schema import MAX_MEMBER_BYTES, sample_key
from wtours.storage.atomic import atomic_path

_OWNER = "wtours"
_MODE = 0o444


@dataclass(frozen=True, slots=True)
class FrameSample:
    """One sample: `<key>.jpg` and `<key>.json`."""

    video_id: str
    frame_index: int
    pts_us: int
    jpeg: bytes
    source: dict[str, Any]
    """Facts of the source video, added to the JSON."""
    blur_boxes: int | None = None
    """How many boxes were blurred in it; None: none were asked for. Only the index says so."""
    blurred_share: float | None = None
    """Of its pixels, 0 to 1."""


@dataclass(frozen=True, slots=True)
class MemberPlace:
    """Where a sample's JPEG lies in its tar: `size` bytes from `offset` on."""

    frame_index: int
    pts_us: int
    offset: int
    size: int
    blur_boxes: int | None = None
    blurred_share: float | None = None


def write_shard(path: Path, samples: Iterable[FrameSample]) -> list[MemberPlace]:
    """Publish the samples as the tar `path` and return a place for each, in order.

    Without a sample nothing is published. `tarfile` and not webdataset's TarWriter (whose samples
    these equal): importing that one imports torch, 3 seconds in each process.

    Raises:
        ShardError: a JPEG is larger than the format allows.
        WtoursError: the disk is full.
    """
    remaining = iter(samples)
    first = next(remaining, None)
    if first is None:
        return []
    with (
        atomic_path(path) as temp,
        # USTAR: one block of 512 bytes before each payload, and no pax record with a time in it.
        tarfile.open(temp, mode="w:", format=tarfile.USTAR_FORMAT) as tar,
    ):
        return list(_write_samples(tar, itertools.chain([first], remaining)))


def _write_samples(tar: tarfile.TarFile, samples: Iterable[FrameSample]) -> Iterator[MemberPlace]:
    for sample in samples:
        key = sample_key(sample.video_id, sample.frame_index)
        offset = tar.offset + tarfile.BLOCKSIZE
        _add(tar, f"{key}.jpg", sample.jpeg)
        _add(tar, f"{key}.json", sample_json(sample))
        yield MemberPlace(
            sample.frame_index,
            sample.pts_us,
            offset,
            len(sample.jpeg),
            sample.blur_boxes,
            sample.blurred_share,
        )


def sample_json(sample: FrameSample) -> bytes:
    """Return the bytes of `<key>.json`."""
    fields = {
        "video_id": sample.video_id,
        "frame_index": sample.frame_index,
        "pts_us": sample.pts_us,
        **sample.source,
    }
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def _add(tar: tarfile.TarFile, name: str, payload: bytes) -> None:
    if len(payload) > MAX_MEMBER_BYTES:
        raise ShardError(
            f"{name} has {len(payload)} bytes; a member has at most {MAX_MEMBER_BYTES}: "
            f"choose a smaller --short-side"
        )
    member = tarfile.TarInfo(name)  # mtime, uid and gid are 0
    member.size = len(payload)
    member.mode = _MODE
    member.uname = member.gname = _OWNER
    tar.addfile(member, io.BytesIO(payload))
