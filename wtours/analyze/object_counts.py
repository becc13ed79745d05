"""Counting the rows of detections.parquet, from each of several scores up."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from wtours.analyze.schema import MAX_DETECTIONS, ObjectCounts, open_parquet


@dataclass(frozen=True, eq=False, slots=True)
class DetectionCount:
    """Detections with at least one score, in F frames."""

    labels: Counter[str]
    per_frame: NDArray[np.int64]
    """(F,)"""

    def figures(self, threshold: float) -> ObjectCounts:
        """Return the figures of a summary and of Table 6; `threshold` is that score."""
        return ObjectCounts(
            threshold=threshold,
            objects_per_frame=self.labels.total() / len(self.per_frame),
            classes=len(self.labels),
            max_objects=int(self.per_frame.max()),
        )


def count_detections(
    path: Path, detected_us: NDArray[np.int64], thresholds: Sequence[float]
) -> dict[float, DetectionCount]:
    """Return the count from each threshold up.

    Reads batch by batch: memory grows with frames and labels, not with detections.

    Args:
        path: The table.
        detected_us: (F,) pts of the frames given to the detector, ascending; detections after the
            last of them are not counted.
        thresholds: Scores.
    """
    num_frames = len(detected_us)
    counts = {t: DetectionCount(Counter(), np.zeros(num_frames, np.int64)) for t in thresholds}
    in_range = pc.field("pts_us") <= int(detected_us[-1])
    with open_parquet(
        path, "detect again", max_rows=MAX_DETECTIONS, read_dictionary=["label"]
    ) as file:
        for rows in file.iter_batches(columns=["pts_us", "label", "score"]):
            batch = rows.filter(in_range)
            for threshold, count in counts.items():
                kept = batch.filter(scored_at_least(threshold))
                for item in pc.value_counts(kept["label"]).to_pylist():
                    count.labels[item["values"]] += item["counts"]
                frames = np.searchsorted(detected_us, kept["pts_us"].to_numpy())
                np.add.at(count.per_frame, frames, 1)
    return counts


def scored_at_least(threshold: float) -> pc.Expression:
    """Return the filter of the rows from a score up."""
    # Scores are float32: 0.7 as float64 is more than 0.7 as float32.
    return pc.field("score") >= pa.scalar(threshold, pa.float32())
