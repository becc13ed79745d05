"""Moving a shard set between places: disks and object stores, either way.

The copy exists, as every set does, when its `dataset.json` is there, which comes last. A file is
published under a free name, whole; so a copy that was stopped goes on where it was, and two that
run at once end with one set.
"""

import contextlib
import fcntl
import itertools
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from wtours.errors import ConflictError, ShardError, StorageError, UsageError
from wtours.progress import Progress, no_progress
from wtours.shards.layers.schema import (
    LAYER_FILE,
    LAYER_INDEX_FILE,
    LAYERS_FOLDER,
    parse_layer_file,
)
from wtours.shards.schema import (
    ATTRIBUTION_FILE,
    BLUR_BOXES_FILE,
    CARD_FILE,
    CROISSANT_FILE,
    DATASET_FILE,
    INDEX_FILE,
    MAX_DATASET_BYTES,
    QUALITY_FILE,
    Dataset,
    parse_dataset,
)
from wtours.shards.split import SPLIT_FILE
from wtours.storage.atomic import RECEIPTS_FOLDER, TEMP_PREFIX, sweep
from wtours.storage.hashing import digest, sha256_bytes, sha256_file
from wtours.storage.object_store import open_store
from wtours.storage.os_errors import explain_os_errors
from wtours.storage.scratch import scratch_folder
from wtours.storage.store import LocalStore, Store, StoredObject, publish

_AT_WORK_FILE = ".wtours-copy.lock"
"""Held by all who copy into a folder."""
_LAYER_FILE = re.compile(rf"{LAYERS_FOLDER}/[^/]+/{re.escape(LAYER_FILE)}")
_BESIDE = (
    ATTRIBUTION_FILE, BLUR_BOXES_FILE, CARD_FILE, CROISSANT_FILE, QUALITY_FILE, SPLIT_FILE
)  # fmt: skip
"""What may lie beside the shards and goes with them."""


@dataclass(frozen=True, slots=True)
class CopyReport:
    """What a copy of a shard set holds, and how much of it was copied now."""

    source: str
    destination: str
    files: int
    bytes: int
    files_copied: int
    bytes_copied: int
    """The others were there, with the same bytes."""
    files_left: tuple[str, ...]
    """Files of the source's folder that are not of the set."""


def copy_shards(
    source: str | Path,
    destination: str | Path,
    *,
    deep: bool = True,
    jobs: int = 4,
    on_progress: Progress = no_progress,
) -> CopyReport:
    """Copy a finished shard set and its finished layers to another folder or object store.

    Each shard must be, as it is read, the one that dataset.json (or layer.json) describes, to the
    sha256.

    Args:
        source: The set's folder, or its URL.
        destination: The folder or the URL that becomes the set.
        deep: Read every file at the destination, also one that was there, and compare its sha256.
        jobs: Files that are copied at a time.
        on_progress: Called with the destination and the bytes done and in all.

    Raises:
        ShardError: the source is not finished, or a file of it is damaged.
        ConflictError: the destination has a file of that name with other bytes.
        StorageError: a place cannot be read or written.
    """
    sender, receiver = open_store(source), open_store(destination)
    if sender.url == receiver.url:
        raise UsageError(f"{sender.url} cannot be copied onto itself")
    dataset, text = _read_dataset(sender)
    theirs = receiver.stat(DATASET_FILE)
    if theirs is not None and sha256_bytes(text) != receiver.sha256(DATASET_FILE):
        raise ConflictError(
            f"{receiver.url} is another shard set, or another state of this one: choose another "
            f"destination, or remove its {DATASET_FILE} first"
        )
    present = {found.key: found for found in sender.list() if found.key != _AT_WORK_FILE}
    layers = [_layer_file(sender, key) for key in present if _LAYER_FILE.fullmatch(key)]
    known = known_sha256s(dataset) | {k: v for one in layers for k, v in one.items()}
    wanted = _of_set(sender, present, known)
    last = [found for found in wanted if _LAYER_FILE.fullmatch(found.key)]
    wanted = [found for found in wanted if found not in last]
    there = {found.key for found in receiver.list()}
    total = sum(found.bytes for found in (*wanted, *last)) + len(text)
    done = copied_files = copied_bytes = 0
    with _at_work(receiver) as scratch, ThreadPoolExecutor(jobs) as pool:
        copy = partial(_copy_file, sender, receiver, known, scratch, there, deep)
        # A layer exists when its layer.json does, as the set when dataset.json does.
        for found, is_new in itertools.chain(pool.map(copy, wanted), map(copy, last)):
            done += found.bytes
            copied_files += is_new
            copied_bytes += found.bytes if is_new else 0
            on_progress(receiver.url, done, total)
    is_new = publish(receiver, DATASET_FILE, text, sha256=sha256_bytes(text)) == "created"
    if deep:
        _require_arrived(receiver, DATASET_FILE, sha256_bytes(text))
    on_progress(receiver.url, total, total)
    of_set = {*(found.key for found in (*wanted, *last)), DATASET_FILE}
    return CopyReport(
        source=sender.url,
        destination=receiver.url,
        files=len(of_set),
        bytes=total,
        files_copied=copied_files + is_new,
        bytes_copied=copied_bytes + (len(text) if is_new else 0),
        files_left=tuple(sorted(present.keys() - of_set)),
    )


