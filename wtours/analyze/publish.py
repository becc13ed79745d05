"""From the measurements of a video to the tables that are read, and back.

docs/reference/tables.md describes the tables. They are made again whenever a measurement is
new. Earlier versions of wtours published the tables alone: there the measurements are
taken from them.
"""

import os
import shutil
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from wtours.analyze.measurements import (
    FRAMES,
    NAMES,
    OBJECTS,
    QUALITY,
    SHOTS,
    TRANSNET,
    Measurements,
    Stored,
)
from wtours.analyze.merge import require_same_frames, shot_rows, undecodable_frames
from wtours.analyze.schema import (
    FORMAT,
    FRAMES_SCHEMA,
    MEASURED_FILE,
    MEASURED_FRAMES_SCHEMA,
    MEASURED_SCHEMA,
    SHOTS_SCHEMA,
    SUMMARY_FILE,
    TRANSITIONS_SCHEMA,
    UNDECODABLE,
    LightnessSummary,
    ObjectsSummary,
    VideoSummary,
    table_of,
    write_table,
)
from wtours.analyze.transnet import TRANSNETV2, first_frames
from wtours.media.reader import VideoMetadata
from wtours.storage.atomic import RECEIPT_FILE, atomic_path, read_json, remove, write_json
from wtours.storage.receipts import Receipt, record_file, write_receipt
from wtours.workspace.layout import DETECTIONS_FILE, FRAMES_FILE, SHOTS_FILE

_US = 1_000_000
_LIGHTNESS_UNIT = 2.0**-17
"""float32 values up to 100 are summed as whole numbers of this: exactly, in any order."""


