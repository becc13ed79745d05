"""Finding damage in a layer, and making the damaged shards again."""

import posixpath
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path

from wtours.errors import ShardError
from wtours.exporting.units import Unit, shard_units
from wtours.layers.make import LayerReport, make_layer
from wtours.layers.source import LayerSource
from wtours.layers.work_folder import work_folder
from wtours.progress import Progress, no_progress
from wtours.sharding.copy_set import local_file
from wtours.shards.index import ShardIndex
from wtours.shards.layers.arrays import decode_array
from wtours.shards.layers.layer import Layer
from wtours.shards.layers.schema import (
    LAYER_FILE,
    LAYER_INDEX_FILE,
    LAYERS_FOLDER,
    LayerFile,
    checked_layer_name,
    parse_layer_file,
    read_layer_file,
)
from wtours.shards.schema import sample_key
from wtours.shards.verify import ShardProblem
from wtours.storage.atomic import RECEIPTS_FOLDER
from wtours.storage.hashing import sha256_file
from wtours.storage.object_store import open_store
from wtours.storage.receipts import parse_receipt
from wtours.storage.store import Store
from wtours.storage.working_copy import discard


def verify_layer(
    index: ShardIndex, name: str, *, on_progress: Progress = no_progress
) -> list[ShardProblem]:
    """Return what is wrong with a layer; every byte and every value of it is read.

    That each value is of its frame is seen by the names of the members, in order, and by the times
    of the layer's index beside those of the frames.

    Args:
        index: The frames.
        name: Of the layer.
        on_progress: Called with the layer's name and the frames done and in all.

    Raises:
        ShardError: there is no such layer.
    """
    store, folder = open_store(index.directory), f"{LAYERS_FOLDER}/{checked_layer_name(name)}"
    there = {found.key.removeprefix(f"{folder}/") for found in store.list(folder)}
    if not there:
        Layer.open(index, name)  # says that there is none
    problems = []
    units, done = shard_units(index), 0
    for unit in units:
        problem = _unit_problem(store, folder, unit)
        if problem is not None:
            problems.append(ShardProblem(f"{unit.name}.tar", problem))
    named = {f"{unit.name}.tar" for unit in units}
    problems += [
        ShardProblem(file, "is of no shard of the frames; remove it")
        for file in sorted(there - named)
        if file.endswith(".tar") and "/" not in file and not file.startswith(".")
    ]
    try:
        layer = Layer.open(index, name)
    except ShardError as error:
        if not problems:
            file = LAYER_INDEX_FILE if LAYER_FILE in there else LAYER_FILE
            problems.append(ShardProblem(file, str(error)))
        return problems
    broken = {problem.file for problem in problems}
    with tempfile.TemporaryDirectory(prefix="wtours-layer-") as scratch:
        for unit in units:
            tar = f"{unit.name}.tar"
            if tar not in broken:
                key = f"{folder}/{tar}" if tar in there else None
                problem = _values_problem(layer, unit, index, store, key, Path(scratch))
                if problem is not None:
                    problems.append(ShardProblem(tar, problem))
            done += len(unit.rows)
            on_progress(name, done, len(index))
    return problems


def layer_file_of(index: ShardIndex, name: str) -> LayerFile:
    """Return `layer.json` of a layer, wherever the set is.

    Raises:
        ShardError: there is no such layer, or the file is damaged.
        StorageError: the store does not have it.
    """
    if isinstance(index.directory, Path):
        return read_layer_file(index.directory, name)
    store, key = open_store(index.directory), f"{LAYERS_FOLDER}/{name}/{LAYER_FILE}"
    return parse_layer_file(store.get(key), f"{store.url}/{key}", name)


def repair_layer(
    index: ShardIndex,
    name: str,
    source: LayerSource,
    problems: Iterable[ShardProblem],
    *,
    origin: str,
    on_progress: Progress = no_progress,
) -> LayerReport:
    """Make the shards of a layer again that `verify_layer` has named, and its index.

    Raises:
        ShardError: the source no longer gives a value.
        WtoursError: another process makes the layer, or the disk is full.
    """
    with work_folder(index, name) as directory:
        discard(directory / LAYER_FILE)
        for problem in problems:
            shard = Path(problem.file).stem
            discard(directory / RECEIPTS_FOLDER / f"{shard}.json")
            discard(directory / f"{shard}.tar")  # a store trusts the digest that came with it
    return make_layer(index, name, source, origin=origin, on_progress=on_progress)


def _unit_problem(store: Store, folder: str, unit: Unit) -> str | None:
    """Return what is wrong with the files of a shard beside its receipt."""
    receipts = f"{folder}/{RECEIPTS_FOLDER}"
    key = f"{receipts}/{unit.name}.json"
    receipt = parse_receipt(store.get(key)) if store.stat(key) is not None else None
    if receipt is None or receipt.status != "done":
        return "has no receipt; run `wtours layer make` again"
    for file in receipt.files:
        key = posixpath.normpath(f"{receipts}/{file.path}")
        if store.stat(key) is None or store.sha256(key, is_read=True) != file.sha256:
            return "is missing, or its bytes are not those that were published"
    return None


def _values_problem(
    layer: Layer, unit: Unit, index: ShardIndex, store: Store, key: str | None, scratch: Path
) -> str | None:
    """Return what is wrong with the values of a shard, whose tar is `key`, beside the index."""
    rows = [row for row in unit.rows if layer.offset[row] >= 0]
    if key is None or not rows:
        return None if key is None and not rows else "has values that the index does not have"
    recorded = {shard.shard: shard.sha256 for shard in layer.file.shards}
    try:
        with local_file(store, key, scratch) as path, tarfile.open(path, mode="r:") as members:
            if sha256_file(path) != recorded.get(unit.name):
                return "is not the tar that layer.json describes"
            for row, member in zip(rows, members, strict=True):
                frame = index.frame(row)
                key_of_frame = sample_key(frame.video_id, frame.frame_index)
                stem, _, suffix = member.name.rpartition(".")
                if stem != key_of_frame:
                    return f"has {member.name!r} in the place of {key_of_frame}"
                if (member.offset_data, member.size) != (layer.offset[row], layer.size[row]):
                    return f"disagrees with the index: {key_of_frame} is at another place"
                payload = members.extractfile(member)
                decode_array(b"" if payload is None else payload.read(), suffix)
    except (tarfile.TarError, OSError, ValueError) as error:
        return f"disagrees with the index: {error}"
    return None
