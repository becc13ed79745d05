"""The files of a layer, in `layers/<name>/` of its shard set: `layer.json`, the index, the tars.

A layer has a tar for each shard of the set that it has a value in, of the same name, with a member
`<key>.npy` (or `.npz`) a frame; `index.parquet` has a row for each frame of the set, in the set's
order; `layer.json` is written last, and the layer exists when it is there.
"""

import re
from pathlib import Path
from typing import Any, Final, Literal

import pyarrow as pa
from pydantic import Field, ValidationError

from wtours.errors import ShardError, UsageError
from wtours.shards.schema import Count, IndexRecord, Record
from wtours.storage.atomic import read_bytes
from wtours.storage.store import Store
from wtours.text import first_problem

FORMAT: Final = 1
LAYERS_FOLDER = "layers"
LAYER_FILE = "layer.json"
LAYER_INDEX_FILE = "index.parquet"
LAYER_INDEX_SCHEMA = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("frame_index", pa.int64(), nullable=False),
        pa.field("pts_us", pa.int64(), nullable=False),
        pa.field("offset", pa.int64()),
        pa.field("size", pa.int32()),
    ]
)
"""A row a frame; `offset` and `size` are of the payload in the tar, null where it has no value."""
_NAME = re.compile("[a-z0-9_]{1,32}")


class LayerShard(Record):
    """One tar of a layer."""

    shard: str
    """The shard of the set whose frames it is of; the tar has its name."""
    values: Count = Field(ge=1)
    bytes: Count = Field(ge=1)
    sha256: str


class LayerFile(Record):
    """What `layer.json` holds."""

    format: Literal[1]
    name: str
    set_sha256: str
    """Of the frames that it was made for (`wtours lock` prints it)."""
    origin: str
    """What `wtours layer make --from` was given."""
    about: str
    """What the values are, with shapes and units."""
    params: dict[str, Any]
    """Everything that decides the values, apart from frames and files."""
    frames: Count
    """Of the set."""
    values: Count
    """Frames that have one."""
    index: IndexRecord
    shards: tuple[LayerShard, ...]
    """In the order of the set's shards."""


def layer_folder(set_directory: Path, name: str) -> Path:
    """Return where a layer of a shard set is.

    Raises:
        UsageError: it is no name of a layer.
    """
    return set_directory / LAYERS_FOLDER / checked_layer_name(name)


def checked_layer_name(name: str) -> str:
    """Return the name.

    Raises:
        UsageError: it is no name of a layer.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"layer name {name!r}: use 1 to 32 of a-z, 0-9 and '_'")
    return name


def read_layer_file(set_directory: Path, name: str) -> LayerFile:
    """Return `layer.json` of a layer.

    Raises:
        ShardError: there is no such layer, or the file is damaged.
        UsageError: it is no name of a layer.
    """
    path = layer_folder(set_directory, name) / LAYER_FILE
    try:
        return parse_layer_file(read_bytes(path), str(path), name)
    except (FileNotFoundError, NotADirectoryError) as error:
        has = ", ".join(layer_names(set_directory)) or "none"
        raise ShardError(
            f"{set_directory} has no finished layer {name!r} (it has {has}); run `wtours layer "
            f"make {name}`"
        ) from error


def parse_layer_file(text: bytes, where: str, name: str) -> LayerFile:
    """Return `layer.json` of its bytes.

    Raises:
        ShardError: it is damaged.
    """
    try:
        return LayerFile.model_validate_json(text)
    except ValidationError as error:
        raise ShardError(
            f"{where} is not a {LAYER_FILE} of format {FORMAT} "
            f"({first_problem(error)}); run `wtours layer make {name}`"
        ) from error


def layer_names(set_directory: Path) -> list[str]:
    """Return the names of the finished layers of a shard set."""
    return sorted(
        path.parent.name for path in set_directory.glob(f"{LAYERS_FOLDER}/*/{LAYER_FILE}")
    )


def layer_files(store: Store) -> list[LayerFile]:
    """Return `layer.json` of each finished layer of the shard set in a store, by name.

    Raises:
        ShardError: one is damaged.
    """
    found = {}
    for key in (one.key for one in store.list(LAYERS_FOLDER)):
        folder, _, file = key.rpartition("/")
        name = folder.removeprefix(f"{LAYERS_FOLDER}/")
        if file == LAYER_FILE and "/" not in name:
            found[name] = parse_layer_file(store.get(key), f"{store.url}/{key}", name)
    return [found[name] for name in sorted(found)]
