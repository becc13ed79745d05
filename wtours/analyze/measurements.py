"""The measurements of a video: `frames`, `shots`, `objects`, `transnet`, `quality`.

Each has a folder, <root>/analysis/<video_id>/measurements/<name>/, with a receipt of its own, and
stays valid until it is asked for with other parameters. From those that are there,
`wtours.analyze.publish` makes the tables that are read.

    frames    frames.parquet: lightness, content score and corruption of every frame
    shots     shots.parquet: the shots of PySceneDetect's detectors; made from `frames`
    objects   detections.parquet; measured.parquet, the frames that the detector was given; and
              summary.json, absent where there was no such frame
    transnet  frames.parquet: TransNet V2's probability of every frame
    quality   seconds.parquet: blur, motion, darkness, … of every second; in no table of the video
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from wtours.analyze.schema import FORMAT
from wtours.storage.atomic import RECEIPT_FILE, atomic_path, remove
from wtours.storage.receipts import Receipt, files_intact, read_receipt, record_file, write_receipt
from wtours.workspace.layout import MEASUREMENTS_FOLDER
from wtours.workspace.videos import DownloadedVideo

FRAMES, SHOTS, OBJECTS, TRANSNET, QUALITY = NAMES = (
    "frames",
    "shots",
    "objects",
    "transnet",
    "quality",
)

Stored = Mapping[str, Receipt]
"""The receipts of the measurements that are there, by name."""


@dataclass(frozen=True, slots=True)
class Measurements:
    """Where the measurements of a video are."""

    folder: Path
    """<root>/analysis/<video_id>."""
    video: DownloadedVideo
    """What they are of: those of another file under the same id do not count."""

    def path(self, name: str) -> Path:
        """Return the folder of a measurement."""
        return self.folder / MEASUREMENTS_FOLDER / name

    def stored(self) -> dict[str, Receipt]:
        """Return the receipts of the measurements that are there, byte for byte, by name."""
        receipts = {name: self.receipt_in(self.path(name)) for name in NAMES}
        return {name: receipt for name, receipt in receipts.items() if receipt is not None}

    def receipt_in(self, folder: Path) -> Receipt | None:
        """Return the receipt of a folder that is whole and of this video and format."""
        receipt = read_receipt(folder / RECEIPT_FILE)
        if (
            receipt is None
            or receipt.status != "done"
            or not self.video.has_made(receipt)
            or receipt.params.get("format") != FORMAT
            or not files_intact(receipt, folder)
        ):
            return None
        return receipt

    def shots_params(self, cut_detectors: Sequence[str]) -> dict[str, Any]:
        """Return the params of `shots`, which is made from `frames` as it is."""
        (frames,) = cast(Receipt, self.receipt_in(self.path(FRAMES))).files
        return {
            "format": FORMAT,
            "cut_detectors": list(cut_detectors),
            "frames_sha256": frames.sha256,
        }

    @contextlib.contextmanager
    def publish(
        self, name: str, params: Mapping[str, Any], versions: Mapping[str, str]
    ) -> Iterator[Path]:
        """Yield a folder to fill; it takes the place of an earlier one, with its receipt."""
        with atomic_path(self.path(name)) as folder:
            folder.mkdir()
            yield folder
            receipt = Receipt(
                stage=f"analyze-{name}",
                key=self.video.video_id,
                inputs=self.video.inputs,
                params=dict(params),
                versions=dict(versions),
                files=tuple(
                    record_file(path, relative_to=folder) for path in sorted(folder.iterdir())
                ),
            )
            write_receipt(folder / RECEIPT_FILE, receipt)
            remove(self.path(name))
