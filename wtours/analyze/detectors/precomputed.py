"""Precomputed detections, read from a Parquet file: of any detector, or a rendered ground truth."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from wtours.analyze.detectors.base import STORE_THRESHOLD, Detection
from wtours.analyze.schema import (
    MAX_DETECTIONS,
    PRECOMPUTED_COLUMNS,
    DetectorFacts,
    explain_damage,
    open_parquet,
)
from wtours.errors import AnalysisError
from wtours.media.frame import Frame
from wtours.media.sampling import tick_of
from wtours.storage.hashing import sha256_file
from wtours.text import first_line
from wtours.workspace.videos import FileIdentity, require_same_file

COLUMNS = pa.schema(PRECOMPUTED_COLUMNS)
"""What the file must have; other columns are ignored. Units as in detections.parquet."""
_BLOCK_SECONDS = 20
_REMEDY = "write it again, in smaller row groups if it is large"
_US = 1_000_000


class PrecomputedDetector:
    """Looks detections up by time.

    Each row belongs to the tick nearest to its pts. A frame gets the rows of its own tick; where
    those have more than one pts, the rows of the pts nearest to the frame. A tick without rows has
    no objects. Only rows near the frames asked for are held in memory. When every frame is looked
    at, a row must have the very pts of its frame.

    Args:
        path: The Parquet file; its file metadata "detector", where present, is kept as its name.
        rate: Ticks a second.

    Raises:
        AnalysisError: the file is missing, lacks a column, or holds a value that cannot be.
        VideoError: it is replaced while it is read.
    """

    def __init__(self, path: Path, *, rate: Fraction) -> None:
        self._path = path
        self._rate = rate
        self._ticks_per_block = math.ceil(_BLOCK_SECONDS * rate)
        with explain_damage(path, _REMEDY):
            metadata = _checked_metadata(path)
            self._identity = FileIdentity.of(path)
            vocabulary = sorted(_checked_labels(path))
            made_by = metadata.get(b"detector", b"").decode()
        self._label_ids = {label: i for i, label in enumerate(vocabulary)}
        self.facts = DetectorFacts(
            name=f"file:{path.name}" + (f" ({made_by})" if made_by else ""),
            weights_sha256=sha256_file(path),
            vocabulary=tuple(vocabulary),
            threshold=STORE_THRESHOLD,
        )
        require_same_file(path, self._identity)
        self._block = lru_cache(maxsize=2)(self._read_block)

    def submit(self, frames: Sequence[Frame]) -> list[tuple[int, list[Detection]]]:
        """Return (pts_us, detections) of each frame, highest score first; see `DetectorClient`."""
        return [(frame.pts_us, self._near(frame.pts_us)) for frame in frames]

    def finish(self) -> list[tuple[int, list[Detection]]]:
        """Return nothing: every frame had its detections at once."""
        return []

    def _near(self, pts_us: int) -> list[Detection]:
        tick = tick_of(pts_us, self._rate)
        by_pts = self._block(tick // self._ticks_per_block).get(tick)
        if by_pts is None:
            return []
        nearest = min(by_pts, key=lambda candidate: (abs(candidate - pts_us), candidate))
        return sorted(by_pts[nearest], key=lambda d: (-d.score, d.label_id, d.x0, d.y0, d.x1, d.y1))

    def _read_block(self, block: int) -> dict[int, dict[int, list[Detection]]]:
        """Return detections by tick and pts, for `_BLOCK_SECONDS` worth of ticks."""
        first, end = block * self._ticks_per_block, (block + 1) * self._ticks_per_block
        half = Fraction(1, 2)
        start_us = math.floor((first - half) * _US / self._rate)
        end_us = math.ceil((end - half) * _US / self._rate)
        with explain_damage(self._path, _REMEDY):
            rows = pq.read_table(
                self._path,
                columns=COLUMNS.names,
                filters=(pc.field("pts_us") >= start_us) & (pc.field("pts_us") < end_us),
            )
        require_same_file(self._path, self._identity)
        ticks: dict[int, dict[int, list[Detection]]] = {}
        for pts_us, label, score, *box in zip(
            *(rows[name].to_pylist() for name in COLUMNS.names), strict=True
        ):
            if score >= STORE_THRESHOLD:
                detection = Detection(label, self._label_ids[label], score, *box)
                tick = ticks.setdefault(tick_of(pts_us, self._rate), {})
                tick.setdefault(pts_us, []).append(detection)
        return ticks


def precomputed_facts(path: Path, rate: Fraction) -> DetectorFacts:
    """Return what a file of detections says of itself, having checked it.

    A task for an executor: there are damaged files at which Arrow ends the process.

    Raises:
        AnalysisError: as `PrecomputedDetector`.
    """
    return PrecomputedDetector(path, rate=rate).facts


@dataclass(frozen=True, slots=True)
class PrecomputedFile:
    """The file of one video, as it was when the analysis began."""

    path: Path
    rate: Fraction
    sha256: str

    @contextmanager
    def connect(self) -> Iterator[PrecomputedDetector]:
        """Yield its detections; see `DetectorSource`.

        Raises:
            AnalysisError: the file is gone or another one.
        """
        detector = _load(self)
        if detector.facts.weights_sha256 != self.sha256:
            raise AnalysisError(
                f"detections file:{self.path} changed meanwhile; run the same command again"
            )
        yield detector


@lru_cache(maxsize=1)
def _load(file: PrecomputedFile) -> PrecomputedDetector:
    """Check a file once in a process, not for each of its segments."""
    return PrecomputedDetector(file.path, rate=file.rate)


def _checked_metadata(path: Path) -> dict[bytes, bytes]:
    if not path.is_file():
        raise AnalysisError(f"detections file:{path}: there is no such file; check the path")
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise AnalysisError(
            f"detections file:{path} is not a Parquet file: {first_line(error)}"
        ) from error
    for column in COLUMNS:
        if column.name not in schema.names or not _fits(
            schema.field(column.name).type, column.type
        ):
            raise AnalysisError(
                f"detections file:{path} needs the column {column.name} ({column.type}); it has "
                + ", ".join(f"{field.name} ({field.type})" for field in schema)
            )
    return dict(schema.metadata or {})


def _fits(found: pa.DataType, wanted: pa.DataType) -> bool:
    if pa.types.is_dictionary(found):
        found = found.value_type
    if pa.types.is_string(wanted):
        return bool(pa.types.is_string(found) or pa.types.is_large_string(found))
    if pa.types.is_floating(wanted):
        return bool(pa.types.is_floating(found))
    return bool(pa.types.is_integer(found))


def _checked_labels(path: Path) -> set[str]:
    """Return all labels, having checked every row."""
    labels: set[str] = set()
    first = 0
    with open_parquet(path, _REMEDY, max_rows=MAX_DETECTIONS) as file:
        for batch in file.iter_batches(columns=COLUMNS.names):
            where = f"detections file:{path}: rows {first} to {first + batch.num_rows - 1}"
            first += batch.num_rows
            if any(batch[name].null_count for name in COLUMNS.names):
                raise AnalysisError(f"{where}: a value is missing (null)")
            numbers = [name for name in COLUMNS.names if name != "label"]
            column = {name: batch[name].to_numpy(zero_copy_only=False) for name in numbers}
            scores = column["score"]
            good = (scores >= 0) & (scores <= 1) & (column["pts_us"] >= 0)
            good &= (column["x0"] <= column["x1"]) & (column["y0"] <= column["y1"])
            good &= np.isfinite([column[name] for name in ("x0", "y0", "x1", "y1")]).all(axis=0)
            if not good.all():
                raise AnalysisError(
                    f"{where}: needs pts_us >= 0, 0 <= score <= 1, and finite x0 <= x1, y0 <= y1"
                )
            labels.update(batch["label"].unique().to_pylist())
    return labels
