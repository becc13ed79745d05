"""Layers made elsewhere: tables with a row a frame, and files with arrays or images."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from wtours.errors import ShardError, UsageError
from wtours.exporting.units import Unit
from wtours.layers.files import ArraySource, FileSource
from wtours.layers.masks import MaskSource
from wtours.layers.source import LayerSource, require_values
from wtours.layers.tracks import TIME_COLUMN, parse_start, read_track
from wtours.shards.clip_starts import nearest_rows
from wtours.shards.index import UNREADABLE, ShardIndex
from wtours.storage.hashing import sha256_bytes
from wtours.text import counted, first_line, plain

TOLERANCE_US = 1000
"""A row is of the frame within this: times written with three decimals are that of no other."""
_TRACKS = (".gpx", ".csv")
_MAX_ROWS = 2**25
_MAX_COLUMNS = 64
_US = 1_000_000


def external_source(
    index: ShardIndex,
    path: Path,
    *,
    start: str | None = None,
    max_gap_seconds: float = 5.0,
    allow_missing: bool = False,
) -> LayerSource:
    """Return what a file or a folder gives for the frames of a set, by ending and what is there.

    Args:
        index: The frames.
        path: A table .parquet; masks of a COCO .json; a track .gpx or .csv; a .npy; or a folder:
            with `<video_id>` .gpx, .csv or .npy, or with a .npy or .png for each frame, named by
            sample keys.
        start: Of a track; see `track_source`.
        max_gap_seconds: Of a track.
        allow_missing: Frames without a value are allowed.

    Raises:
        ShardError: it is none of these, is damaged, or does not fit the frames.
        UsageError: start is no moment.
    """
    suffix = path.suffix.lower()
    if not path.exists():
        raise ShardError(f"{path} is not there; check the path after external:")
    if path.is_dir():
        names = {p.name for p in path.iterdir()}
        ids = [video.video_id for video in index.videos]
        if any(f"{video_id}{suffix}" in names for video_id in ids for suffix in _TRACKS):
            suffix = _TRACKS[0]
        elif any(f"{video_id}.npy" in names for video_id in ids):
            suffix = ".npy"
        else:
            return FileSource(index, path, allow_missing=allow_missing)
    if suffix == ".parquet":
        return table_source(index, path, allow_missing=allow_missing)
    if suffix == ".npy":
        return ArraySource(index, path)
    if suffix == ".json":
        return MaskSource(index, path, allow_missing=allow_missing)
    if suffix in _TRACKS:
        return track_source(
            index,
            path,
            start=start,
            max_gap_seconds=max_gap_seconds,
            allow_missing=allow_missing,
        )
    raise ShardError(f"{path}: give a .parquet, .json, .gpx, .csv or .npy, or a folder")


class TableSource(LayerSource):
    """A vector a frame, held in memory: of a table of frames, or interpolated from a track.

    Args:
        index: The frames.
        names: What the components are.
        values: (N, len(names)) float64, a row a frame of the index.
        known: (N,) which frames have a value.
        kind: For the receipts.
        allow_missing: Frames without a value are allowed.

    Raises:
        ShardError: a frame has none and that is not allowed, or no frame has one.
    """

    def __init__(
        self,
        index: ShardIndex,
        *,
        names: Sequence[str],
        values: NDArray[np.float64],
        known: NDArray[np.bool_],
        kind: str,
        allow_missing: bool,
    ) -> None:
        require_values(index, known, allow_missing=allow_missing)
        self._index, self._values, self._known = index, values, known
        self.about = f"{kind}: ({len(names)},) float64: {', '.join(names)}"
        self.params = {"kind": kind, "names": list(names)}

    def inputs(self, unit: Unit) -> dict[str, str]:
        """Return the sha256 of the unit's values and times."""
        rows = slice(unit.rows.start, unit.rows.stop)
        data = (self._values[rows], self._known[rows], self._index.pts_us[rows])
        return {"values": sha256_bytes(b"".join(part.tobytes() for part in data))}

    def values(self, unit: Unit) -> Iterator[NDArray[np.float64] | None]:
        """Yield the vector of each frame."""
        for row in unit.rows:
            yield self._values[row] if self._known[row] else None


def table_source(index: ShardIndex, path: Path, *, allow_missing: bool) -> TableSource:
    """Return the values of a Parquet table: video_id, pts_us or time (seconds), and numbers.

    A set of one video needs no video_id.

    Raises:
        ShardError: it is damaged, has other columns, or has a row of no frame or of one twice.
    """
    columns, names = _read_table(path)
    videos = {video.video_id: video for video in index.videos}
    if "video_id" not in columns and len(videos) > 1:
        raise ShardError(f"{path} has no column video_id, and {index.directory} several videos")
    ids = columns.get("video_id", np.full(len(columns["pts_us"]), next(iter(videos)), object))
    values = np.zeros((len(index), len(names)))
    known = np.zeros(len(index), np.bool_)
    for video_id in dict.fromkeys(ids.tolist()):
        if video_id not in videos:
            raise ShardError(
                f"{path} is of {plain(video_id)[:64]!r}, which {index.directory} lacks"
            )
        mine, video = np.flatnonzero(ids == video_id), videos[video_id]
        pts_us, times_us = index.pts_us[video.start : video.stop], columns["pts_us"][mine]
        rows = np.full(len(times_us), -1)  # of the frame that each time is of
        if len(pts_us):
            nearest = nearest_rows(pts_us, times_us)
            rows = np.where(np.abs(pts_us[nearest] - times_us) <= TOLERANCE_US, nearest, -1)
        if (strange := np.flatnonzero(rows < 0)).size:
            moment = times_us[strange[0]] / _US
            raise ShardError(
                f"{path}: row {mine[strange[0]] + 1} is of {video_id} at {moment:.6f} s, where the "
                f"set has no frame ({counted(len(strange), 'such row')}): are the times those of "
                f"the frames?"
            )
        if len(np.unique(rows)) < len(rows):
            raise ShardError(f"{path} has two rows of one frame of {video_id}")
        known[video.start + rows] = True
        values[video.start + rows] = np.column_stack([columns[name][mine] for name in names])
    return TableSource(
        index, names=names, values=values, known=known, kind="table", allow_missing=allow_missing
    )


