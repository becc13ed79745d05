"""A workspace on this machine whose published files live on an object store.

Stages work on a disk, by the commit rule; a working copy takes what they publish to the store, by
the same rule. `write_receipt` is the place: when a receipt is written inside a working copy, the
files that it speaks of are put on the store, and it itself last. So the store has the very bytes
that a disk would have, a segment that is done stays done when the machine is lost, and nothing
needs a lock: what another process has published since the working copy looked is never overwritten.
"""

import functools
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

from wtours.errors import ConflictError, StorageError
from wtours.storage.atomic import (
    RECEIPT_FILE,
    RECEIPTS_FOLDER,
    TEMP_PREFIX,
    read_bytes,
    read_json,
    remove,
    write_bytes,
    write_json,
)
from wtours.storage.hashing import digest, sha256_bytes, sha256_file
from wtours.storage.object_store import ObjectStore, open_store
from wtours.storage.receipt_race import publish_receipt
from wtours.storage.remote_calls import ObjectMissingError
from wtours.storage.scratch import Seen, at_hand, make_room, read_seen, scratch_folder, write_seen
from wtours.storage.store import Store, StoredObject, publish

logger = logging.getLogger(__name__)

_MARKER = ".wtours-store.json"
_SEEN_FILE = ".wtours-seen.jsonl"
_FETCHES_AT_ONCE = 16
_REPLACEABLE = (RECEIPT_FILE, f"*/{RECEIPT_FILE}")
"""Receipts of videos and analyses, below a folder; a measurement's goes with the tables'."""
_COMMITTED = (*_REPLACEABLE, f"{RECEIPTS_FOLDER}/*.json")


