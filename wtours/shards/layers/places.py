"""Where the files of a layer are: in a folder, or at a URL beside the frames there."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from wtours.errors import ShardError
from wtours.shards.frames import Block
from wtours.shards.layers.schema import LAYER_FILE
from wtours.shards.range_reads.remote import (
    folder_url,
    listed_sizes,
    read_at_url,
    version_at,
)
from wtours.shards.range_reads.remote_frames import RemoteFrames
from wtours.storage.atomic import read_bytes
from wtours.storage.remote_calls import shown

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FolderPlace:
    """The folder of one layer on a disk. What it raises is an OSError or a ShardError."""

    folder: Path
    seen: dict[str, tuple[int, int]] = field(default_factory=dict, compare=False, repr=False)
    """Bytes and date of each file that `sizes` was asked for: values are read from those alone."""

    def name_of(self, file: str) -> str:
        """Return where a file is, as messages show it."""
        return str(self.folder / file)

    def read(self, file: str, num_bytes: int | None = None) -> bytes:
        """Return a file, of which `num_bytes` may be known."""
        return read_bytes(self.folder / file)

    def sizes(self, files: Sequence[str]) -> list[int | None]:
        """Return the bytes of each file, or None if it is missing."""
        paths = {file: self.folder / file for file in files}
        found = {file: _identity(path.stat()) for file, path in paths.items() if path.is_file()}
        self.seen.update(found)
        return [found[file][0] if file in found else None for file in files]

    def values(self, wanted: Sequence[Block], decode: Callable[[int, bytes], T]) -> list[T]:
        """Return what `decode` makes of each block, by its place and its bytes.

        These may be fewer than they should. A tar is opened once.

        Raises:
            ShardError: a tar was made again since `sizes` was asked for: its values lie in the same
                places where they have the same shape.
        """
        opened: dict[str, int] = {}
        try:
            blocks = (self._block(block, opened) for block in wanted)
            return [decode(place, data) for place, data in enumerate(blocks)]
        finally:
            for descriptor in opened.values():
                os.close(descriptor)

    def _block(self, block: Block, opened: dict[str, int]) -> bytes:
        path = self.folder / f"{block.tar}.tar"
        try:
            if block.tar not in opened:
                opened[block.tar] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                if _identity(os.fstat(opened[block.tar])) != self.seen.get(path.name):
                    raise ShardError(
                        f"{path} was made again since the layer was opened: open it again, or run "
                        f"the command again"
                    )
            return os.pread(opened[block.tar], block.end - block.start, block.start)
        except OSError as error:
            error.filename = str(path)  # a failed read does not say where
            raise


@dataclass(frozen=True, slots=True)
class UrlPlace:
    """The folder of one layer on an object store; what is read is kept as the frames are."""

    url: str
    remote: RemoteFrames
    version: str | None
    """Of its layer.json, seen before that was read."""

    def name_of(self, file: str) -> str:
        """See `FolderPlace`."""
        return self.remote.name_of(file)

    def read(self, file: str, num_bytes: int | None = None) -> bytes:
        """See `FolderPlace`."""
        return read_at_url(folder_url(self.url, file), self.remote.policy, num_bytes)

    def sizes(self, files: Sequence[str]) -> list[int | None] | None:
        """See `FolderPlace`; None: the server lists none."""
        found = listed_sizes(self.url, self.remote.policy)
        return None if found is None else [found.get(file) for file in files]

    def values(self, wanted: Sequence[Block], decode: Callable[[int, bytes], T]) -> list[T]:
        """See `FolderPlace`.

        Raises:
            ShardError: the layer was made again since it was opened. Its layer.json goes before any
                tar is another, so it is looked at after what was read; a request more.
        """
        return self.remote.read_blocks(wanted, decode, on_fetched=self._require_same)

    def _require_same(self) -> None:
        if version_at(folder_url(self.url, LAYER_FILE), self.remote.policy) != self.version:
            raise ShardError(
                f"{shown(self.url)} was made again since the layer was opened: open it again, or "
                f"run the command again"
            )


def _identity(found: os.stat_result) -> tuple[int, int]:
    """Return bytes and date of a file; no inode, which some network disks give anew each time."""
    return found.st_size, found.st_mtime_ns