def track_source(
    index: ShardIndex,
    path: Path,
    *,
    start: str | None,
    max_gap_seconds: float,
    allow_missing: bool,
) -> TableSource:
    """Return what a GPX or CSV says at each frame; for several videos, a folder with one for each.

    Args:
        index: The frames.
        path: `track.gpx`, `track.csv`, or a folder with `<video_id>.gpx` or `.csv`.
        start: The moment of the track at the video's first frame; None: the first point of a GPX,
            second 0 of a CSV.
        max_gap_seconds: Frames between two points farther apart have no value.
        allow_missing: They are allowed.

    Raises:
        ShardError: a track is damaged or does not reach the frames.
        UsageError: start with several videos, or it is no moment.
    """
    if not 0 < max_gap_seconds < 1e6:
        raise UsageError(f"--max-gap ({max_gap_seconds:g}) must be above 0 seconds")
    files = _track_files(index, path)
    if start is not None and len(files) > 1:
        raise UsageError("--start is of one track; these are several")
    names: tuple[str, ...] | None = None
    values, known = np.zeros((len(index), 0)), np.zeros(len(index), np.bool_)
    for video in index.videos:
        if video.video_id not in files:
            continue
        file = files[video.video_id]
        track = read_track(file)
        if names is None:
            names, values = track.names, np.zeros((len(index), len(track.names)))
        if track.names != names:
            raise ShardError(f"{file} has {', '.join(track.names)}, others {', '.join(names)}")
        default_us = int(track.times_us[0]) if file.suffix.lower() == ".gpx" else 0
        begin_us = default_us if start is None else parse_start(start, file)
        rows = slice(video.start, video.stop)
        moments_us = begin_us + index.pts_us[rows]
        values[rows], known[rows] = track.at(moments_us, round(max_gap_seconds * _US))
    return TableSource(
        index,
        names=names or (),
        values=values,
        known=known,
        kind="track",
        allow_missing=allow_missing,
    )


def _track_files(index: ShardIndex, path: Path) -> dict[str, Path]:
    if not path.is_dir():
        if len(index.videos) > 1:
            raise ShardError(
                f"{index.directory} has several videos: give a folder with <video_id>.gpx or .csv"
            )
        return {index.videos[0].video_id: path}
    found: dict[str, Path] = {}
    for file in sorted(p for p in path.iterdir() if p.suffix.lower() in _TRACKS):
        if file.stem in found:
            raise ShardError(f"{file} and {found[file.stem]} are of one video; remove one")
        found[file.stem] = file
    if strange := found.keys() - {video.video_id for video in index.videos}:
        raise ShardError(f"{path / found[min(strange)].name} is of no video of {index.directory}")
    return found


def _read_table(path: Path) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """Return the columns of a table, times as pts_us, and the names of the values."""
    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            schema, num_rows = file.schema_arrow, file.metadata.num_rows
            names = [n for n in schema.names if n not in ("video_id", "pts_us", TIME_COLUMN)]
            times = [n for n in ("pts_us", TIME_COLUMN) if n in schema.names]
            numeric = all(
                pa.types.is_integer(schema.field(n).type)
                or pa.types.is_floating(schema.field(n).type)
                for n in (*names, *times)
            )
            numeric &= "video_id" not in schema.names or _is_text(schema.field("video_id").type)
            if len(times) != 1 or not names or not numeric or len(set(schema.names)) < len(schema):
                raise ShardError(
                    f"{path} must have pts_us or time (seconds), and columns of numbers, perhaps "
                    f"video_id; it has "
                    f"{plain(', '.join(f'{f.name} ({f.type})' for f in schema))[:300]}"
                )
            if len(names) > _MAX_COLUMNS or num_rows > _MAX_ROWS:
                raise ShardError(f"{path} has {len(names)} columns, {num_rows} rows: too many")
            table = file.read(use_threads=False)
    except FileNotFoundError as error:
        raise ShardError(f"{path} is not there; check the path") from error
    except UNREADABLE as error:
        raise ShardError(f"{path} is no Parquet table ({first_line(error)})") from error
    columns = {n: _float64(table[n], n, path) for n in (*names, *times)}
    scale = 1 if times == ["pts_us"] else _US
    columns["pts_us"] = columns[times[0]] * scale
    if not np.isfinite(columns["pts_us"]).all():
        raise ShardError(f"{path}: a time in {times[0]} is not finite")
    if "video_id" in table.column_names:
        columns["video_id"] = np.array(table["video_id"].to_pylist(), object)
    return columns, names


def _is_text(kind: pa.DataType) -> bool:
    plain_kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(plain_kind) or pa.types.is_large_string(plain_kind))


def _float64(column: pa.ChunkedArray, name: str, path: Path) -> NDArray[np.float64]:
    if column.null_count:
        count = counted(column.null_count, "null")
        raise ShardError(f"{path}: column {plain(name)[:64]} has {count}: give numbers")
    try:
        values: NDArray[np.float64] = pc.cast(column, pa.float64()).to_numpy()
    except pa.ArrowInvalid as error:
        raise ShardError(
            f"{path}: {plain(name)[:64]} has whole numbers beyond 2^53, which float64 would round"
        ) from error
    return values