class WorkingCopy:
    """See the module; `checkout` makes one, and other processes find it by a file in its root.

    Args:
        root: The folder on this machine.
        url: The root on the store.
        shares_segments: Segments that are put together with others are published too: whoever does
            that runs on another machine.
    """

    def __init__(self, root: Path, url: str, *, shares_segments: bool = False) -> None:
        self.root, self.url, self.shares_segments = root, url, shares_segments
        self.keeps_videos = False  # those that were asked for are all needed at the same time
        self._store = ObjectStore(url)
        self._used: set[Path] = set()
        self._seen: dict[str, Seen] = {}
        self._is_loaded = False

    @classmethod
    def checkout(
        cls,
        url: str,
        folders: Iterable[str],
        wants: Callable[[str], bool],
        *,
        shares_segments: bool = False,
    ) -> "WorkingCopy":
        """Bring this machine's copy of a root up to date.

        What an interrupted run has published here, and not yet there, is taken there first.

        Args:
            url: The root on the store.
            folders: Those of the root that are looked at.
            wants: Which objects' bytes are needed here; of the others size and version are noted.
            shares_segments: As above.

        Raises:
            StorageError: the store cannot be read, or is none that can be published on.
        """
        copy = cls(folder_of_copy(url), url, shares_segments=shares_segments)
        copy._store.require_put_if_absent()
        folders = tuple(folders)
        if not folders and (copy.root / _MARKER).is_file():  # that of a command that works in it
            return copy
        open_copy(copy)
        copy._load_once()
        # Before the pull, which gives back what the store has in place of a result of ours.
        copy._finish_commits(folders, _REPLACEABLE, copy._is_replaced_here)
        copy.pull(folders, wants)
        copy._finish_commits(folders, _COMMITTED, lambda path: copy._key(path) not in copy._seen)
        return copy

    def pull(self, folders: Iterable[str], wants: Callable[[str], bool]) -> None:
        """Make the local files those of the store, as far as it has them."""
        self._load_once()
        folders = tuple(folders)
        listed = {found.key: found for folder in folders for found in self._store.list(folder)}
        inside = tuple(f"{folder}/" for folder in folders)
        for key in [key for key in self._seen if key.startswith(inside) and key not in listed]:
            remove(self.root / key)  # removed there by somebody
            del self._seen[key]
        changed = list[StoredObject]()
        for key, found in listed.items():
            seen, path = self._seen.get(key), self.root / key
            if seen is not None and seen.version != found.version:
                seen = None
            if wants(key):
                if seen is None or not _is_as_seen(path, seen):
                    changed.append(found)
            elif seen is None:
                remove(path)
                self._seen[key] = Seen(found.version, found.bytes, None)
        self._fetch_listed(changed)
        self._save()

    def receive(self, published: Mapping[str, Seen]) -> None:
        """Make the local files those that another machine has just published, apart from shards."""
        changed = list[StoredObject]()
        for key, there in published.items():
            if key.endswith(".tar"):
                self._seen[key] = there
            elif self._seen.get(key) != there:
                changed.append(StoredObject(key, there.bytes, there.version))
        self._fetch_listed(changed)

    def _fetch_listed(self, objects: list[StoredObject]) -> None:
        with ThreadPoolExecutor(_FETCHES_AT_ONCE) as pool:
            paths = [self.root / found.key for found in objects]
            digests = pool.map(self._store.fetch_listed, objects, paths)
            for found, sha256 in zip(objects, digests, strict=True):
                self._seen[found.key] = Seen(found.version, found.bytes, sha256)

    def push(self, keys: Iterable[str]) -> None:
        """Publish files that no receipt speaks of, in this order, where they have changed.

        Raises:
            ConflictError: another process has published other bytes meanwhile.
        """
        for key in keys:
            if (self.root / key).is_file():
                self._put(self.root / key)
        self._save()

    def commit(self, receipt: Path) -> None:
        """Publish the files of a receipt that is written, then the receipt.

        Raises:
            ConflictError: another process has published something else under one of the names.
            StorageError: the store cannot be written; the next checkout finishes the commit.
        """
        try:
            self._commit(receipt)
        except ConflictError:
            if self._is_loaded:
                raise
            # A worker of a stage publishes what is new, and reads what was seen only for the rest.
            self._load_once()
            self._commit(receipt)

    def share(self, path: Path) -> None:
        """Publish a segment, by its receipt, or a file, for whoever goes on with it."""
        if self.shares_segments and path.suffix == ".json":
            self.commit(path)
        elif self.shares_segments:
            self._put(path)

    def bring(self, path: Path) -> None:
        """Copy a file from the store, if it is not here; nothing if it is not there either."""
        if not path.is_file() and self.size(path) is not None:
            self._store.fetch(self._key(path), path)

    def discard(self, path: Path) -> None:
        """Remove a file or folder here, and on the store what of it has been published or seen."""
        self._load_once()
        inside = sorted(path.rglob("*"), key=lambda p: (p.name != RECEIPT_FILE, p))
        for key in map(self._key, (path, *inside)):
            if self._seen.pop(key, None) is not None or self.shares_segments:
                self._store.delete(key)
        remove(path)

    def _commit(self, receipt: Path) -> None:
        key, text = self._key(receipt), read_bytes(receipt)
        seen = self._seen.get(key)
        if seen is not None and seen.sha256 == sha256_bytes(text):
            return
        files = {receipt.parent / f["path"]: f["sha256"] for f in json.loads(text)["files"]}
        if seen is not None:  # it must never stand beside files of another result
            found = self._store.stat(key)
            if found is not None and found.version == seen.version:
                self._store.delete(key)
        for path, sha256 in files.items():
            if path.is_file():
                self._put(path)
            elif self._store.sha256(self._key(path)) != sha256:
                raise ConflictError(
                    f"{self.url}/{self._key(path)} is there with other bytes than {receipt} says"
                )
        self._put_tree(receipt.parent / "measurements")
        kept = publish_receipt(self._store, key, text)
        if kept != text:
            write_bytes(receipt, kept)
        self._saw(key, sha256_bytes(kept))
        for path in files:
            if path.suffix == ".tar":  # a set is larger than a scratch disk
                remove(path)

    def size(self, path: Path) -> int | None:
        """Return the bytes of a file that may be on the store alone; None: it is not there."""
        key = self._key(path)
        if key not in self._seen:
            found = self._store.stat(key)
            if found is None:
                return None
            self._seen[key] = Seen(found.version, found.bytes, None)
        return self._seen[key].bytes

    def fetch_video(self, path: Path, sha256: str) -> None:
        """Copy a video from the store, if it is not here; see `at_hand`."""
        with self.at_hand(path, sha256):
            if self.keeps_videos:
                self._used.add(path)

    def at_hand(self, path: Path, sha256: str) -> AbstractContextManager[None]:
        """Hold a video, copied from the store, verified, in place of others that are not in use.

        Raises:
            StorageError: it is not there, is damaged there, or there is no room for it.
        """
        return at_hand(path, functools.partial(self._fetch_video, path, sha256))

    def _fetch_video(self, path: Path, sha256: str) -> None:
        self._load_once()
        num_bytes = self.size(path)
        if num_bytes is None:
            raise StorageError(f"{self.url}/{self._key(path)} is missing")
        make_room(path, num_bytes, is_free=self._is_free)
        self._store.fetch(self._key(path), path)
        found = sha256_file(path)
        if found != sha256:
            remove(path)
            raise StorageError(
                f"{self.url}/{self._key(path)} has the sha256 {found[:12]}…, and its receipt "
                f"says {sha256[:12]}…: remove its folder there and download it again"
            )

    def _is_free(self, video: Path) -> bool:
        return video not in self._used and self._key(video) in self._seen

    def _finish_commits(
        self, folders: Iterable[str], patterns: Iterable[str], is_left: Callable[[Path], bool]
    ) -> None:
        """Take there what an earlier run has published here alone."""
        tops = [self.root / folder for folder in folders]
        for path in sorted(path for top in tops for p in patterns for path in top.glob(p)):
            if _is_temporary(path.relative_to(self.root)) or not is_left(path):
                continue
            try:
                self.commit(path)
            # Another was first; its files are gone; it is no receipt.
            except (ConflictError, ObjectMissingError, ValueError, LookupError) as error:
                logger.warning("%s: %s; this machine's result is dropped", path, error)
                remove(path)

    def _is_replaced_here(self, receipt: Path) -> bool:
        seen = self._seen.get(self._key(receipt))
        return seen is not None and seen.sha256 not in (None, sha256_bytes(read_bytes(receipt)))

    def _put(self, path: Path) -> None:
        key, sha256 = self._key(path), sha256_file(path)
        seen = self._seen.get(key)
        if seen is not None and (seen.sha256 or self._store.sha256(key)) == sha256:
            return
        if seen is None:
            if publish(self._store, key, path, sha256=sha256) == "equal":
                logger.warning("%s/%s was there already, with the same bytes", self.url, key)
        elif not self._store.replace(key, path, seen.version):
            found = self._store.stat(key)
            if found is None:
                publish(self._store, key, path, sha256=sha256)
            elif self._store.sha256(key) != sha256:
                raise ConflictError(
                    f"{self.url}/{key} was changed by another process since this one looked; "
                    f"nothing was overwritten: run the command again"
                )
        self._saw(key, sha256)

    def _put_tree(self, folder: Path) -> None:
        """Publish a folder's files, receipts last; remove there what was and is not in it."""
        prefix = f"{self._key(folder)}/"
        files = [
            path
            for path in sorted(folder.rglob("*"), key=lambda p: (p.name == RECEIPT_FILE, p))
            if path.is_file() and not _is_temporary(path.relative_to(self.root))
        ]
        for path in files:
            self._put(path)
        # What a command has not read was never here: it is not gone.
        were = {key for key, seen in self._seen.items() if seen.sha256 and key.startswith(prefix)}
        for key in were - set(map(self._key, files)):
            self._store.delete(key)
            del self._seen[key]

    def _saw(self, key: str, sha256: str) -> None:
        found = self._store.stat(key)
        if found is not None:
            self._seen[key] = Seen(found.version, found.bytes, sha256)

    def _save(self) -> None:
        write_seen(self.root / _SEEN_FILE, self._seen)

    def _load_once(self) -> None:
        if not self._is_loaded:
            self._is_loaded = True
            self._seen = read_seen(self.root / _SEEN_FILE) | self._seen

    def _key(self, path: Path) -> str:
        return Path(os.path.normpath(path)).relative_to(self.root).as_posix()


