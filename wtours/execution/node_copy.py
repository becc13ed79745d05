"""A node's own copy of a root on an object store, where it does not have the driver's.

Each worker process has one, which is new: so it never takes for done what somebody has removed from
the store since. What is published from it is told to the driver, which fetches all but the shards.
Only the videos are common to the processes of a node, and kept.

`NodeCheck` is whether a node may work at all: it must make the same bytes, in the same place.
"""

import os
import socket
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Self

from wtours.errors import WtoursError
from wtours.storage.atomic import remove
from wtours.storage.hashing import digest
from wtours.storage.receipts import versions_of
from wtours.storage.scratch import SCRATCH, Seen, own_folder, scratch_folder
from wtours.storage.working_copy import WorkingCopy, open_copy, working_copy_of

_VIDEOS, _ANALYSIS = "videos", "analysis"


class NodeCopy(WorkingCopy):
    """The copy of this process, in a folder of its own; that of one that has ended is removed.

    Args:
        url: The root on the store.

    Raises:
        StorageError: the store cannot be used from this node.
    """

    def __init__(self, url: str) -> None:
        top = scratch_folder() / "nodes" / digest(url)
        root, self._alive = own_folder(top)
        (top / _VIDEOS).mkdir(exist_ok=True)
        (root / _VIDEOS).symlink_to(top / _VIDEOS)
        super().__init__(root, url, shares_segments=True)
        self._is_loaded = True  # nothing was seen from here
        self._published: dict[str, Seen] = {}
        self._store.require_put_if_absent()
        open_copy(self)

    def take_published(self) -> dict[str, Seen]:
        """Return what was published since the last call, by key; only its receipts stay here.

        A worker does tens of thousands of segments, and nobody reads them here again.
        """
        published, self._published = self._published, {}
        for key in published:
            if not key.endswith(".json"):
                remove(self.root / key)
        remove(self.root / _ANALYSIS)  # what was brought, too
        return published

    def _saw(self, key: str, sha256: str) -> None:
        super()._saw(key, sha256)
        if key in self._seen:
            self._published[key] = self._seen[key]

    def _is_free(self, video: Path) -> bool:
        return True  # all of them came from the store


@dataclass(frozen=True, slots=True)
class NodeCheck:
    """What a node must agree on before it works: else it publishes other bytes, or elsewhere."""

    versions: tuple[tuple[str, str], ...]
    """Of the packages that make the bytes."""
    marker: Path | None
    """A file in the workspace, written by the driver; None: nothing is shared."""
    url: str | None = None
    """Of the store that the workspace is the driver's working copy of; None: it is a disk."""
    scratch: Path | None = None
    """The driver's folder for copies; a node may have another in its environment."""

    @classmethod
    def here(cls, marker: Path | None) -> Self:
        """Return what this process has."""
        copy = None if marker is None else working_copy_of(marker)
        versions = tuple(versions_of("av", "simplejpeg").items())
        if copy is None:
            return cls(versions, marker)
        return cls(versions, marker, copy.url, scratch_folder().absolute())

    @property
    def root(self) -> Path | None:
        """Return the driver's root."""
        return None if self.marker is None else self.marker.parent.parent

    def node_copy(self) -> NodeCopy | None:
        """Return this process's own copy of the root, if the node does not have the driver's.

        Raises:
            StorageError: the store cannot be used from this node.
        """
        if self.url is None or self._has_the_drivers():
            return None
        return _node_copy(self.url)

    def _has_the_drivers(self) -> bool:
        if self.scratch is not None:
            os.environ.setdefault(SCRATCH, str(self.scratch))
        is_here = self.marker is not None and self.marker.is_file()
        return is_here and (self.scratch is None or scratch_folder() == self.scratch)

    def require(self) -> None:
        """Refuse to work on a node that does not agree.

        Raises:
            WtoursError: it has another version, or does not see the workspace; names the node.
        """
        problem = _problem(self)
        if problem is not None:
            raise WtoursError(problem)

    def problem(self) -> str | None:
        """Return why this node must not work, in one line; None: it agrees."""
        own = dict(versions_of("av", "simplejpeg"))
        for package, version in self.versions:
            if own[package] != version:
                return (
                    f"node {socket.gethostname()} has {package} {own[package]}, and the driver "
                    f"{version}: the bytes would differ; install the same versions on every node"
                )
        if self.url is not None:
            try:
                self.node_copy()
            except WtoursError as error:
                return f"node {socket.gethostname()} cannot use {self.url}: {error}"
        elif self.root is not None and not self._has_the_drivers():
            return (
                f"node {socket.gethostname()} does not see {self.root}; give as --root a folder of "
                f"a disk that every node has at the same path, or the URL of an object store"
            )
        return None


_node_copy = lru_cache(maxsize=8)(NodeCopy)
_problem = lru_cache(maxsize=8)(NodeCheck.problem)
