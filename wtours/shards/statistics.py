"""What is in a shard set, counted."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wtours.errors import ShardError
from wtours.shards.dataset import ClipDataset
from wtours.shards.index import ShardIndex

_US = 1_000_000
_US_PER_HOUR = 3600 * _US


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """One video of a shard set."""

    video_id: str
    title: str | None
    frames: int
    hours: float
    """To the last frame of the source that was taken; with `where` of the seconds taken."""
    bytes: int
    """Of its shards."""
    clips: int
    shots: int | None
    """None: the video was not analyzed, and its clips ignore cuts."""
    license_claimed: str | None
    license_observed: str | None
    """What the site said when it was downloaded; None: not known."""


@dataclass(frozen=True, slots=True)
class ShardsInfo:
    """A shard set."""

    directory: Path | str
    """Its folder, or its URL."""
    frames: int
    hours: float
    bytes: int
    shards: int
    clip_length: int
    frame_interval_seconds: float
    clips: int
    """Of that length and interval, starting at any frame, within a shot where shots are known."""
    shots_known: bool
    videos: tuple[VideoInfo, ...]

    @property
    def licenses(self) -> tuple[str, ...]:
        """Return the licenses in the set, observed before claimed; "unknown" where neither is."""
        found = {v.license_observed or v.license_claimed or "unknown" for v in self.videos}
        return tuple(sorted(found))


def shards_info(
    directory: Path | str, *, clip_length: int = 8, frame_interval_seconds: float = 1.0
) -> ShardsInfo:
    """Count what a shard set has.

    Args:
        directory: The shard set's folder or URL.
        clip_length: T of the clips to count.
        frame_interval_seconds: Δ of the clips to count.

    Raises:
        ShardError: the set is not finished or damaged.
    """
    index, num_clips = ShardIndex.open(directory), dict[str, int]()
    with contextlib.suppress(ShardError):  # no clip at all
        num_clips = ClipDataset(
            index, clip_length=clip_length, frame_interval_seconds=frame_interval_seconds
        ).num_clips
    videos = []
    for record, rows in zip(index.dataset.videos, index.videos, strict=True):
        shot = index.shot[rows.start : rows.stop]
        is_known = bool((shot >= 0).all()) and len(shot) > 0
        length_us = min(record.last_pts_us, record.taken_us or record.last_pts_us)
        if index.dataset.params.where is not None:
            length_us = _US * len(np.unique(index.pts_us[rows.start : rows.stop] // _US))
        videos.append(
            VideoInfo(
                video_id=record.video_id,
                title=record.title,
                frames=record.frames,
                hours=length_us / _US_PER_HOUR,
                bytes=sum(s.bytes for s in index.dataset.shards if s.video_id == record.video_id),
                clips=num_clips.get(record.video_id, 0),
                shots=len(np.unique(shot)) if is_known else None,
                license_claimed=record.license_claimed,
                license_observed=record.license_observed,
            )
        )
    return ShardsInfo(
        directory=index.directory,
        frames=len(index),
        hours=sum(video.hours for video in videos),
        bytes=index.dataset.bytes,
        shards=len(index.dataset.shards),
        clip_length=clip_length,
        frame_interval_seconds=frame_interval_seconds,
        clips=sum(num_clips.values()),
        shots_known=index.shots_known,
        videos=tuple(videos),
    )