def folder_of_copy(url: str) -> Path:
    """Return the root of this machine's copy of a root on a store."""
    return scratch_folder() / "roots" / digest(url)


_OPEN: dict[Path, WorkingCopy] = {}
"""Of this process, by root."""


def working_copy_of(path: Path) -> WorkingCopy | None:
    """Return the working copy that a path lies in; None: it is on a disk only."""
    root = _root_of(path.parent)
    if root is None:
        return None
    if root not in _OPEN:  # a process that a stage has started
        _OPEN[root] = WorkingCopy(root, **read_json(root / _MARKER))
    return _OPEN[root]


def open_copy(copy: WorkingCopy) -> None:
    """Make a working copy the one of its root in this process."""
    marker = {"url": copy.url, "shares_segments": copy.shares_segments}
    write_json(copy.root / _MARKER, marker)
    _OPEN[copy.root] = copy


def share(path: Path) -> None:
    """Publish a segment, by its receipt, or a file for whoever goes on with it elsewhere."""
    copy = working_copy_of(path)
    if copy is not None:
        copy.share(path)


def bring(path: Path) -> None:
    """Copy a file here that another machine has shared, if it is not here."""
    copy = working_copy_of(path)
    if copy is not None:
        copy.bring(path)


def push(path: Path) -> None:
    """Publish a file that no receipt speaks of on the store; on a disk nothing is left to do."""
    copy = working_copy_of(path)
    if copy is not None:
        copy.push([path.relative_to(copy.root).as_posix()])


