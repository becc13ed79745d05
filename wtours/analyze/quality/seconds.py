"""The measured quality of a video, second by second, as the report reads it."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from wtours.analyze.measurements import QUALITY
from wtours.analyze.quality.meter import ADDED, QUALITY_SCHEMA
from wtours.analyze.schema import explain_damage, open_parquet
from wtours.storage.atomic import RECEIPT_FILE
from wtours.storage.receipts import files_intact, read_receipt
from wtours.workspace.layout import MEASUREMENTS_FOLDER, SECONDS_FILE, Layout


@dataclass(frozen=True, eq=False, slots=True)
class VideoQuality:
    """One video's seconds that have a frame, S of them; docs/reference/tables.md has the units."""

    second: NDArray[np.int64]
    """(S,) increasing."""
    blur: NDArray[np.float64]
    motion: NDArray[np.float64]
    """(S,) NaN where there is no frame before."""
    luma: NDArray[np.float64]
    black: NDArray[np.bool_]
    frozen: NDArray[np.bool_]
    near_duplicate: NDArray[np.bool_] | None
    """None: an earlier version measured it, without this."""
    text_overlay: NDArray[np.bool_] | None

    def stretches(self, holds: NDArray[np.bool_]) -> list[tuple[int, int]]:
        """Return [from, to) in seconds of the stretches in which (S,) `holds`."""
        found: list[tuple[int, int]] = []
        for second in self.second[holds].tolist():
            if found and found[-1][1] == second:
                found[-1] = (found[-1][0], second + 1)
            else:
                found.append((second, second + 1))
        return found


def load_quality(
    layout: Layout, video_id: str, video_sha256: str, *, stream: str | None = None
) -> VideoQuality | None:
    """Return the quality of a video; None: it was not measured of this file.

    Args:
        video_sha256: Of its file.
        stream: Of a file with several, the one that it has to be of.

    Raises:
        AnalysisError: its table is damaged.
    """
    folder = layout.analysis_dir(video_id) / MEASUREMENTS_FOLDER / QUALITY
    receipt = read_receipt(folder / RECEIPT_FILE)
    if receipt is None or receipt.inputs.get("video") != video_sha256:
        return None
    if stream is not None and receipt.inputs.get("stream", stream) != stream:
        return None
    remedy = f"run `wtours analyze --frame-quality --video {video_id}`"
    with explain_damage(folder, remedy):
        if not files_intact(receipt, folder):
            raise ValueError("it is not the table that was published")
        with open_parquet(folder / SECONDS_FILE, remedy) as file:
            there = [
                n for n in QUALITY_SCHEMA.names if n in file.schema_arrow.names or n not in ADDED
            ]
            table = file.read(there)
        table = table.cast(pa.schema([QUALITY_SCHEMA.field(name) for name in there]))
        return VideoQuality(
            second=table["second"].to_numpy().astype(np.int64),
            blur=table["blur"].to_numpy().astype(np.float64),
            motion=table["motion"].fill_null(np.nan).to_numpy().astype(np.float64),
            luma=table["luma"].to_numpy().astype(np.float64),
            black=table["black"].to_numpy(),
            frozen=table["frozen"].to_numpy(),
            **{name: table[name].to_numpy() if name in there else None for name in ADDED},
        )
