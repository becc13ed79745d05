"""MDS shards of mosaicml-streaming.

Written here and not by that library: it holds numpy, huggingface_hub and transformers back to
versions that wtours' trainer cannot use. The tests read the files with it.
"""

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wtours.errors import ShardError
from wtours.exporting.units import Exporter, Unit, frames_of
from wtours.shards.images.codecs import Codec
from wtours.shards.index import ShardIndex
from wtours.storage.atomic import atomic_path, write_json

_COLUMNS = (
    # name, encoding, bytes of a value (None: of any length); in the order of their names
    ("frame_index", "int", 8),
    ("image", "jpeg", None),
    ("pts_us", "int", 8),
    ("shot", "int", 8),
    ("video_id", "str", None),
)
_ENCODINGS: dict[Codec, str] = {"jpeg": "jpeg", "png": "png", "webp-lossless": "bytes"}
_CONFIG = {
    "version": 2,
    "format": "mds",
    "compression": None,
    "hashes": [],
    "size_limit": None,
    "column_names": [name for name, _, _ in _COLUMNS],
    "column_sizes": [size for _, _, size in _COLUMNS],
}
_MAX_BYTES = 2**32 - 1
_BUFFER_BYTES = 2**19
"""Written at once. By image, writes that begin and end within a page take half as long again."""
_BEFORE_IMAGE = struct.Struct("<IIq")
"""The lengths of image and video_id, which come before all columns; frame_index."""
_AFTER_IMAGE = struct.Struct("<qq")
"""pts_us and shot; then comes video_id."""


@dataclass(frozen=True)
class MdsExporter(Exporter):
    """`shard.NNNNN.mds` and index.json; `shot` is -1 where the video was not analyzed."""

    suffix = "mds"
    units_at_once = 2

    def is_done(self, index: ShardIndex, unit: Unit, out: Path) -> bool:
        """Return whether the file is there: it is published whole."""
        return self._path(unit, out).is_file()

    def write(self, index: ShardIndex, unit: Unit, out: Path) -> None:
        """Publish a file.

        Raises:
            ShardError: it would have more than 4 GiB, which MDS cannot address.
        """
        video_id = unit.video_id.encode()
        config = json.dumps(_config(index), sort_keys=True).encode()
        head_bytes = 4 + 4 * (len(unit.rows) + 1) + len(config)
        around_image = _BEFORE_IMAGE.size + _AFTER_IMAGE.size + len(video_id)
        sizes = index.size[unit.rows.start : unit.rows.stop].astype(np.int64) + around_image
        ends = np.cumsum([head_bytes, *sizes.tolist()])
        if ends[-1] > _MAX_BYTES:
            raise ShardError(f"{unit.name} is too large for MDS: use a smaller --shard-seconds")
        with (
            atomic_path(self._path(unit, out)) as temp,
            temp.open("wb", buffering=_BUFFER_BYTES) as file,
        ):
            file.write(np.uint32(len(unit.rows)).tobytes() + ends.astype(np.uint32).tobytes())
            file.write(config)
            for frame, shot, image in frames_of(index, unit):
                file.write(_BEFORE_IMAGE.pack(len(image), len(video_id), frame.frame_index))
                file.write(image)
                file.write(_AFTER_IMAGE.pack(frame.pts_us, -1 if shot is None else shot))
                file.write(video_id)

    def finish(self, index: ShardIndex, units: Sequence[Unit], out: Path) -> None:
        """Publish the index."""
        shards = [
            {
                **_config(index),
                "samples": len(unit.rows),
                "raw_data": {
                    "basename": self._path(unit, out).name,
                    "bytes": self._path(unit, out).stat().st_size,
                    "hashes": {},
                },
                "zip_data": None,
            }
            for unit in units
        ]
        write_json(out / "index.json", {"version": 2, "shards": shards})

    def _path(self, unit: Unit, out: Path) -> Path:
        return out / f"shard.{unit.number:05d}.mds"


def _config(index: ShardIndex) -> dict[str, object]:
    image = _ENCODINGS[index.dataset.params.codec]
    encodings = [image if name == "image" else encoding for name, encoding, _ in _COLUMNS]
    return {**_CONFIG, "column_encodings": encodings}
