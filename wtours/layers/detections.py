"""Boxes of `wtours analyze` as a layer: those of each frame that the detector was given."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from wtours.errors import ShardError
from wtours.exporting.units import Unit
from wtours.layers.source import LayerSource
from wtours.sharding.annotations import analysis_tables
from wtours.sharding.plan import made_from_stream
from wtours.shards.index import ShardIndex
from wtours.shards.schema import VideoRecord
from wtours.storage.hashing import sha256_bytes
from wtours.workspace.layout import DETECTIONS_FILE, FRAMES_FILE, Layout

_COORDINATES = ("x0", "y0", "x1", "y1")
_DETECTIONS = pa.schema(
    {
        "pts_us": pa.int64(),
        "label": pa.string(),
        "score": pa.float32(),
        **dict.fromkeys(_COORDINATES, pa.float32()),
    }
)
_FRAMES = pa.schema({"pts_us": pa.int64(), "objects_measured": pa.bool_()})


class DetectionSource(LayerSource):
    """The boxes that `wtours analyze --detector` found in the frames of a shard set.

    Args:
        index: The frames.
        layout: Of the workspace with the analyses.

    Raises:
        ShardError: no frame of the set was given to a detector, or a table is damaged.
    """

    about = (
        "detections: (n, 6) float32, a row a box: x0, y0, x1, y1 as shares (0 to 1) of the "
        "frame's width and height, the score (0 to 1), and the index of the label in "
        "params.labels; frames that the detector was not given have no value"
    )

    def __init__(self, index: ShardIndex, layout: Layout) -> None:
        self._index = index
        tables = {
            video.video_id: _tables(
                layout, video, made_from_stream(index.directory, video.video_id)
            )
            for video in index.dataset.videos
        }
        labels = {label for found in tables.values() if found for label in found[1]["label"]}
        self.labels = tuple(sorted(labels))
        self.params = {"kind": "detections", "labels": list(self.labels)}
        self._values: dict[int, NDArray[np.float32]] = {}
        for record, video in zip(index.dataset.videos, index.videos, strict=True):
            found = tables[record.video_id]
            if found is not None:
                pts_us = index.pts_us[video.start : video.stop]
                for pts, value in self._boxes(record, *found):
                    row = int(np.searchsorted(pts_us, pts))
                    if row < len(pts_us) and pts_us[row] == pts:
                        self._values[video.start + row] = value
        if not self._values:
            raise ShardError(
                f"no frame of {index.directory} was given to a detector; run `wtours analyze "
                f"--detector …`, with --detect-fps a divisor of the shards' --fps"
            )

    def inputs(self, unit: Unit) -> dict[str, str]:
        """Return the sha256 of the unit's boxes and times."""
        times = self._index.pts_us[unit.rows.start : unit.rows.stop].tobytes()
        boxes = b"".join(
            number.to_bytes(8, "big") + self._values[row].tobytes()
            for number, row in enumerate(unit.rows)  # the same after other videos
            if row in self._values
        )
        return {"detections": sha256_bytes(boxes), "times": sha256_bytes(times)}

    def values(self, unit: Unit) -> Iterator[NDArray[np.float32] | None]:
        """Yield each frame's boxes; None where the detector did not look."""
        for row in unit.rows:
            yield self._values.get(row)

    def _boxes(
        self, record: VideoRecord, measured_us: NDArray[np.int64], columns: dict[str, Any]
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield the time of each frame that the detector was given, and its boxes."""
        size = np.array([record.width, record.height] * 2, np.float32).clip(min=1)
        numbers = {label: number for number, label in enumerate(self.labels)}
        boxes = np.column_stack(
            [
                columns["boxes"] / size,
                columns["score"],
                np.array([numbers[label] for label in columns["label"]], np.float32),
            ]
        ).astype(np.float32)
        order = np.argsort(columns["pts_us"], kind="stable")
        pts_us, boxes = columns["pts_us"][order], boxes[order]
        first = np.searchsorted(pts_us, measured_us, side="left").tolist()
        stop = np.searchsorted(pts_us, measured_us, side="right").tolist()
        for pts, a, b in zip(measured_us.tolist(), first, stop, strict=True):
            yield pts, boxes[a:b]


def _tables(
    layout: Layout, video: VideoRecord, stream: str | None
) -> tuple[NDArray[np.int64], dict[str, Any]] | None:
    """Return the times of the frames that the detector was given, and the columns of its boxes."""
    wanted = {FRAMES_FILE: _FRAMES, DETECTIONS_FILE: _DETECTIONS}
    tables = analysis_tables(layout, video.video_id, video.source_sha256, wanted, stream=stream)
    if len(tables) < len(wanted):
        return None
    frames, found = tables[FRAMES_FILE], tables[DETECTIONS_FILE]
    measured = frames["pts_us"].to_numpy()[frames["objects_measured"].to_numpy()]
    return measured, {
        "pts_us": found["pts_us"].to_numpy(),
        "label": found["label"].to_pylist(),
        "score": found["score"].to_numpy(),
        "boxes": np.column_stack([found[name].to_numpy() for name in _COORDINATES]),
    }
