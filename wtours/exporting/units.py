"""What an export is made of: units that are published one by one, so that a killed export resumes.

A unit is a tar's frames, or a stretch of one shot for layouts that want short clips.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import ClassVar

import numpy as np

from wtours.errors import UsageError
from wtours.shards import FrameRef, ShardIndex
from wtours.shards.clip_starts import is_break
from wtours.shards.schema import sample_key

_READ_ROWS = 128
_US = 1_000_000
_PAUSE_US = 500_000
"""Longer without a frame, a source is taken for interrupted: a held picture is short."""


@dataclass(frozen=True, slots=True)
class Unit:
    """Consecutive rows of the index that are published together."""

    number: int
    name: str
    video_id: str
    rows: range


class Exporter(ABC):
    """Writes one layout; its fields are what else decides the files.

    `write` publishes a unit whole or not at all; `is_done` finds it again.
    """

    suffix: ClassVar[str]
    """What the layout is called on the command line."""
    units_at_once: ClassVar[int] = 1
    """How many units are written at a time: one can be read while another is flushed."""

    def units(self, index: ShardIndex) -> list[Unit]:
        """Return what is to be written, in order: a unit for each tar."""
        return shard_units(index)

    @abstractmethod
    def is_done(self, index: ShardIndex, unit: Unit, out: Path) -> bool:
        """Return whether an earlier run has published the unit."""

    @abstractmethod
    def write(self, index: ShardIndex, unit: Unit, out: Path) -> None:
        """Publish a unit."""

    @abstractmethod
    def finish(self, index: ShardIndex, units: Sequence[Unit], out: Path) -> None:
        """Publish what the layout has once: lists, a schema, a card."""


def shard_units(index: ShardIndex) -> list[Unit]:
    """Return a unit for each tar."""
    units, first = [], 0
    for number, shard in enumerate(index.dataset.shards):
        rows = range(first, first + shard.frames)
        units.append(Unit(number, shard.shard, shard.video_id, rows))
        first += shard.frames
    return units


def clip_units(index: ShardIndex, clip_seconds: float) -> list[Unit]:
    """Return stretches of at most `clip_seconds` of one shot, without a missing frame.

    Raises:
        UsageError: clip_seconds is below two frames.
    """
    length_us = round(clip_seconds * _US)
    if not 0 < clip_seconds < 1e6 or any(length_us < 3 * v.tolerance_us for v in index.videos):
        raise UsageError(f"--clip-seconds ({clip_seconds:g}) must be two frames or more")
    units: list[Unit] = []
    for video in index.videos:
        of_video = slice(video.start, video.stop)
        pts_us = index.pts_us[of_video]
        ends = is_break(
            pts_us,
            index.frame_index[of_video],
            index.shot[of_video],
            is_native=index.dataset.params.rate is None,
            tolerance_us=video.tolerance_us,
            longest_pause_us=_PAUSE_US,
        )
        edges = [0, *np.flatnonzero(ends).tolist(), len(pts_us)]
        for first, stop in itertools.pairwise(edges):
            while first < stop:
                end = int(np.searchsorted(pts_us, pts_us[first] + length_us))
                end = min(max(end, first + 1), stop)
                row = video.start + first
                name = sample_key(video.video_id, int(index.frame_index[row]))
                rows = range(row, video.start + end)
                units.append(Unit(len(units), name, video.video_id, rows))
                first = end
    return units


def rate_of(index: ShardIndex, video_id: str) -> Fraction:
    """Return the frames a second of the set's frames of a video."""
    source = next(v.rate for v in index.dataset.videos if v.video_id == video_id)
    sampled = index.dataset.params.rate
    return source if sampled is None else min(sampled, source)


def frames_of(
    index: ShardIndex, unit: Unit
) -> Iterator[tuple[FrameRef, int | None, bytes | memoryview]]:
    """Yield each frame of a unit: where it is, its shot (None: not analyzed) and its image.

    One by one, so that a writer has each in memory that was in use just before.
    """
    for first in range(unit.rows.start, unit.rows.stop, _READ_ROWS):
        rows = range(first, min(first + _READ_ROWS, unit.rows.stop))
        shots = index.shot[rows.start : rows.stop].tolist()
        for shot, (frame, image) in zip(shots, index.iter_frames(rows), strict=True):
            yield frame, (None if shot < 0 else shot), image
