"""Putting a video's segments together: the published tables and the summary.

Everything is streamed in time order with a bounded memory, except the timestamps that the detector
looked at. No figure depends on where the segments begin: sums are of whole numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from wtours.analyze.schema import (
    DETECTIONS_FILE,
    DETECTIONS_SCHEMA,
    FRAMES_FILE,
    FRAMES_SCHEMA,
    SCORE_THRESHOLDS,
    SHOTS_FILE,
    SHOTS_SCHEMA,
    TRANSNET_FIELD,
    DetectorFacts,
    LightnessSummary,
    ObjectCounts,
    ObjectsSummary,
    open_table,
    table_of,
)
from wtours.analyze.segment import MEASURED_FILE
from wtours.analyze.shots import CutFinder, shots_between
from wtours.analyze.transnet import TRANSNET, first_frames
from wtours.errors import VideoError
from wtours.media.tick_picker import EVERY_FRAME

_US = 1_000_000
_LIGHTNESS_UNIT = 2.0**-17
"""float32 values up to 100 are summed as whole numbers of this."""


@dataclass(frozen=True, slots=True)
class MergedFrames:
    """What the frames of a video amount to."""

    count: int
    corrupt: int
    last_pts_us: int
    end_us: int
    lightness: LightnessSummary
    cuts_us: dict[str, list[int]]
    measured_pts_us: NDArray[np.int64]
    """Of the frames that the detector looked at, ascending."""
    measured_frames: NDArray[np.int64]
    """Their ordinals."""


def measured_in(segments: Sequence[Path]) -> NDArray[np.int64]:
    """Return the (n,) pts of the frames that the detector looked at, ascending."""
    tables = [pq.read_table(segment / MEASURED_FILE) for segment in segments]
    return np.concatenate([table["pts_us"].to_numpy() for table in tables])


def merge_frames(
    segments: Sequence[Path],
    folder: Path,
    *,
    frame_rate: Fraction,
    cut_rate: Fraction,
    measured_pts_us: NDArray[np.int64],
    transitions: NDArray[np.float32] | None = None,
) -> MergedFrames:
    """Publish frames.parquet and return what its rows amount to.

    Args:
        segments: The folders of all segments, in time order.
        folder: Where the table goes.
        frame_rate: Its period is how long the last frame lasts.
        cut_rate: As `wtours.analyze.shots.cut_frame_rate` gives it.
        measured_pts_us: (n,) of the frames that the detector looked at, ascending.
        transitions: (number of frames,) TransNet V2's probabilities, if it was asked for.

    Raises:
        VideoError: no frame could be decoded.
    """
    cut_finder, lightness = CutFinder(cut_rate), _LightnessSum()
    count = corrupt = 0
    last_pts_us = -1
    ordinals: list[NDArray[np.int64]] = []
    network = _NetworkCuts(transitions)
    with open_table(folder / FRAMES_FILE, network.schema) as table:
        for segment in segments:
            rows = pq.read_table(segment / FRAMES_FILE)
            if rows.num_rows == 0:
                continue
            pts_us = rows["pts_us"].to_numpy()
            frames = np.arange(count, count + len(pts_us))
            looked_at = np.isin(pts_us, measured_pts_us)
            table.write(
                table_of(
                    network.schema,
                    {
                        **{name: rows[name] for name in rows.column_names},
                        **network.column(frames, pts_us),
                        "frame": pa.array(frames),
                        "objects_measured": pa.array(looked_at),
                    },
                )
            )
            cut_finder.add(pts_us.tolist(), rows["content_score"].to_pylist())
            lightness.add(rows["lightness"].to_numpy())
            ordinals.append(frames[looked_at])
            corrupt += int(rows["is_corrupt"].to_numpy(zero_copy_only=False).sum())
            count += len(pts_us)
            last_pts_us = int(pts_us[-1])
        if count == 0:
            raise VideoError(f"{folder.name} has no frame that can be decoded; download it again")
    return MergedFrames(
        count=count,
        corrupt=corrupt,
        last_pts_us=last_pts_us,
        end_us=last_pts_us + round(_US / frame_rate),
        lightness=lightness.summary(count),
        cuts_us=cut_finder.cuts_us() | network.cuts_us,
        measured_pts_us=measured_pts_us,
        measured_frames=np.concatenate(ordinals),
    )


def write_shots(folder: Path, frames: MergedFrames) -> None:
    """Publish shots.parquet: the shots of every cut detector."""
    with open_table(folder / SHOTS_FILE, SHOTS_SCHEMA) as table:
        for detector, cuts_us in frames.cuts_us.items():
            shots = shots_between(cuts_us, end_us=frames.end_us)
            table.write(
                table_of(
                    SHOTS_SCHEMA,
                    {
                        "detector": [detector] * len(shots),
                        "shot": range(len(shots)),
                        "start_us": [shot.start_us for shot in shots],
                        "end_us": [shot.end_us for shot in shots],
                    },
                )
            )


def merge_detections(
    segments: Sequence[Path],
    folder: Path,
    *,
    frames: MergedFrames,
    detector: DetectorFacts,
    rate: Fraction,
    frame_rate: Fraction,
) -> ObjectsSummary:
    """Publish detections.parquet and return what its rows amount to."""
    counts = _ObjectCounter(detector.max_per_frame)
    schema = DETECTIONS_SCHEMA.with_metadata(detection_metadata(detector, rate))
    with open_table(folder / DETECTIONS_FILE, schema) as table:
        for segment in segments:
            rows = pq.read_table(segment / DETECTIONS_FILE)
            where = np.searchsorted(frames.measured_pts_us, rows["pts_us"].to_numpy())
            ordinals = frames.measured_frames[where]
            columns = {name: rows[name] for name in rows.column_names}
            table.write(table_of(DETECTIONS_SCHEMA, {**columns, "frame": pa.array(ordinals)}))
            counts.add(ordinals, rows["score"].to_numpy(), rows["label_id"].to_numpy())
    looked_at = len(frames.measured_pts_us)
    return ObjectsSummary(
        detector=detector,
        detect_fps=float(frame_rate if rate == EVERY_FRAME else rate),
        every_frame=rate == EVERY_FRAME,
        frames_analysed=looked_at,
        detections=counts.total[0],
        frames_at_cap=counts.frames_at_cap,
        counts=counts.summary(looked_at),
    )


def detection_metadata(detector: DetectorFacts, rate: Fraction) -> dict[str, str]:
    """Return the file metadata of detections.parquet: what the numbers were made with."""
    cap = detector.max_per_frame
    return {
        "detector": detector.name,
        "weights_sha256": detector.weights_sha256,
        "vocabulary": "\n".join(detector.vocabulary),
        "threshold": repr(detector.threshold),
        "max_per_frame": "none" if cap is None else str(cap),
        "detect_fps": "native" if rate == EVERY_FRAME else str(rate),
    }


class _NetworkCuts:
    """TransNet V2's column of frames.parquet and its cuts; neither, if it was not asked for."""

    def __init__(self, transitions: NDArray[np.float32] | None) -> None:
        self._transitions = transitions
        self.schema = FRAMES_SCHEMA
        self.cuts_us: dict[str, list[int]] = {}
        if transitions is not None:
            self.schema = FRAMES_SCHEMA.append(TRANSNET_FIELD)
            self.cuts_us[TRANSNET] = []
            self._first_frames = first_frames(transitions)

    def column(self, frames: NDArray[np.int64], pts_us: NDArray[np.int64]) -> dict[str, pa.Array]:
        """Return the column's next values; the frames' cuts are noted."""
        if self._transitions is None:
            return {}
        self.cuts_us[TRANSNET] += pts_us[np.isin(frames, self._first_frames)].tolist()
        return {TRANSNET: pa.array(self._transitions[frames])}


