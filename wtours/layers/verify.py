"""Finding damage in a layer, and making the damaged shards again."""

import tarfile
from collections.abc import Iterable
from pathlib import Path

from wtours.errors import ShardError
from wtours.exporting.units import Unit, shard_units
from wtours.layers.make import LayerReport, layer_lock, make_layer
from wtours.layers.source import LayerSource
from wtours.progress import Progress, no_progress
from wtours.shards.index import ShardIndex
from wtours.shards.layers.layer import Layer
from wtours.shards.layers.schema import (
    LAYER_FILE,
    LAYER_INDEX_FILE,
    layer_folder,
    read_layer_file,
)
from wtours.shards.schema import sample_key
from wtours.shards.verify import ShardProblem
from wtours.storage.atomic import RECEIPTS_FOLDER, remove
from wtours.storage.hashing import sha256_file
from wtours.storage.receipts import files_intact, read_receipt


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
    directory = layer_folder(Path(index.directory), name)
    if not directory.is_dir():
        read_layer_file(Path(index.directory), name)  # says which there are
    problems = []
    units, done = shard_units(index), 0
    for unit in units:
        problem = _unit_problem(directory, unit)
        if problem is not None:
            problems.append(ShardProblem(f"{unit.name}.tar", problem))
    named = {unit.name for unit in units}
    problems += [
        ShardProblem(path.name, "is of no shard of the frames; remove it")
        for path in sorted(directory.glob("[!.]*.tar"))
        if path.stem not in named
    ]
    try:
        layer = Layer.open(index, name)
    except ShardError as error:
        if not problems:
            problems.append(ShardProblem(_named_file(directory), str(error)))
        return problems
    broken = {problem.file for problem in problems}
    recorded = {shard.shard: shard.sha256 for shard in layer.file.shards}
    for unit in units:
        tar = directory / f"{unit.name}.tar"
        if tar.name not in broken:
            problem = _values_problem(layer, unit, tar, index, recorded.get(unit.name))
            if problem is not None:
                problems.append(ShardProblem(tar.name, problem))
        done += len(unit.rows)
        on_progress(name, done, len(index))
    return problems


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
    directory = layer_folder(Path(index.directory), name)
    with layer_lock(directory):
        for problem in problems:
            remove(directory / RECEIPTS_FOLDER / Path(problem.file).with_suffix(".json").name)
    return make_layer(index, name, source, origin=origin, on_progress=on_progress)


def _named_file(directory: Path) -> str:
    return LAYER_INDEX_FILE if (directory / LAYER_FILE).is_file() else LAYER_FILE


def _unit_problem(directory: Path, unit: Unit) -> str | None:
    """Return what is wrong with the files of a shard beside its receipt."""
    receipt = read_receipt(directory / RECEIPTS_FOLDER / f"{unit.name}.json")
    if receipt is None or receipt.status != "done":
        return "has no receipt; run `wtours layer make` again"
    if not files_intact(receipt, directory / RECEIPTS_FOLDER):
        return "is missing, or its bytes are not those that were published"
    return None


def _values_problem(
    layer: Layer, unit: Unit, tar: Path, index: ShardIndex, sha256: str | None
) -> str | None:
    """Return what is wrong with the values of a shard beside the layer's index."""
    rows = [row for row in unit.rows if layer.offset[row] >= 0]
    if not rows:
        return "has values that the index does not have" if tar.exists() else None
    try:
        if sha256_file(tar) != sha256:
            return "is not the tar that layer.json describes"
        with tarfile.open(tar, mode="r:") as members:
            for row, member in zip(rows, members, strict=True):
                frame = index.frame(row)
                key = sample_key(frame.video_id, frame.frame_index)
                if member.name.rpartition(".")[0] != key:
                    return f"has {member.name!r} in the place of {key}"
        for row in rows:
            layer.read([row])
    except (ShardError, tarfile.TarError, OSError, ValueError) as error:
        return f"disagrees with the index: {error}"
    return None
