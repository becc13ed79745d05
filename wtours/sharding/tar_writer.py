"""Writing one shard: a WebDataset tar whose bytes depend only on the samples."""

import contextlib
import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from wtours.errors import ShardError
from wtours.shards.schema import MAX_MEMBER_BYTES, sample_key
from wtours.storage.atomic import atomic_path

_OWNER = "wtours"
_MODE = 0o444


@dataclass(frozen=True, slots=True)
class FrameSample:
    """One sample: `<key>.jpg` (or .png, .webp) and `<key>.json`."""

    video_id: str
    frame_index: int
    pts_us: int
    image: bytes
    source: dict[str, Any]
    """Facts of the source video, added to the JSON."""
    blur_boxes: int | None = None
    """How many boxes were blurred in it; None: none were asked for. Only the index says so."""
    blurred_share: float | None = None
    """Of its pixels, 0 to 1."""


@dataclass(frozen=True, slots=True)
class MemberPlace:
    """Where a sample's image lies in its tar: `size` bytes from `offset` on."""

    frame_index: int
    pts_us: int
    offset: int
    size: int
    blur_boxes: int | None = None
    blurred_share: float | None = None


class ShardTar:
    """A shard being written: published when its block ends, if it has a sample.

    `tarfile` and not webdataset's TarWriter (whose samples these equal): importing that one imports
    torch, 3 seconds in each process.

    Attributes:
        places: Of the samples so far, in order.
    """

    def __init__(self, path: Path, suffix: str = ".jpg") -> None:
        self._suffix = suffix
        self.places: list[MemberPlace] = []
        self._path = path
        self._stack = contextlib.ExitStack()
        self._tar: tarfile.TarFile | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def add(self, sample: FrameSample) -> None:
        """Append a sample.

        Raises:
            ShardError: its image is larger than the format allows.
            WtoursError: the disk is full.
        """
        if self._tar is None:
            temp = self._stack.enter_context(atomic_path(self._path))
            self._tar = self._stack.enter_context(open_tar(temp))
        key = sample_key(sample.video_id, sample.frame_index)
        offset = add_member(self._tar, f"{key}{self._suffix}", sample.image)
        add_member(self._tar, f"{key}.json", sample_json(sample))
        size, blur = len(sample.image), (sample.blur_boxes, sample.blurred_share)
        self.places.append(MemberPlace(sample.frame_index, sample.pts_us, offset, size, *blur))


def open_tar(path: Path) -> tarfile.TarFile:
    """Return a new tar to write: one block of 512 bytes before each payload.

    USTAR, since the records of pax hold a time.
    """
    return tarfile.open(path, mode="w:", format=tarfile.USTAR_FORMAT)


def sample_json(sample: FrameSample) -> bytes:
    """Return the bytes of `<key>.json`."""
    fields = {
        "video_id": sample.video_id,
        "frame_index": sample.frame_index,
        "pts_us": sample.pts_us,
        **sample.source,
    }
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def add_member(tar: tarfile.TarFile, name: str, payload: bytes) -> int:
    """Append a file; return where its payload begins.

    Raises:
        ShardError: it is larger than the format allows.
    """
    if len(payload) > MAX_MEMBER_BYTES:
        raise ShardError(
            f"{name} has {len(payload)} bytes; a member has at most {MAX_MEMBER_BYTES}: "
            f"choose a smaller --short-side"
        )
    member = tarfile.TarInfo(name)  # mtime, uid and gid are 0
    member.size = len(payload)
    member.mode = _MODE
    member.uname = member.gname = _OWNER
    offset = tar.offset + tarfile.BLOCKSIZE
    tar.addfile(member, io.BytesIO(payload))
    return offset
