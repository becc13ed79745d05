"""What an earlier analysis of the same video found and a new one does not ask for: it is kept.

Objects, and the cuts of TransNet V2, may have taken hours. While the new tables take the place of
the earlier ones these lie aside, so that a run that is killed there loses nothing either.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from wtours.analyze.schema import (
    DETECTIONS_FILE,
    FRAMES_FILE,
    SUMMARY_FILE,
    ObjectsSummary,
    VideoSummary,
)
from wtours.analyze.transnet import TRANSNET
from wtours.errors import AnalysisError
from wtours.storage.atomic import atomic_path, read_json, remove
from wtours.storage.receipts import Receipt, files_present, read_receipt

_RECEIPT = "receipt.json"


@dataclass(frozen=True, slots=True)
class Earlier:
    """A whole analysis of a video.

    Attributes:
        folder: Where its files are.
        receipt: What it was made from.
    """

    folder: Path
    receipt: Receipt

    def kept(self, params: dict[str, Any]) -> dict[str, Any]:
        """Return the params of what is kept beside an analysis of `params`; {}: nothing."""
        kept: dict[str, Any] = {}
        if params["objects"] is None and self.receipt.params["objects"] is not None:
            kept["objects"] = self.receipt.params["objects"]
        if TRANSNET not in params and TRANSNET in self.receipt.params:
            kept[TRANSNET] = self.receipt.params[TRANSNET]
        return kept

    def set_aside(self, folder: Path) -> "Earlier":
        """Return a copy in `folder`; what was there before is replaced."""
        if folder != self.folder:
            remove(folder)
            with atomic_path(folder) as temp:
                temp.mkdir()
                for name in (*(file.path for file in self.receipt.files), _RECEIPT):
                    shutil.copyfile(self.folder / name, temp / name)
        return Earlier(folder, self.receipt)

    def require_same_frames(self, segments: Sequence[Path]) -> None:
        """Make sure that what is kept is of the frames that are decoded now.

        Raises:
            AnalysisError: it is not, for example by another version of PyAV of a damaged video.
        """
        paths = [segment / FRAMES_FILE for segment in segments]
        found = np.concatenate([_column(path, "pts_us") for path in paths])
        if not np.array_equal(found, _column(self.folder / FRAMES_FILE, "pts_us")):
            raise AnalysisError(
                f"{self.receipt.key}: other frames are decoded now than when its objects, or its "
                f"cuts by {TRANSNET}, were measured: ask for these again in the same command"
            )

    def measured_pts_us(self) -> NDArray[np.int64]:
        """Return the (n,) pts of the frames that the detector looked at."""
        frames = pq.read_table(self.folder / FRAMES_FILE, columns=["pts_us", "objects_measured"])
        looked_at = frames["objects_measured"].to_numpy()
        return np.asarray(frames["pts_us"].to_numpy()[looked_at], dtype=np.int64)

    def transitions(self) -> NDArray[np.float32]:
        """Return TransNet V2's probability of every frame, (n,)."""
        return np.asarray(_column(self.folder / FRAMES_FILE, TRANSNET), dtype=np.float32)

    def publish_objects(self, folder: Path) -> tuple[ObjectsSummary | None, str | None]:
        """Publish its detections in `folder`; return what they amount to, or why there are none."""
        summary = VideoSummary.model_validate(read_json(self.folder / SUMMARY_FILE))
        if summary.objects is not None:
            with atomic_path(folder / DETECTIONS_FILE) as temp:
                shutil.copyfile(self.folder / DETECTIONS_FILE, temp)
        return summary.objects, summary.objects_not_measured


def find_earlier(folder: Path, *, inputs: dict[str, str], format_number: int) -> Earlier | None:
    """Return the analysis in `folder`, if it is whole, of the same video and of the same format."""
    receipt = read_receipt(folder / _RECEIPT)
    if (
        receipt is None
        or receipt.status != "done"
        or receipt.inputs != inputs
        or receipt.params.get("format") != format_number
        or not files_present(receipt, folder)
    ):
        return None
    return Earlier(folder, receipt)


def _column(path: Path, name: str) -> NDArray[Any]:
    values: NDArray[Any] = pq.read_table(path, columns=[name])[name].to_numpy()
    return values
