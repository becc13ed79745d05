"""How sharp, moving, light and new frames are, on the reduced image that cuts are measured on.

All sums are of whole numbers, so that a machine or a way of splitting a video changes no digit.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from wtours.analyze.quality import near_duplicates as duplicates
from wtours.analyze.quality import text_overlay as overlay
from wtours.analyze.schema import FORMAT, table_of, write_table
from wtours.workspace.layout import SECONDS_FILE

EDGES_FILE = "edges.parquet"
"""Of a segment."""
QUALITY_SCHEMA = pa.schema(
    [
        pa.field("second", pa.int32(), nullable=False),  # k: frames with k <= pts < k + 1 seconds
        pa.field("frames", pa.int32(), nullable=False),
        pa.field("blur", pa.float32(), nullable=False),  # mean variance of the Laplacian
        pa.field("motion", pa.float32()),  # mean difference from the frame before, 0..255
        pa.field("luma", pa.float32(), nullable=False),  # mean luma, 0..255
        pa.field("black", pa.bool_(), nullable=False),  # every frame is black
        pa.field("frozen", pa.bool_(), nullable=False),  # no frame differs from the one before
        pa.field("near_duplicate", pa.bool_(), nullable=False),  # shown nearly so before
        pa.field("text_overlay", pa.bool_(), nullable=False),  # letters that stay on the picture
    ]
)
ADDED = ("near_duplicate", "text_overlay")
"""Columns that tables of earlier versions do not have."""
BLACK_LUMA = 26
"""A pixel is black below this, and a frame if `BLACK_SHARE` of it is: as FFmpeg's blackdetect."""
BLACK_SHARE = 0.98
FROZEN_MOTION = 0.255
"""A frame is as the one before below this: -60 dB, as FFmpeg's freezedetect."""
_FRAME_SCHEMA = pa.schema(
    {
        "pts_us": pa.int64(),
        "blur": pa.float64(),
        "motion": pa.float64(),
        "luma": pa.float64(),
        "is_black": pa.bool_(),
        "dhash": pa.binary(),
    }
)
_US = 1_000_000


def quality_params() -> dict[str, Any]:
    """Return what the measurement depends on, beside the video."""
    return {
        "format": FORMAT,
        "black_luma": BLACK_LUMA,
        "black_share": BLACK_SHARE,
        "frozen_motion": FROZEN_MOTION,
        "near_duplicate": {"bits": duplicates.BITS, "apart_us": duplicates.APART_US},
        "text_overlay": {
            "edge": overlay.EDGE,
            "window_seconds": overlay.WINDOW_SECONDS,
            "strokes": overlay.STROKES,
            "still_share": overlay.STILL_SHARE,
        },
    }


class QualityMeter:
    """Measures the frames of a segment, in time order; the last frame before it too.

    Args:
        start_us: Where the segment begins, on a whole second.
    """

    def __init__(self, start_us: int) -> None:
        self._start_us = start_us
        self._last: NDArray[np.uint8] | None = None
        self._rows: list[dict[str, Any]] = []
        self._edges = overlay.EdgeCollector()

    def push(self, pts_us: int, bgr: NDArray[np.uint8]) -> None:
        """Measure a frame.

        Args:
            pts_us: Its time.
            bgr: (h, w, 3) uint8, reduced.
        """
        gray = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY), dtype=np.uint8)
        last, self._last = self._last, gray
        if pts_us < self._start_us:
            return
        edges = np.asarray(cv2.Laplacian(gray, cv2.CV_16S), np.int64).ravel()
        mean = int(edges.sum()) / gray.size
        motion = None
        if last is not None and last.shape == gray.shape:
            motion = cv2.sumElems(cv2.absdiff(gray, last))[0] / gray.size
        self._rows.append(
            {
                "pts_us": pts_us,
                "blur": int(edges @ edges) / gray.size - mean * mean,
                "motion": motion,
                "luma": cv2.sumElems(gray)[0] / gray.size,
                "is_black": bool((gray < BLACK_LUMA).sum() >= BLACK_SHARE * gray.size),
                "dhash": duplicates.frame_hash(gray),
            }
        )
        self._edges.push(pts_us // _US, gray)

    def write(self, folder: Path) -> None:
        """Write what was measured of the segment's frames."""
        frames = pa.Table.from_pylist(self._rows, _FRAME_SCHEMA)
        rows = [second.row() for second in self._edges.finish()]
        edges = pa.Table.from_pylist(rows, overlay.EDGES_SCHEMA)
        pq.write_table(frames, folder / SECONDS_FILE, compression="zstd")
        pq.write_table(edges, folder / EDGES_FILE, compression="zstd")


def merge_quality(segments: Sequence[Path], folder: Path) -> None:
    """Write the measurement `quality`: a row for each second that has a frame."""
    rows = pa.concat_tables([pq.read_table(segment / SECONDS_FILE) for segment in segments])
    second, first = np.unique(rows["pts_us"].to_numpy() // _US, return_index=True)
    stop = np.append(first[1:], rows.num_rows)
    motion = rows["motion"].fill_null(np.nan).to_numpy()
    columns: dict[str, list[Any]] = {name: [] for name in QUALITY_SCHEMA.names}
    columns["near_duplicate"] = list(
        duplicates.near_duplicates(rows["pts_us"].to_numpy(), rows["dhash"].to_pylist(), second)
    )
    edges = (row for segment in segments for row in pq.read_table(segment / EDGES_FILE).to_pylist())
    columns["text_overlay"] = list(overlay.text_overlays(map(overlay.SecondEdges.from_row, edges)))
    blur, luma, is_black = (rows[name].to_numpy() for name in ("blur", "luma", "is_black"))
    for number, a, b in zip(second.tolist(), first.tolist(), stop.tolist(), strict=True):
        moved = motion[a:b][~np.isnan(motion[a:b])]
        columns["second"].append(number)
        columns["frames"].append(b - a)
        columns["blur"].append(float(blur[a:b].mean()))
        columns["motion"].append(float(moved.mean()) if len(moved) else None)
        columns["luma"].append(float(luma[a:b].mean()))
        columns["black"].append(bool(is_black[a:b].all()))
        columns["frozen"].append(bool(len(moved) and (moved < FROZEN_MOTION).all()))
    write_table(folder / SECONDS_FILE, table_of(QUALITY_SCHEMA, columns), QUALITY_SCHEMA)