def published_params(params: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the params of the tables' receipt, from those of the measurements in them."""
    plain = {name: {k: v for k, v in own.items() if k != "format"} for name, own in params.items()}
    found: dict[str, Any] = {"format": FORMAT, "objects": plain.get(OBJECTS)}
    found["cut_detectors"] = plain[SHOTS]["cut_detectors"]
    optional = {TRANSNETV2: TRANSNET, QUALITY: QUALITY}
    return found | {key: plain[name] for key, name in optional.items() if name in plain}


def publish_tables(
    measurements: Measurements, stored: Stored, metadata: VideoMetadata, *, not_measured: str | None
) -> None:
    """Publish the tables of the measurements that are there, the receipt last.

    Args:
        stored: Which are there: `frames` and `shots` at least.
        not_measured: Why objects are not among them.

    Raises:
        AnalysisError: they are not of the same frames.
    """
    folder = measurements.folder
    frames = pq.read_table(measurements.path(FRAMES) / FRAMES_FILE)
    pts_us = frames["pts_us"].to_numpy()
    end_us = int(pts_us[-1]) + metadata.last_duration_us
    shots = [pq.read_table(measurements.path(SHOTS) / SHOTS_FILE)]
    schema, columns = FRAMES_SCHEMA, {name: frames[name] for name in frames.column_names}
    columns["frame"] = pa.array(np.arange(len(pts_us)))
    measured_pts_us, objects = _objects(measurements, stored)
    require_same_frames(np.isin(measured_pts_us, pts_us).all())
    columns["objects_measured"] = pa.array(np.isin(pts_us, measured_pts_us))
    if TRANSNET in stored:
        transitions = pq.read_table(measurements.path(TRANSNET) / FRAMES_FILE)[TRANSNETV2]
        require_same_frames(len(transitions) == len(pts_us))
        schema = schema.append(TRANSITIONS_SCHEMA.field(0))
        columns[TRANSNETV2] = transitions
        cuts_us = pts_us[first_frames(transitions.to_numpy())].tolist()
        shots.append(shot_rows(TRANSNETV2, cuts_us, end_us=end_us))

    remove(folder / RECEIPT_FILE)  # it must never stand beside tables of two analyses
    write_table(folder / FRAMES_FILE, table_of(schema, columns), schema)
    write_table(folder / SHOTS_FILE, pa.concat_tables(shots), SHOTS_SCHEMA)
    remove(folder / DETECTIONS_FILE)
    if objects is not None:
        _link(measurements.path(OBJECTS) / DETECTIONS_FILE, folder / DETECTIONS_FILE)
    elif OBJECTS in stored:
        not_measured = "every frame is corrupt"
    detectors = pc.value_counts(pa.concat_tables(shots)["detector"]).to_pylist()
    summary = VideoSummary(
        video_id=measurements.video.video_id,
        video_sha256=measurements.video.sha256,
        width=metadata.width,
        height=metadata.height,
        frame_rate=str(metadata.frame_rate),
        frames=len(pts_us),
        corrupt_frames=pc.sum(frames["is_corrupt"]).as_py(),
        undecodable_frames=undecodable_frames(measurements.path(FRAMES) / FRAMES_FILE),
        seconds=end_us / _US,
        last_pts_us=int(pts_us[-1]),
        cuts={item["values"]: item["counts"] - 1 for item in detectors},
        lightness=_lightness_summary(frames["lightness"].to_numpy()),
        objects=objects,
        objects_not_measured=None if objects is not None else not_measured,
    )
    write_json(folder / SUMMARY_FILE, summary.model_dump(mode="json"))
    names = [FRAMES_FILE, SHOTS_FILE, SUMMARY_FILE, *([DETECTIONS_FILE] if objects else [])]
    receipts = [stored[name] for name in NAMES if name in stored]
    receipt = Receipt(
        stage="analyze",
        key=measurements.video.video_id,
        inputs=measurements.video.inputs,
        params=published_params({name: receipt.params for name, receipt in stored.items()}),
        versions={k: v for receipt in receipts for k, v in receipt.versions.items()},
        files=tuple(record_file(folder / name, relative_to=folder) for name in sorted(names)),
    )
    write_receipt(folder / RECEIPT_FILE, receipt)


def adopt_tables(measurements: Measurements, stored: Stored) -> None:
    """Publish the measurements that are not there but in the tables, where these are whole."""
    folder = measurements.folder
    receipt = measurements.receipt_in(folder)
    if receipt is None:
        return
    frames, shots = pq.read_table(folder / FRAMES_FILE), pq.read_table(folder / SHOTS_FILE)
    summary = VideoSummary.model_validate(read_json(folder / SUMMARY_FILE))
    if FRAMES not in stored:
        params, schema = {"format": FORMAT}, MEASURED_FRAMES_SCHEMA
        if summary.undecodable_frames is not None:
            schema = schema.with_metadata({UNDECODABLE: str(summary.undecodable_frames)})
        with measurements.publish(FRAMES, params, receipt.versions) as path:
            write_table(path / FRAMES_FILE, frames, schema)
    if SHOTS not in stored:
        detectors = receipt.params["cut_detectors"]
        params = measurements.shots_params(detectors)
        with measurements.publish(SHOTS, params, receipt.versions) as path:
            own = shots.filter(pc.field("detector").isin(detectors))
            write_table(path / SHOTS_FILE, own, SHOTS_SCHEMA)
    if OBJECTS not in stored and receipt.params["objects"] is not None:
        params = {"format": FORMAT, **receipt.params["objects"]}
        with measurements.publish(OBJECTS, params, receipt.versions) as path:
            measured = frames.filter(pc.field("objects_measured"))
            write_table(path / MEASURED_FILE, measured, MEASURED_SCHEMA)
            if summary.objects is not None:
                _link(folder / DETECTIONS_FILE, path / DETECTIONS_FILE)
                write_json(path / SUMMARY_FILE, summary.objects.model_dump(mode="json"))
    if TRANSNET not in stored and TRANSNETV2 in receipt.params:
        params = {"format": FORMAT, **receipt.params[TRANSNETV2]}
        with measurements.publish(TRANSNET, params, receipt.versions) as path:
            write_table(path / FRAMES_FILE, frames, TRANSITIONS_SCHEMA)


def _objects(
    measurements: Measurements, stored: Stored
) -> tuple[NDArray[np.int64], ObjectsSummary | None]:
    """Return the (n,) pts of the frames that the detector was given, and what it detected."""
    if OBJECTS not in stored:
        return np.empty(0, np.int64), None
    path = measurements.path(OBJECTS)
    pts_us = pq.read_table(path / MEASURED_FILE)["pts_us"].to_numpy()
    if not (path / SUMMARY_FILE).exists():
        return pts_us, None
    return pts_us, ObjectsSummary.model_validate(read_json(path / SUMMARY_FILE))


def _lightness_summary(values: NDArray[np.float32]) -> LightnessSummary:
    units = np.rint(values.astype(np.float64) / _LIGHTNESS_UNIT).astype(np.int64).sum()
    mean = float(Fraction(int(units), len(values))) * _LIGHTNESS_UNIT
    return LightnessSummary(mean=mean, min=float(values.min()), max=float(values.max()))


def _link(source: Path, target: Path) -> None:
    """Publish a file under a second name: with every frame looked at it may have gigabytes."""
    with atomic_path(target) as temp:
        try:
            os.link(source, temp)
        except OSError:  # a file system without hard links
            shutil.copyfile(source, temp)
