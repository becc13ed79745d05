"""Making a layer: a tar, its rows and a receipt for each shard of the frames; then its index.

Published in this order, each whole or absent: `<shard>.tar` (none if no frame of the shard has a
value), `receipts/<shard>.parquet`, `receipts/<shard>.json`; then `index.parquet`, and `layer.json`
last. While a shard is made again `layer.json` is gone, so that nobody reads old places in new tars.
So too on an object store (`work_folder.py`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from wtours.errors import ShardError
from wtours.exporting.units import Unit, shard_units
from wtours.layers.source import LayerSource
from wtours.layers.work_folder import layer_lock, made_from, work_folder
from wtours.progress import Progress, no_progress
from wtours.sharding.tar_writer import add_member, open_tar
from wtours.shards.index import ShardIndex
from wtours.shards.layers.arrays import array_suffix, encode_array
from wtours.shards.layers.schema import (
    FORMAT,
    LAYER_FILE,
    LAYER_INDEX_FILE,
    LAYER_INDEX_SCHEMA,
    LAYERS_FOLDER,
    LayerFile,
    LayerShard,
    checked_layer_name,
)
from wtours.shards.schema import IndexRecord, sample_key, set_sha256
from wtours.storage.atomic import RECEIPTS_FOLDER, atomic_path, remove, write_json
from wtours.storage.hashing import digest
from wtours.storage.object_store import open_store
from wtours.storage.receipts import (
    Receipt,
    is_current,
    read_receipt,
    record_file,
    versions_of,
    write_receipt,
)
from wtours.storage.store import LocalStore
from wtours.storage.working_copy import discard, place_of, push

_STAGE = "layer"


@dataclass(frozen=True, slots=True)
class LayerReport:
    """What a layer holds now, and how much of it was there before."""

    directory: Path | str
    """Its folder, or its URL."""
    file: LayerFile
    num_written: int
    num_kept: int


def make_layer(
    index: ShardIndex,
    name: str,
    source: LayerSource,
    *,
    origin: str,
    on_progress: Progress = no_progress,
) -> LayerReport:
    """Publish a layer of a shard set; shards made before, from the same things, are kept.

    Args:
        index: The frames.
        name: Of the layer.
        source: Gives the values.
        origin: What `--from` said, for `verify --repair`.
        on_progress: Called with the layer's name and the frames done and in all.

    Raises:
        ShardError: a value cannot be had.
        UsageError: it is no name of a layer.
        WtoursError: another process makes the layer, the disk is full, or the store is none that
            can be published on.
    """
    units = shard_units(index)
    inputs = {unit.name: source.inputs(unit) for unit in units}
    what = digest([_params(source), inputs])
    with work_folder(index, name) as directory, made_from(directory, what):
        missing = [
            unit
            for unit in units
            if not is_current(
                directory / RECEIPTS_FOLDER / f"{unit.name}.json",
                inputs=inputs[unit.name],
                params=_params(source),
            )
        ]
        if missing:
            discard(directory / LAYER_FILE)
        done = len(index) - sum(len(unit.rows) for unit in missing)
        for unit in missing:
            _write_unit(directory, index, unit, source, inputs[unit.name])
            done += len(unit.rows)
            on_progress(name, done, len(index))
        file = _finalize(directory, index, name, source, origin)
        place = place_of(directory)
    return LayerReport(place, file, len(missing), len(units) - len(missing))


def drop_layer(place: Path | str, name: str) -> str:
    """Remove a layer, finished or not, and return where it was; the frames are not touched.

    Args:
        place: The shard set: its folder, or its URL.
        name: Of the layer.

    Raises:
        ShardError: there is none.
        WtoursError: another process makes it.
    """
    store, folder = open_store(place), f"{LAYERS_FOLDER}/{checked_layer_name(name)}"
    directory = store.folder / folder if isinstance(store, LocalStore) else None
    keys = [found.key for found in store.list(folder)]
    if not (keys if directory is None else directory.is_dir()):
        raise ShardError(f"{store.url} has no layer {name!r}; `wtours layer list` names them")
    # layer.json first: a killed removal leaves no layer.
    if directory is not None:
        with layer_lock(directory):
            remove(directory / LAYER_FILE)
            remove(directory)
    else:
        for key in sorted(keys, key=lambda key: not key.endswith(f"/{LAYER_FILE}")):
            store.delete(key)
    return f"{store.url}/{folder}"


def _params(source: LayerSource) -> dict[str, Any]:
    return {"format": FORMAT, **source.params}


def _write_unit(
    directory: Path, index: ShardIndex, unit: Unit, source: LayerSource, inputs: dict[str, str]
) -> None:
    """Publish the tar, the rows and the receipt of one shard."""
    receipts, tar_path = directory / RECEIPTS_FOLDER, directory / f"{unit.name}.tar"
    receipt = receipts / f"{unit.name}.json"
    discard(receipt)  # it is not of the files that come
    frames = index.frames(unit.rows)
    places: list[tuple[int | None, int | None]] = []
    with atomic_path(tar_path) as temp, open_tar(temp) as tar:
        for frame, value in zip(frames, source.values(unit), strict=True):
            if value is None:
                places.append((None, None))
                continue
            try:
                payload = encode_array(value)
            except ValueError as error:
                raise ShardError(
                    f"the value of {frame.video_id} at {frame.pts_us} us has {error}: make it "
                    f"smaller"
                ) from error
            name = f"{sample_key(frame.video_id, frame.frame_index)}.{array_suffix(value)}"
            places.append((add_member(tar, name, payload), len(payload)))
    num_values = sum(size is not None for _, size in places)
    if source.inputs(unit) != inputs:
        raise ShardError(
            f"what {unit.name} is made from was changed while it was read; run the command again"
        )
    if not num_values:
        discard(tar_path)
    rows = pa.table(
        {
            "video_id": [frame.video_id for frame in frames],
            "frame_index": [frame.frame_index for frame in frames],
            "pts_us": [frame.pts_us for frame in frames],
            "offset": [offset for offset, _ in places],
            "size": [size for _, size in places],
        },
        schema=LAYER_INDEX_SCHEMA,
    )
    with atomic_path(receipts / f"{unit.name}.parquet") as temp:
        pq.write_table(rows, temp, compression="zstd")
    files = [record_file(receipts / f"{unit.name}.parquet", relative_to=receipts)]
    if num_values:
        tar_record = record_file(tar_path, relative_to=directory)
        files.insert(0, tar_record.model_copy(update={"path": f"../{tar_path.name}"}))
    write_receipt(
        receipt,
        Receipt(
            stage=_STAGE,
            key=unit.name,
            inputs=inputs,
            params=_params(source),
            versions=versions_of("numpy", *source.packages),
            files=tuple(files),
            facts={"values": num_values},
        ),
    )


def _finalize(
    directory: Path, index: ShardIndex, name: str, source: LayerSource, origin: str
) -> LayerFile:
    """Publish the index and layer.json; remove shards that the set no longer has."""
    shards: list[LayerShard] = []
    index_path, receipts = directory / LAYER_INDEX_FILE, directory / RECEIPTS_FOLDER
    with (
        atomic_path(index_path) as temp,
        pq.ParquetWriter(temp, LAYER_INDEX_SCHEMA, compression="zstd") as writer,
    ):
        for unit in shard_units(index):
            receipt = read_receipt(receipts / f"{unit.name}.json")
            assert receipt is not None  # made or found just now, under the lock
            writer.write_table(pq.read_table(receipts / f"{unit.name}.parquet"))
            if receipt.facts["values"]:
                tar = receipt.file(".tar")
                shards.append(
                    LayerShard(
                        shard=unit.name,
                        values=receipt.facts["values"],
                        bytes=tar.bytes,
                        sha256=tar.sha256,
                    )
                )
    record = record_file(index_path, relative_to=directory)
    file = LayerFile(
        format=FORMAT,
        name=name,
        set_sha256=set_sha256(index.dataset.shards),
        origin=origin,
        about=source.about,
        params=source.params,
        frames=len(index),
        values=sum(shard.values for shard in shards),
        index=IndexRecord(rows=len(index), bytes=record.bytes, sha256=record.sha256),
        shards=tuple(shards),
    )
    push(index_path)
    write_json(directory / LAYER_FILE, file.model_dump(mode="json"))
    push(directory / LAYER_FILE)
    held, named = {shard.shard for shard in shards}, {unit.name for unit in shard_units(index)}
    for path in (*directory.glob("[!.]*.tar"), *receipts.glob("[!.]*")):
        if path.stem not in (held if path.suffix == ".tar" else named):
            discard(path)
            discard(directory / f"{path.stem}.tar")  # on a store it is not here
    return file
