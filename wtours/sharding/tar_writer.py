"""Writing one shard: a WebDataset tar whose bytes depend only on the samples."""

import contextlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wtours.errors import ShardError
from wtours.shards.schema import MAX_MEMBER_BYTES, sample_key
from wtours.storage.atomic import atomic_path

_OWNER = "wtours"
_MODE = 0o444


class ShardTar(contextlib.ExitStack):
    """A shard being written: published when its block ends, if it has a sample.

    `tarfile` and not webdataset's TarWriter (whose samples these equal): importing that one imports
    torch, 3 seconds in each process.

    Attributes:
        rows: Those of the index, of the samples so far, in order: an image is `size` bytes from
            `offset` on.
    """

    def __init__(self, path: Path, suffix: str = ".jpg") -> None:
        super().__init__()
        self._suffix = suffix
        self.rows: list[dict[str, Any]] = []
        self._path = path
        self._tar: tarfile.TarFile | None = None

    def add(
        self,
        video_id: str,
        frame_index: int,
        pts_us: int,
        image: bytes,
        source: Mapping[str, Any],
        **blurred: float,
    ) -> None:
        """Append a sample: `<key>.jpg` (or .png, .webp) and `<key>.json`.

        Args:
            video_id: The video.
            frame_index: Of the frame.
            pts_us: Its time.
            image: Encoded.
            source: Facts of the source video, added to the JSON.
            blurred: `blur_boxes` and `blurred_share`, for the row alone, if any were asked for.

        Raises:
            ShardError: its image is larger than the format allows.
            WtoursError: the disk is full.
        """
        if self._tar is None:
            temp = self.enter_context(atomic_path(self._path))
            self._tar = self.enter_context(open_tar(temp))
        key, frame = (
            sample_key(video_id, frame_index),
            {"frame_index": frame_index, "pts_us": pts_us},
        )
        offset = add_member(self._tar, f"{key}{self._suffix}", image)
        fields = {"video_id": video_id, **frame, **source}
        text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
        add_member(self._tar, f"{key}.json", text.encode())
        self.rows.append({**frame, "offset": offset, "size": len(image), **blurred})


def open_tar(path: Path) -> tarfile.TarFile:
    """Return a new tar to write: one block of 512 bytes before each payload.

    USTAR, since the records of pax hold a time.
    """
    return tarfile.open(path, mode="w:", format=tarfile.USTAR_FORMAT)


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
