"""Columns that the analysis adds to the index: the shot and the lightness of each frame.

They come from `<root>/analysis/<video_id>/` when its receipt is of the same video file; otherwise
they are null, and running `shard` again after `analyze` fills them in.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from wtours.errors import ShardError, StorageError
from wtours.shards.index import UNREADABLE
from wtours.storage.hashing import sha256_file
from wtours.storage.receipts import read_receipt
from wtours.text import plain
from wtours.workspace.layout import FRAMES_FILE, SHOTS_FILE, Layout

CUT_DETECTOR = "adaptive"
"""The index has its shots: the default detector of `analyze`."""
_SHOTS = pa.schema(
    {"detector": pa.string(), "shot": pa.int32(), "start_us": pa.int64(), "end_us": pa.int64()}
)
_FRAMES = pa.schema({"pts_us": pa.int64(), "lightness": pa.float32()})


def shot_column(
    layout: Layout, video_id: str, source_sha256: str, pts_us: NDArray[np.int64]
) -> pa.Array:
    """Return the shot (int32, 0-based) of each frame, null where it is not known.

    Args:
        layout: The workspace.
        video_id: The video.
        source_sha256: Of the video file that the frames are from.
        pts_us: (N,) int64, increasing.

    Raises:
        ShardError: the analysis has the receipt, and its table is gone, damaged, or without them.
    """
    table = analysis_table(layout, video_id, source_sha256, SHOTS_FILE, _SHOTS)
    if table is not None:
        table = table.filter(pc.equal(table["detector"], CUT_DETECTOR))
        table = table.drop_null().sort_by("start_us")
    if table is None or not table.num_rows:
        return pa.nulls(len(pts_us), pa.int32())
    start_us, end_us = table["start_us"].to_numpy(), table["end_us"].to_numpy()
    row = np.searchsorted(start_us, pts_us, side="right") - 1
    inside = (row >= 0) & (pts_us < end_us[row])
    return pa.array(table["shot"].to_numpy()[row], pa.int32(), mask=~inside)


def lightness_column(
    layout: Layout, video_id: str, source_sha256: str, pts_us: NDArray[np.int64]
) -> pa.Array:
    """Return the mean CIELAB L* (float32, 0 to 100) of each frame, null where it is not known.

    Arguments and errors are those of `shot_column`.
    """
    table = analysis_table(layout, video_id, source_sha256, FRAMES_FILE, _FRAMES)
    if table is None or not table.num_rows:
        return pa.nulls(len(pts_us), pa.float32())
    table = table.sort_by("pts_us")
    known_us, lightness = table["pts_us"].to_numpy(), table["lightness"].to_numpy()
    row = np.searchsorted(known_us, pts_us).clip(max=len(known_us) - 1)
    known = (known_us[row] == pts_us) & np.isfinite(lightness[row])
    return pa.array(lightness[row], pa.float32(), mask=~known)


def analysis_table(
    layout: Layout, video_id: str, source_sha256: str, name: str, columns: pa.Schema
) -> pa.Table | None:
    """Return a table of the analysis of this very video file, or None if there is none.

    Raises:
        ShardError: the analysis has the receipt, and its table is gone, damaged, or without them;
            or the file system refuses to show whether it has.
    """
    try:
        receipt = read_receipt(layout.analysis_receipt(video_id))
    except StorageError as error:  # of this video, and not of the others
        raise ShardError(str(error)) from error
    if receipt is None or source_sha256 not in receipt.inputs.values():
        return None
    record = next((file for file in receipt.files if file.path == name), None)
    if record is None:
        return None
    path, remedy = layout.analysis_dir(video_id) / name, f"run `wtours analyze --video {video_id}`"
    try:
        if sha256_file(path) != record.sha256:
            raise ShardError(f"{path} is not the table that was published: {remedy}")
        return pq.read_table(path, columns=columns.names).select(columns.names).cast(columns)
    except FileNotFoundError as error:
        raise ShardError(f"{path} is missing: {remedy}") from error
    except UNREADABLE as error:
        raise ShardError(
            f"{path} does not have the columns {', '.join(columns.names)} "
            f"({plain(error)[:300]}); remove it and {remedy}"
        ) from error
