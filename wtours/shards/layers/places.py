"""Where the files of a layer are: in a folder, or at a URL beside the frames there."""

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from wtours.errors import ShardError
from wtours.shards.range_reads.remote import (
    FetchPolicy,
    RangeReader,
    answers,
    folder_url,
    listed_sizes,
)
from wtours.shards.schema import MAX_DATASET_BYTES
from wtours.storage.atomic import read_bytes
from wtours.storage.remote_calls import open_file_system, shown


@dataclass(frozen=True, slots=True)
class Block:
    """Bytes of a tar: a value and the header before it."""

    file: str
    start: int
    end: int


class LayerPlace(Protocol):
    """The folder of one layer. What it raises is an OSError or a ShardError."""

    def name_of(self, file: str) -> str:
        """Return where a file is, as messages show it."""
        ...

    def read(self, file: str, num_bytes: int | None = None) -> bytes:
        """Return a file, of which `num_bytes` may be known."""
        ...

    def sizes(self, files: Sequence[str]) -> list[int | None] | None:
        """Return the bytes of each file, or None if it is missing; None: the server lists none."""
        ...

    def blocks(self, wanted: Sequence[Block]) -> list[bytes]:
        """Return bytes out of files; fewer where a file ends before."""
        ...


@dataclass(frozen=True, slots=True)
class FolderPlace:
    """On a disk."""

    folder: Path

    def name_of(self, file: str) -> str:
        """See `LayerPlace`."""
        return str(self.folder / file)

    def read(self, file: str, num_bytes: int | None = None) -> bytes:
        """See `LayerPlace`."""
        return read_bytes(self.folder / file)

    def sizes(self, files: Sequence[str]) -> list[int | None]:
        """See `LayerPlace`."""
        paths = [self.folder / file for file in files]
        return [path.stat().st_size if path.is_file() else None for path in paths]

    def blocks(self, wanted: Sequence[Block]) -> list[bytes]:
        """See `LayerPlace`; a tar is opened once."""
        opened: dict[str, int] = {}
        try:
            return [self._block(block, opened) for block in wanted]
        finally:
            for descriptor in opened.values():
                os.close(descriptor)

    def _block(self, block: Block, opened: dict[str, int]) -> bytes:
        path = self.folder / block.file
        try:
            if block.file not in opened:
                opened[block.file] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            return os.pread(opened[block.file], block.end - block.start, block.start)
        except OSError as error:
            error.filename = str(path)  # a failed read does not say where
            raise


@dataclass(frozen=True, slots=True)
class UrlPlace:
    """On an object store: a request a value, those of a clip at once. Nothing is kept near."""

    url: str
    policy: FetchPolicy

    def name_of(self, file: str) -> str:
        """See `LayerPlace`."""
        return shown(folder_url(self.url, file))

    def read(self, file: str, num_bytes: int | None = None) -> bytes:
        """See `LayerPlace`."""
        reader = RangeReader(folder_url(self.url, file), self.policy, size=num_bytes)
        if num_bytes is None and reader.size > MAX_DATASET_BYTES:
            raise ShardError(f"{reader.name} has {reader.size} bytes; it is not ours")
        return reader.read(reader.size)

    def sizes(self, files: Sequence[str]) -> list[int | None] | None:
        """See `LayerPlace`."""
        found = listed_sizes(self.url, self.policy)
        return None if found is None else [found.get(file) for file in files]

    def blocks(self, wanted: Sequence[Block]) -> list[bytes]:
        """See `LayerPlace`; each request is timed out and tried again by itself."""
        asks = [(self.name_of(b.file), functools.partial(self._fetch, b)) for b in wanted]
        return list(answers(self.policy, asks))

    def _fetch(self, block: Block) -> bytes:
        # fsspec keeps a client a process and set of options, which no fork outlives.
        url = folder_url(self.url, block.file)
        client, path = open_file_system(url, self.policy.storage_options)
        data: bytes = client.cat_file(path, start=block.start, end=block.end)
        return data
