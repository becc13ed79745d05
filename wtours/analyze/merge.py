"""From the segments of a video to its measurements. No figure depends on where segments begin."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from wtours.analyze.object_counts import count_detections
from wtours.analyze.schema import (
    DETECTIONS_SCHEMA,
    MEASURED_FILE,
    MEASURED_FRAMES_SCHEMA,
    MEASURED_SCHEMA,
    SCORE_THRESHOLDS,
    SHOTS_SCHEMA,
    SUMMARY_FILE,
    UNDECODABLE,
    DetectorFacts,
    ObjectsSummary,
    open_table,
    table_of,
    write_table,
)
from wtours.analyze.shots import CutFinder
from wtours.errors import AnalysisError, VideoError
from wtours.media.sampling import EVERY_FRAME
from wtours.storage.atomic import write_json
from wtours.workspace.layout import DETECTIONS_FILE, FRAMES_FILE, SHOTS_FILE

_US = 1_000_000


def merge_frames(segments: Sequence[Path], folder: Path) -> None:
    """Write the measurement `frames`.

    Raises:
        VideoError: no frame could be decoded.
    """
    count = 0
    undecodable = sum(undecodable_frames(segment / FRAMES_FILE) or 0 for segment in segments)
    schema = MEASURED_FRAMES_SCHEMA.with_metadata({UNDECODABLE: str(undecodable)})
    with open_table(folder / FRAMES_FILE, schema) as append:
        for segment in segments:
            rows = pq.read_table(segment / FRAMES_FILE)
            append(rows.replace_schema_metadata(schema.metadata))
            count += rows.num_rows
    if count == 0:
        raise VideoError("no frame of it can be decoded; download it again")


def undecodable_frames(path: Path) -> int | None:
    """Return how many frames do not decode, of a measured frames table; None: not counted."""
    count = (pq.read_schema(path).metadata or {}).get(UNDECODABLE.encode())
    return None if count is None else int(count)


def find_shots(frames: Path, folder: Path, *, cut_rate: Fraction, end_us: int) -> None:
    """Write the measurement `shots`.

    Args:
        cut_rate: The video's nominal frame rate, which PySceneDetect counts frames by.
    """
    finder = CutFinder(cut_rate)
    with pq.ParquetFile(frames) as file:
        for rows in file.iter_batches(columns=["pts_us", "content_score"]):
            finder.add(rows["pts_us"].to_pylist(), rows["content_score"].to_pylist())
    with open_table(folder / SHOTS_FILE, SHOTS_SCHEMA) as append:
        for detector, cuts_us in finder.cuts_us().items():
            append(shot_rows(detector, cuts_us, end_us=end_us))


def shot_rows(detector: str, cuts_us: Sequence[int], *, end_us: int) -> pa.Table:
    """Return the rows of shots.parquet of one cut detector: one more than there are cuts."""
    starts_us = [0, *cuts_us]
    columns = {
        "detector": [detector] * len(starts_us),
        "shot": range(len(starts_us)),
        "start_us": starts_us,
        "end_us": [*cuts_us, end_us],
    }
    return table_of(SHOTS_SCHEMA, columns)


def merge_objects(
    segments: Sequence[Path],
    folder: Path,
    *,
    pts_us: NDArray[np.int64],
    detector: DetectorFacts,
    rate: Fraction,
    frame_rate: Fraction,
) -> None:
    """Write the measurement `objects`; without a frame that the detector was given, no summary.

    Args:
        segments: In time order.
        pts_us: (n,) of all frames, ascending.
        rate: Frames a second that it was given.
        frame_rate: The video's own.

    Raises:
        AnalysisError: other frames are decoded now than when `frames` was measured.
    """
    measured = pa.concat_tables(pq.read_table(segment / MEASURED_FILE) for segment in segments)
    measured_pts_us = measured["pts_us"].to_numpy()
    require_same_frames(np.isin(measured_pts_us, pts_us).all())
    write_table(folder / MEASURED_FILE, measured, MEASURED_SCHEMA)
    if not len(measured_pts_us):
        return
    cap = detector.max_per_frame
    made_with = {
        "detector": detector.name,
        "weights_sha256": detector.weights_sha256,
        "vocabulary": "\n".join(detector.vocabulary),
        "threshold": repr(detector.threshold),
        "max_per_frame": "none" if cap is None else str(cap),
        "detect_fps": "native" if rate == EVERY_FRAME else str(rate),
    }
    schema = DETECTIONS_SCHEMA.with_metadata(made_with)
    with open_table(folder / DETECTIONS_FILE, schema) as append:
        for segment in segments:
            rows = pq.read_table(segment / DETECTIONS_FILE)
            ordinals = np.searchsorted(pts_us, rows["pts_us"].to_numpy())
            append(rows.append_column("frame", pa.array(ordinals)).select(schema.names))
    counts = count_detections(folder / DETECTIONS_FILE, measured_pts_us, SCORE_THRESHOLDS)
    stored = counts[SCORE_THRESHOLDS[0]]
    summary = ObjectsSummary(
        detector=detector,
        detect_fps=float(frame_rate if rate == EVERY_FRAME else rate),
        every_frame=rate == EVERY_FRAME,
        frames_analysed=len(measured_pts_us),
        detections=stored.labels.total(),
        frames_at_cap=0 if cap is None else int((stored.per_frame >= cap).sum()),
        counts=tuple(count.figures(threshold) for threshold, count in counts.items()),
    )
    write_json(folder / SUMMARY_FILE, summary.model_dump(mode="json"))


def require_same_frames(is_same: bool | np.bool_) -> None:
    """Refuse to put measurements together that are not of the same frames.

    Raises:
        AnalysisError: they are not, for example by another version of PyAV of a damaged video.
    """
    if not is_same:
        raise AnalysisError(
            "other frames are decoded now than when it was analyzed before: remove its folder "
            "under analysis/ and ask for everything in one command"
        )
