"""A node's own copy of a root on an object store, where it does not have the driver's.

Each worker process has one, which is new: so it never takes for done what somebody has removed from
the store since. What is published from it is told to the driver, which fetches all but the shards.
Only the videos are common to the processes of a node, and kept.
"""

from pathlib import Path

from wtours.storage.atomic import remove
from wtours.storage.hashing import digest
from wtours.storage.scratch import Seen, own_folder, scratch_folder
from wtours.storage.working_copy import WorkingCopy, open_copy

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