class _LightnessSum:
    """Mean, smallest and largest of float32 values, exactly, however they are cut into pieces."""

    def __init__(self) -> None:
        self._sum = 0
        self._min = np.inf
        self._max = -np.inf

    def add(self, values: NDArray[np.float32]) -> None:
        units = np.rint(values.astype(np.float64) / _LIGHTNESS_UNIT).astype(np.int64)
        self._sum += int(units.sum())
        self._min = min(self._min, float(values.min()))
        self._max = max(self._max, float(values.max()))

    def summary(self, count: int) -> LightnessSummary:
        mean = float(Fraction(self._sum, count)) * _LIGHTNESS_UNIT
        return LightnessSummary(mean=mean, min=self._min, max=self._max)


class _ObjectCounter:
    """Counts detections from each of SCORE_THRESHOLDS up."""

    def __init__(self, max_per_frame: int | None) -> None:
        self._max_per_frame = max_per_frame
        self._classes: list[set[int]] = [set() for _ in SCORE_THRESHOLDS]
        self._most = [0] * len(SCORE_THRESHOLDS)
        self.total = [0] * len(SCORE_THRESHOLDS)
        self.frames_at_cap = 0

    def add(
        self, frames: NDArray[np.int64], scores: NDArray[np.float32], label_ids: NDArray[np.int32]
    ) -> None:
        """Take the rows of one segment: a frame's rows are all in one."""
        for i, threshold in enumerate(SCORE_THRESHOLDS):
            kept = scores >= np.float32(threshold)
            per_frame = np.unique_counts(frames[kept]).counts
            self.total[i] += int(kept.sum())
            self._classes[i].update(label_ids[kept].tolist())
            self._most[i] = max(self._most[i], int(per_frame.max(initial=0)))
            if i == 0 and self._max_per_frame is not None:
                self.frames_at_cap += int((per_frame >= self._max_per_frame).sum())

    def summary(self, looked_at: int) -> tuple[ObjectCounts, ...]:
        return tuple(
            ObjectCounts(
                threshold=threshold,
                objects_per_frame=total / looked_at,
                classes=len(classes),
                max_objects=most,
            )
            for threshold, total, classes, most in zip(
                SCORE_THRESHOLDS, self.total, self._classes, self._most, strict=True
            )
        )
