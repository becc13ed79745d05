"""Where a layer is made: in its folder, or in a copy of what an object store has of it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from wtours.errors import ConflictError
from wtours.shards.index import ShardIndex
from wtours.shards.layers.schema import LAYERS_FOLDER, checked_layer_name, layer_folder
from wtours.storage.atomic import RECEIPTS_FOLDER, remove, sweep
from wtours.storage.locks import lock
from wtours.storage.object_store import ObjectStore
from wtours.storage.scratch import own_folder, scratch_folder
from wtours.storage.store import LocalStore
from wtours.storage.working_copy import WorkingCopy, open_copy, store_of

_MAKING_FILE = "making"


@contextlib.contextmanager
def layer_lock(directory: Path) -> Iterator[None]:
    """Hold a layer on a disk alone, and remove what killed processes left in it."""
    with lock(directory.parent / f".{directory.name}.lock", what=f"layer {directory.name!r}"):
        sweep(directory)
        sweep(directory / RECEIPTS_FOLDER)
        yield


@contextlib.contextmanager
def work_folder(index: ShardIndex, name: str) -> Iterator[Path]:
    """Yield the folder in which a layer of a set is made, wherever the set is.

    On an object store it is a working copy, which takes each shard there when its receipt is
    written, and removes it here. It is a new one each time: a killed command left nothing to resume
    but what is on the store.

    Raises:
        UsageError: it is no name of a layer.
        StorageError: the store cannot be read, or is none that can be published on.
        WtoursError: another process of this machine makes the layer on a disk.
    """
    if isinstance(index.directory, Path):
        directory = layer_folder(index.directory, name)
        with layer_lock(directory):
            yield directory
        return
    on_store = f"{LAYERS_FOLDER}/{checked_layer_name(name)}"
    ObjectStore(index.directory).require_put_if_absent()
    folder, alive = own_folder(scratch_folder() / "layers")
    with alive:
        try:
            copy = WorkingCopy(folder, index.directory)
            open_copy(copy)
            copy.pull([on_store], lambda key: not key.endswith(".tar"))
            yield folder / on_store
        finally:
            remove(folder)


@contextlib.contextmanager
def made_from(directory: Path, what: str) -> Iterator[None]:
    """Hold a layer on an object store, where there is no lock, against whoever makes another of it.

    Two who make the same are no harm to each other. Of two who do not, one could write `layer.json`
    beside tars of the other, which have the same sizes and names.

    Args:
        directory: Of `work_folder`.
        what: Names all that decides the values.

    Raises:
        ConflictError: another process makes it from other things, or was killed when it did.
    """
    store, key = store_of(directory / _MAKING_FILE)
    if isinstance(store, LocalStore):
        yield
        return
    if not store.create(key, what.encode()) and store.get(key) != what.encode():
        raise ConflictError(
            f"{store.url} is being made from something else by another process, or one was killed "
            f"when it did: wait for it, or `wtours layer drop {directory.name}` first"
        )
    try:
        yield
    finally:
        store.delete(key)
