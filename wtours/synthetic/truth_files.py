"""The truth of rendered walks as files, which `wtours layer make --from external:` takes.

A value for each frame of a shard set, in the pixels of the video:

    depth/<key>.npy       (H, W) float32: meters along the view, inf in the sky
    flow/<key>.npy        (2, H, W) float32: to the frame an interval later in the same shot, NaN
                          where that does not show the point; no file where there is no such frame
    instances/<key>.png   16 bits: the track id of each pixel's object, 0 for none
    pose.parquet          video_id, pts_us, and the 3 x 4 matrix from camera to world coordinates,
                          row by row: r11 r12 r13 x r21 r22 r23 y r31 r32 r33 z
"""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from wtours.errors import ShardError
from wtours.layers.flow import later_rows
from wtours.progress import Progress, no_progress
from wtours.shards.index import ShardIndex
from wtours.shards.schema import sample_key
from wtours.storage.atomic import atomic_path, remove
from wtours.storage.receipts import read_receipt
from wtours.synthetic.ground_truth import WalkTruth, load_truth

POSE_COLUMNS = ("r11", "r12", "r13", "x", "r21", "r22", "r23", "y", "r31", "r32", "r33", "z")
_US = 1_000_000
_TOLERANCE_US = 1000


def publish_truth_files(
    index: ShardIndex,
    rendered: Path,
    out: Path,
    *,
    interval_seconds: float,
    on_progress: Progress = no_progress,
) -> int:
    """Write the truth of the frames of a set that are of rendered walks; return their number.

    Args:
        index: The frames.
        rendered: Holds <video_id>.receipt.json and truth/<video_id>, as `render_walks` makes them.
        out: The folder to write; an older one is replaced.
        interval_seconds: From a frame to the one that its flow leads to.
        on_progress: Called with the name of `out` and the frames done and in all.

    Raises:
        UsageError: the interval makes no sense.
        ShardError: no frame has another at the interval; no video of the set is one of the walks,
            or one is of the same name but another file.
    """
    later = later_rows(index, interval_seconds)
    truths = _truths(index, rendered)
    rows = [
        (row, truths[video.video_id])
        for video in index.videos
        if video.video_id in truths
        for row in range(video.start, video.stop)
    ]
    poses: list[dict[str, Any]] = []
    with atomic_path(out) as temp:
        for name in ("depth", "flow", "instances"):
            (temp / name).mkdir(parents=True)
        for row, truth in rows:
            poses.append(_write_frame(temp, index, row, int(later[row]), truth))
            on_progress(out.name, len(poses), len(rows))
        pq.write_table(pa.Table.from_pylist(poses), temp / "pose.parquet")
        remove(out)
    return len(poses)


def _truths(index: ShardIndex, rendered: Path) -> dict[str, WalkTruth]:
    """Return the truth of each video of a set that is a rendered walk."""
    truths = {}
    for video in index.dataset.videos:
        receipt = read_receipt(rendered / f"{video.video_id}.receipt.json")
        if receipt is None:
            continue
        if receipt.file(".mp4").sha256 != video.source_sha256:
            raise ShardError(
                f"{video.video_id} of {index.directory} was made from another file than "
                f"{rendered / video.video_id}.mp4; download and shard it again"
            )
        truths[video.video_id] = load_truth(rendered / "truth" / video.video_id)
    if not truths:
        raise ShardError(
            f"no video of {index.directory} is a rendered walk of {rendered}; give a set that was "
            f"made from what `wtours render` made there"
        )
    return truths


def _write_frame(
    folder: Path, index: ShardIndex, row: int, later: int, truth: WalkTruth
) -> dict[str, Any]:
    """Write the files of a frame, and return its row of the poses.

    Args:
        folder: Of all files.
        index: The frames.
        row: Of the frame.
        later: Row of the one that its flow leads to, or -1.
        truth: Of the walk.
    """
    frame, number = index.frame(row), _number(index, row, truth)
    key = sample_key(frame.video_id, frame.frame_index)
    np.save(folder / "depth" / f"{key}.npy", truth.depth(number))
    _write_png(folder / "instances" / f"{key}.png", truth.instances(number))
    if later >= 0:
        end, street_of = _number(index, later, truth), truth.spec.street_of
        if street_of(number) == street_of(end):  # before an analysis the set knows no cuts
            np.save(folder / "flow" / f"{key}.npy", truth.flow(number, end))
    pose = truth.pose(number)[:3].ravel().tolist()
    names = dict(zip(POSE_COLUMNS, pose, strict=True))
    return {"video_id": frame.video_id, "pts_us": frame.pts_us, **names}


def _number(index: ShardIndex, row: int, truth: WalkTruth) -> int:
    """Return which frame of the walk a row is."""
    pts_us = int(index.pts_us[row])
    number = round(pts_us * truth.spec.frame_rate / _US)
    if abs(truth.spec.pts_us(number) - pts_us) > _TOLERANCE_US:
        raise ShardError(f"{index.frame(row)} is no frame of the walk that was rendered")
    return number


def _write_png(path: Path, image: NDArray[np.uint16]) -> None:
    _, data = cv2.imencode(".png", image)
    path.write_bytes(data.tobytes())
