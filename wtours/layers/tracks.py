"""GPX tracks and CSV tables of a sensor: values at times of their own, interpolated to frames.

These files come from anywhere: their size is bounded, and an XML with a DTD is refused, so that no
entity is ever expanded.
"""

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wtours.errors import MissingPackageError, ShardError, UsageError
from wtours.text import first_line, plain

MAX_BYTES = 256 * 2**20
TIME_COLUMN = "time"
_MAX_COLUMNS = 64
_LONGITUDE = "lon"
_MAX_SECONDS = 1e12
_US = 1_000_000


@dataclass(frozen=True, slots=True)
class Track:
    """Values at increasing times."""

    names: tuple[str, ...]
    times_us: NDArray[np.int64]
    """(N,) microseconds, increasing; of GPX since 1970. Whole: in float64 an epoch is rounded, and
    a frame at the last point, or points as far apart as the longest gap, would be beyond them."""
    values: NDArray[np.float64]
    """(N, len(names)); NaN where a point of a GPX has no elevation."""

    def at(
        self, moments_us: NDArray[np.int64], max_gap_us: int
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Interpolate linearly between the points before and after each moment.

        Args:
            moments_us: (M,) microseconds.
            max_gap_us: Two points farther apart say nothing of what lies between them.

        Returns:
            (M, len(names)) values, and (M,) whether the moment lies inside the track, in no gap.
        """
        after = np.searchsorted(self.times_us, moments_us).clip(max=len(self.times_us) - 1)
        exact = self.times_us[after] == moments_us
        before = np.where(exact, after, after - 1)
        known = (before >= 0) & (self.times_us[after] >= moments_us)
        before = before.clip(min=0)
        known &= self.times_us[after] - self.times_us[before] <= max_gap_us
        columns = [
            np.interp(moments_us, self.times_us, np.unwrap(column, period=360))
            if name == _LONGITUDE
            else np.interp(moments_us, self.times_us, column)
            for name, column in zip(self.names, self.values.T, strict=True)
        ]
        values = np.stack(columns, axis=1)
        values[exact] = self.values[after[exact]]  # also where the next point has NaN
        if _LONGITUDE in self.names:  # over the 180th meridian the short way, and back into range
            place = self.names.index(_LONGITUDE)
            values[:, place] = (values[:, place] + 180) % 360 - 180
        return values, known


def read_track(path: Path) -> Track:
    """Return the track of a .gpx, or of a .csv with `time` (seconds) and other columns of numbers.

    Raises:
        ShardError: it is damaged, too large, or has other columns.
        MissingPackageError: defusedxml is not installed.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ShardError(f"{path} is larger than {MAX_BYTES} bytes; cut the track to the video")
        names, rows = _gpx(path) if path.suffix.lower() == ".gpx" else _csv(path)
    except FileNotFoundError as error:
        raise ShardError(f"{path} is not there; check the path") from error
    table = np.array(rows, np.float64).reshape(-1, 1 + len(names))
    if not len(table):
        raise ShardError(f"{path} has no point with a time")
    if (far := np.flatnonzero(np.abs(table[:, 0]) >= _MAX_SECONDS)).size:
        raise ShardError(
            f"{path}: point {far[0] + 1} is at {table[far[0], 0]:g} s, which is no time"
        )
    times_us = np.rint(table[:, 0] * _US).astype(np.int64)
    if (backwards := np.flatnonzero(np.diff(times_us) < 0)).size:
        raise ShardError(f"{path}: point {backwards[0] + 2} is earlier than the one before it")
    kept = np.diff(times_us, prepend=times_us[0] - 1) > 0  # of several at one time the first
    return Track(tuple(names), times_us[kept], table[kept, 1:])


def parse_start(text: str, path: Path) -> int:
    """Return the moment of a track at which the video begins, in microseconds.

    Args:
        text: A number of seconds, or an ISO time.
        path: The track.

    Raises:
        UsageError: it is neither, or the track is a CSV, whose times are seconds.
    """
    try:
        value = float(text)
    except ValueError:
        try:
            value = _epoch(text)
        except ValueError:
            raise UsageError(
                f"--start {text!r}: give seconds, or for a GPX a time like 2024-05-01T10:00:00Z"
            ) from None
        if path.suffix.lower() != ".gpx":
            raise UsageError(f"--start {text!r}: the times of {path.name} are seconds") from None
    if not abs(value) < _MAX_SECONDS:
        raise UsageError(f"--start {text!r} must be finite")
    return round(value * _US)


def _gpx(path: Path) -> tuple[list[str], list[list[float]]]:
    if find_spec("defusedxml") is None:
        raise MissingPackageError("defusedxml", "layers", "reading a GPX")
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import ParseError, iterparse

    rows: list[list[float]] = []
    try:
        for _, element in iterparse(path, forbid_dtd=True):
            if _tag(element) != "trkpt":
                continue
            found = {_tag(child): (child.text or "").strip() for child in element}
            if found.get(TIME_COLUMN):
                latitude, longitude = (float(element.get(name, "nan")) for name in ("lat", "lon"))
                if not (abs(latitude) <= 90 and abs(longitude) <= 180):
                    raise ValueError(f"point {len(rows) + 1} is at lat {latitude}, lon {longitude}")
                height = _finite(found["ele"]) if found.get("ele") else math.nan
                rows.append([_epoch(found[TIME_COLUMN]), latitude, longitude, height])
            element.clear()  # the tree must not grow with the file
    except DefusedXmlException as error:
        raise ShardError(f"{path} has a DTD, which no GPX needs; it is not read") from error
    except (ParseError, ValueError) as error:
        raise ShardError(f"{path} is no GPX track ({first_line(error)})") from error
    return ["lat", _LONGITUDE, "ele"], rows


def _csv(path: Path) -> tuple[list[str], list[list[float]]]:
    rows: list[list[float]] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file)
            header = [name.strip() for name in next(lines, [])]
            names = [name for name in header if name != TIME_COLUMN]
            if TIME_COLUMN not in header or not names or len(set(header)) < len(header):
                raise ShardError(
                    f"{path} must have the column {TIME_COLUMN} (seconds) and others of numbers, "
                    f"each once; it has {plain(', '.join(header))[:200] or 'none'}"
                )
            if len(names) > _MAX_COLUMNS:
                raise ShardError(
                    f"{path} has {len(names)} columns; at most {_MAX_COLUMNS} are a value"
                )
            columns = [header.index(name) for name in (TIME_COLUMN, *names)]
            for line in lines:
                if line:
                    rows.append([_finite(cell) for cell in _cells(line, columns)])
    except (csv.Error, UnicodeDecodeError, ValueError) as error:
        raise ShardError(f"{path}: row {len(rows) + 2}: {first_line(error)}") from error
    return names, rows


def _cells(line: Sequence[str], columns: Sequence[int]) -> Iterator[str]:
    for column in columns:
        if column >= len(line):
            raise ValueError(f"{len(line)} cells")
        yield line[column]


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{plain(text)[:40]!r} is no finite number")
    return value


def _epoch(text: str) -> float:
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _tag(element: object) -> str:
    """Return the name of an XML element without its namespace."""
    tag = getattr(element, "tag", "")
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""