@contextmanager
def _swept(folder: Path) -> Iterator[None]:
    """Remove what killed copies left in a folder, unless another copy is at work there until now.

    Where a set has files, and nowhere else below the folder. Who ends last removes the lock file.
    A file that was removed between its opening and its lock is no longer what others lock: then
    another is opened.
    """
    path = folder / _AT_WORK_FILE
    while True:
        with explain_os_errors(path):
            opened = path.open("a")
        with opened as at_work:
            with contextlib.suppress(OSError):  # another is at work, or the disk has no locks
                fcntl.flock(at_work, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_at(path, at_work):
                    _sweep(folder)
            with contextlib.suppress(OSError):
                fcntl.flock(at_work, fcntl.LOCK_SH)  # waits while another sweeps
            if not _is_at(path, at_work):
                continue
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    fcntl.flock(at_work, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
            return


def _is_at(path: Path, file: IO[str]) -> bool:
    """Return whether an open file is the one of that name."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _sweep(folder: Path) -> None:
    of_set = (folder, *folder.glob(f"{LAYERS_FOLDER}/*"))
    for one in (*of_set, *(each / RECEIPTS_FOLDER for each in of_set)):
        sweep(one)


def _read_dataset(store: Store) -> tuple[Dataset, bytes]:
    found = store.stat(DATASET_FILE)
    if found is None:
        raise ShardError(
            f"{store.url} is not a finished shard set (no {DATASET_FILE}); run `wtours shard`"
        )
    if found.bytes > MAX_DATASET_BYTES:
        raise ShardError(f"{store.url}/{DATASET_FILE} is larger than {MAX_DATASET_BYTES} bytes")
    text = store.get(DATASET_FILE)
    return parse_dataset(text, f"{store.url}/{DATASET_FILE}"), text


def files_of_set(store: Store, dataset: Dataset) -> list[StoredObject]:
    """Return the files of a finished set but for its dataset.json.

    Raises:
        ShardError: a shard or the index is missing.
    """
    return _of_set(store, {found.key: found for found in store.list()}, known_sha256s(dataset))


def _of_set(
    store: Store, present: dict[str, StoredObject], known: dict[str, str]
) -> list[StoredObject]:
    if absent := [key for key in known if key not in present]:
        raise ShardError(f"{store.url}/{absent[0]} is missing; run `wtours verify` there first")
    return [found for key, found in present.items() if _is_of_set(key, known)]


def _layer_file(store: Store, key: str) -> dict[str, str]:
    """Return what a layer's layer.json says of its files, and its own sha256, by name."""
    text = store.get(key)
    folder = key.removesuffix(LAYER_FILE)
    file = parse_layer_file(text, f"{store.url}/{key}", folder.split("/")[-2])
    tars = {f"{folder}{shard.shard}.tar": shard.sha256 for shard in file.shards}
    index = {f"{folder}{LAYER_INDEX_FILE}": file.index.sha256}
    return {**tars, **index, key: sha256_bytes(text)}


def known_sha256s(dataset: Dataset) -> dict[str, str]:
    """Return what dataset.json says of the files that it names, by name."""
    tars = {f"{shard.shard}.tar": shard.sha256 for shard in dataset.shards}
    return {**tars, INDEX_FILE: dataset.index.sha256}


def _is_of_set(key: str, known: Iterable[str]) -> bool:
    folder, _, name = key.rpartition("/")
    of, _, last = folder.rpartition("/")
    if last == RECEIPTS_FOLDER and (not of or f"{of}/{LAYER_FILE}" in known):
        return name.endswith((".json", ".parquet")) and not name.startswith(".")
    return key in known or key in _BESIDE


def _copy_file(
    sender: Store,
    receiver: Store,
    known: Mapping[str, str],
    scratch: Path,
    there: set[str],
    deep: bool,
    found: StoredObject,
) -> tuple[StoredObject, bool]:
    """Copy one file, unless it is there already; return it, and whether it was copied.

    With `deep` also what an earlier run has sent is read: it may have been killed before it did.
    """
    key, known_sha256 = found.key, known.get(found.key)
    is_there = key in there and known_sha256 is not None
    if is_there and receiver.sha256(key, is_read=deep) == known_sha256:
        return found, False
    with local_file(sender, key, scratch) as path:
        sha256 = sha256_file(path)
        if known_sha256 not in (None, sha256):
            raise ShardError(
                f"{sender.url}/{key} is damaged: its sha256 is {sha256[:12]}…, not "
                f"{known_sha256[:12] if known_sha256 else ''}…; run `wtours verify` there first"
            )
        is_new = publish(receiver, key, path, sha256=sha256) == "created"
    if deep:
        _require_arrived(receiver, key, sha256)
    return found, is_new


def _require_arrived(receiver: Store, key: str, sha256: str) -> None:
    """Read a file at the destination, and remove it if it is not what was sent.

    Raises:
        StorageError: it is not.
    """
    if receiver.sha256(key, is_read=True) != sha256:
        receiver.delete(key)
        raise StorageError(
            f"{receiver.url}/{key} did not arrive as it was sent, and was removed; run the command "
            f"again"
        )


@contextmanager
def local_file(store: Store, key: str, scratch: Path) -> Iterator[Path]:
    """Yield an object as a file on this machine: itself, or a copy that is removed afterwards."""
    if isinstance(store, LocalStore):
        yield store.folder / key
        return
    path = scratch / digest([store.url, key])
    try:
        store.fetch(key, path)
        yield path
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def _at_work(receiver: Store) -> Iterator[Path]:
    """Yield a folder for files on their way: on the destination's disk, if it is one."""
    parent = receiver.folder if isinstance(receiver, LocalStore) else scratch_folder()
    with contextlib.ExitStack() as stack:
        with explain_os_errors(parent):
            parent.mkdir(parents=True, exist_ok=True)
        if isinstance(receiver, LocalStore):
            stack.enter_context(_swept(parent))
        prefix = f"{TEMP_PREFIX}copy-"
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=prefix, dir=parent))
        yield Path(folder)
