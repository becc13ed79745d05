"""Columns that the analysis adds to the index: the shot and the lightness of each frame.

They come from `<root>/analysis/<video_id>/` when its receipt is of the same video file; otherwise
they are null, and running `shard` again after `analyze` fills them in.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from wtours.errors import ShardError, StorageError
from wtours.shards.index import UNREADABLE
from wtours.storage.receipts import read_receipt
from wtours.text import plain
from wtours.workspace.layout import FRAMES_FILE, SHOTS_FILE, Layout

CUT_DETECTOR = "adaptive"
"""The index has its shots: the default detector of `analyze`."""
_SHOTS = pa.schema(
    {"detector": pa.string(), "shot": pa.int32(), "start_us": pa.int64(), "end_us": pa.int64()}
)
_FRAMES = pa.schema({"pts_us": pa.int64(), "lightness": pa.float32()})


def analysis_columns(
    layout: Layout,
    video_id: str,
    source_sha256: str,
    pts_us: NDArray[np.int64],
    *,
    stream: str | None = None,
) -> dict[str, pa.Array]:
    """Return `shot` and `lightness` of each frame, null where they are not known.

    Args:
        layout: The workspace.
        video_id: The video.
        source_sha256: Of the video file that the frames are from.
        pts_us: (N,) int64, increasing.
        stream: Of a file with several, the one that they are from.

    Raises:
        ShardError: the analysis has the receipt, and a table is gone, damaged, or without them.
    """
    wanted = {SHOTS_FILE: _SHOTS, FRAMES_FILE: _FRAMES}
    tables = analysis_tables(layout, video_id, source_sha256, wanted, stream=stream)
    return {
        "shot": _shots(tables.get(SHOTS_FILE), pts_us),
        "lightness": _lightness(tables.get(FRAMES_FILE), pts_us),
    }


def _shots(table: pa.Table | None, pts_us: NDArray[np.int64]) -> pa.Array:
    """Return the shot (int32, 0-based) of each frame."""
    if table is not None:
        table = table.filter(pc.equal(table["detector"], CUT_DETECTOR))
        table = table.drop_null().sort_by("start_us")
    if table is None or not table.num_rows:
        return pa.nulls(len(pts_us), pa.int32())
    start_us, end_us = table["start_us"].to_numpy(), table["end_us"].to_numpy()
    row = np.searchsorted(start_us, pts_us, side="right") - 1
    inside = (row >= 0) & (pts_us < end_us[row])
    return pa.array(table["shot"].to_numpy()[row], pa.int32(), mask=~inside)


def _lightness(table: pa.Table | None, pts_us: NDArray[np.int64]) -> pa.Array:
    """Return the mean CIELAB L* (float32, 0 to 100) of each frame."""
    if table is None or not table.num_rows:
        return pa.nulls(len(pts_us), pa.float32())
    table = table.sort_by("pts_us")
    known_us, lightness = table["pts_us"].to_numpy(), table["lightness"].to_numpy()
    row = np.searchsorted(known_us, pts_us).clip(max=len(known_us) - 1)
    known = (known_us[row] == pts_us) & np.isfinite(lightness[row])
    return pa.array(lightness[row], pa.float32(), mask=~known)


def analysis_tables(
    layout: Layout,
    video_id: str,
    source_sha256: str,
    wanted: Mapping[str, pa.Schema],
    *,
    stream: str | None = None,
) -> dict[str, pa.Table]:
    """Return the tables that one analysis of this very video file has; {} if there is none.

    All are those of one receipt, also while the analysis is made again.

    Args:
        layout: The workspace.
        video_id: The video.
        source_sha256: Of the video file.
        wanted: The columns of each table, by its name.
        stream: Of a file with several, the one that it has to be of.

    Raises:
        ShardError: the analysis has the receipt, and a table is gone, damaged, or without them;
            or the file system refuses to show whether it has.
    """
    try:
        receipt = read_receipt(layout.analysis_receipt(video_id))
    except StorageError as error:  # of this video, and not of the others
        raise ShardError(str(error)) from error
    if receipt is None or source_sha256 not in receipt.inputs.values():
        return {}
    if stream is not None and receipt.inputs.get("stream", stream) != stream:
        return {}
    folder, remedy = layout.analysis_dir(video_id), f"run `wtours analyze --video {video_id}`"
    return {
        file.path: _table(folder / file.path, file.sha256, wanted[file.path], remedy)
        for file in receipt.files
        if file.path in wanted
    }


def _table(path: Path, sha256: str, columns: pa.Schema, remedy: str) -> pa.Table:
    """Return a table that is, byte for byte, the one of the receipt.

    Raises:
        ShardError: it is not, or does not have the columns.
    """
    try:
        with path.open("rb") as file:  # another one may take its name meanwhile
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                raise ShardError(f"{path} is not the table that was published: {remedy}")
            file.seek(0)
            return pq.read_table(file, columns=columns.names).select(columns.names).cast(columns)
    except FileNotFoundError as error:
        raise ShardError(f"{path} is missing: {remedy}") from error
    except UNREADABLE as error:
        raise ShardError(
            f"{path} does not have the columns {', '.join(columns.names)} "
            f"({plain(error)[:300]}); remove it and {remedy}"
        ) from error