def discard(path: Path) -> None:
    """Remove a file or folder of a workspace, on the store too."""
    copy = working_copy_of(path)
    if copy is None:
        remove(path)
    else:
        copy.discard(path)


def place_of(path: Path) -> Path | str:
    """Return where a published file or folder is: its path, or its URL on a store."""
    copy = working_copy_of(path / "x")
    if copy is None:
        return path
    return copy.url if path == copy.root else f"{copy.url}/{path.relative_to(copy.root).as_posix()}"


def store_of(path: Path) -> tuple[Store, str]:
    """Return the store that a published file is on, which may be its folder, and its key there."""
    return open_store(place_of(path.parent)), path.name


def commit(receipt: Path) -> None:
    """Publish what a receipt speaks of, and it, on the store; on a disk nothing is left to do."""
    if not any(part.startswith(TEMP_PREFIX) for part in receipt.parts):
        copy = working_copy_of(receipt)
        if copy is not None:
            copy.commit(receipt)


@functools.lru_cache(maxsize=4096)
def _root_of(folder: Path) -> Path | None:
    return next((p for p in (folder, *folder.parents) if (p / _MARKER).is_file()), None)


def _is_as_seen(path: Path, seen: Seen) -> bool:
    """Return whether a file is here as it was on the store, by its size.

    Two results may have JSON of one size. The receipts of segments come by the hundred thousand,
    and none takes the place of another.
    """
    if not (path.is_file() and path.stat().st_size == seen.bytes):
        return False
    is_one_of_many = path.suffix != ".json" or path.parent.name == RECEIPTS_FOLDER
    return is_one_of_many or sha256_file(path) == seen.sha256


def _is_temporary(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
