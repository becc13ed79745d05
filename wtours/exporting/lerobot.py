"""LeRobot's datasets, v3.0: an episode is a stretch of one shot, its images in Parquet.

Written here and not by that library: it holds torch, datasets and others back to older versions.
The tests read the files with it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wtours.errors import UsageError
from wtours.exporting.card import dataset_card
from wtours.exporting.tables import IMAGE, images_of, parquet_writer
from wtours.exporting.units import Exporter, Unit, clip_units, rate_of
from wtours.shards import ShardIndex
from wtours.shards.images.codecs import decode_image
from wtours.shards.schema import CARD_FILE
from wtours.storage.atomic import atomic_path, write_bytes, write_json

_FILES_A_CHUNK = 1000
_BATCH_ROWS = 64
_MEASURED = 100
"""Images that the statistics are of, at most."""
_CAMERA = "observation.image"
_NUMBERS = {
    "timestamp": pa.float32(),
    "frame_index": pa.int64(),
    "episode_index": pa.int64(),
    "index": pa.int64(),
    "task_index": pa.int64(),
    "pts_us": pa.int64(),
}
_SCHEMA = pa.schema(
    [pa.field(_CAMERA, IMAGE), *(pa.field(name, type_) for name, type_ in _NUMBERS.items())]
)


@dataclass(frozen=True)
class LeRobotExporter(Exporter):
    """`data/chunk-000/file-000.parquet`, an episode each, and what LeRobot keeps below `meta/`.

    The images are those of the shards, byte for byte, as `observation.image`; a task is a video.
    There are no actions and no states. `pts_us` is the time in the video, `timestamp` in the
    episode.
    """

    clip_seconds: float = 10.0
    suffix = "lerobot"
    units_at_once = 2

    def units(self, index: ShardIndex) -> list[Unit]:
        """Return a unit for each episode.

        Raises:
            UsageError: two videos differ in frame rate or size, of which LeRobot knows one.
        """
        _common(index)
        return clip_units(index, self.clip_seconds)

    def is_done(self, index: ShardIndex, unit: Unit, out: Path) -> bool:
        """Return whether the file is there: it is published whole."""
        return _path(out, "data", unit.number).is_file()

    def write(self, index: ShardIndex, unit: Unit, out: Path) -> None:
        """Publish an episode."""
        task = [video.video_id for video in index.videos].index(unit.video_id)
        with (
            atomic_path(_path(out, "data", unit.number)) as temp,
            parquet_writer(temp, _SCHEMA, statistics=list(_NUMBERS)) as writer,
        ):
            for first in range(unit.rows.start, unit.rows.stop, _BATCH_ROWS):
                rows = range(first, min(first + _BATCH_ROWS, unit.rows.stop))
                refs, images = images_of(index, rows)
                pts_us = np.array([ref.pts_us for ref in refs])
                numbers = np.arange(rows.start, rows.stop)
                columns = {
                    "timestamp": (pts_us - index.pts_us[unit.rows.start]) / 1_000_000,
                    "frame_index": numbers - unit.rows.start,
                    "episode_index": np.full(len(rows), unit.number),
                    "index": numbers,
                    "task_index": np.full(len(rows), task),
                    "pts_us": pts_us,
                }
                arrays = [pa.array(columns[name], type_) for name, type_ in _NUMBERS.items()]
                writer.write_batch(pa.RecordBatch.from_arrays([images, *arrays], schema=_SCHEMA))

    def finish(self, index: ShardIndex, units: Sequence[Unit], out: Path) -> None:
        """Publish the tables of episodes and tasks, statistics, the card, and at last info.json."""
        _write_table(_path(out, "meta/episodes", 0), _episodes(units))
        _write_table(out / "meta" / "tasks.parquet", _tasks(index))
        write_json(out / "meta" / "stats.json", {_CAMERA: _image_statistics(index)})
        files = "data/*/*.parquet"
        write_bytes(out / CARD_FILE, dataset_card(index.dataset, data_files=files).encode())
        rate, shape = _common(index)
        features: dict[str, Any] = {
            name: {"dtype": type_.to_pandas_dtype().__name__, "shape": [1], "names": None}
            for name, type_ in _NUMBERS.items()
        }
        names = ["height", "width", "channels"]
        features[_CAMERA] = {"dtype": "image", "shape": list(shape), "names": names}
        info = {
            "codebase_version": "v3.0",
            "robot_type": None,
            "total_episodes": len(units),
            "total_frames": len(index),
            "total_tasks": len(index.videos),
            "chunks_size": _FILES_A_CHUNK,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "fps": rate,
            "splits": {"train": f"0:{len(units)}"},
            "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
            "video_path": None,
            "features": features,
        }
        write_json(out / "meta" / "info.json", info)


def _path(out: Path, folder: str, number: int) -> Path:
    chunk, file = divmod(number, _FILES_A_CHUNK)
    return out / folder / f"chunk-{chunk:03d}" / f"file-{file:03d}.parquet"


def _common(index: ShardIndex) -> tuple[float, tuple[int, ...]]:
    """Return the frame rate and the size (H, W, 3) of all videos.

    Raises:
        UsageError: they have not one.
    """
    found: dict[str, tuple[float, tuple[int, ...]]] = {}
    for video in index.videos:
        if video.stop > video.start:
            rate = rate_of(index, video.video_id)
            number = int(rate) if rate.denominator == 1 else float(rate)
            shape = decode_image(index.read_jpegs([video.start])[0]).shape
            found[video.video_id] = (number, shape)
    (first, common), *others = found.items()
    for video_id, facts in others:
        if facts != common:
            each = (f"{size[1]} x {size[0]} at {rate:g}/s" for rate, size in (common, facts))
            raise UsageError(
                f"a dataset of LeRobot has one size and frame rate, and {first} and {video_id} "
                f"differ ({' and '.join(each)}): shard them with one --fps, or as sets of their own"
            )
    return common


def _episodes(units: Sequence[Unit]) -> pa.Table:
    numbers = [unit.number for unit in units]
    return pa.table(
        {
            "episode_index": pa.array(numbers, pa.int64()),
            "tasks": pa.array([[unit.video_id] for unit in units], pa.list_(pa.string())),
            "length": pa.array([len(unit.rows) for unit in units], pa.int64()),
            "data/chunk_index": pa.array([n // _FILES_A_CHUNK for n in numbers], pa.int64()),
            "data/file_index": pa.array([n % _FILES_A_CHUNK for n in numbers], pa.int64()),
            "dataset_from_index": pa.array([unit.rows.start for unit in units], pa.int64()),
            "dataset_to_index": pa.array([unit.rows.stop for unit in units], pa.int64()),
            "meta/episodes/chunk_index": pa.array([0] * len(units), pa.int64()),
            "meta/episodes/file_index": pa.array([0] * len(units), pa.int64()),
        }
    )


def _tasks(index: ShardIndex) -> pa.Table:
    """Return the table of tasks, whose names pandas takes for its index, as LeRobot expects."""
    names = [video.video_id for video in index.videos]
    table = pa.table({"task_index": pa.array(range(len(names)), pa.int64()), "task": names})
    columns = [
        {
            "name": name,
            "field_name": name,
            "pandas_type": kind,
            "numpy_type": kept_as,
            "metadata": None,
        }
        for name, kind, kept_as in (
            ("task_index", "int64", "int64"),
            ("task", "unicode", "object"),
        )
    ]
    described = {"index_columns": ["task"], "column_indexes": [], "columns": columns}
    return table.replace_schema_metadata({"pandas": json.dumps(described)})


def _image_statistics(index: ShardIndex) -> dict[str, Any]:
    """Return each channel's least, greatest, mean and deviation, 0 to 1, (3, 1, 1) nested lists."""
    rows = np.unique(np.linspace(0, len(index) - 1, _MEASURED).round().astype(int)).tolist()
    pixels = [decode_image(image).reshape(-1, 3) / 255 for image in index.read_jpegs(rows)]
    mean = np.mean([one.mean(0) for one in pixels], axis=0)
    square = np.mean([np.square(one).mean(0) for one in pixels], axis=0)
    found = {
        "min": np.min([one.min(0) for one in pixels], axis=0),
        "max": np.max([one.max(0) for one in pixels], axis=0),
        "mean": mean,
        "std": np.sqrt(np.maximum(square - mean**2, 0)),
    }
    return {name: value.reshape(3, 1, 1).tolist() for name, value in found.items()} | {
        "count": [len(rows)]
    }


def _write_table(path: Path, table: pa.Table) -> None:
    with atomic_path(path) as temp:
        pq.write_table(table, temp)
