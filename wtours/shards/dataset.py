"""Clips out of a shard set: a map-style dataset that needs no torch."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from wtours.errors import ShardError
from wtours.shards.clip_starts import clip_offsets_us, clip_starts, nearest_rows
from wtours.shards.index import ShardIndex, VideoRows
from wtours.shards.sampler import ClipShare

_MAX_PIXELS = 8192 * 8192


@dataclass(frozen=True, slots=True)
class Clip:
    """T frames of one video, in time order, as JPEG."""

    video_id: str
    start: int | None
    """Row of the first frame in the index; None from `stream_clips`, which reads no index."""
    pts_us: tuple[int, ...]
    jpegs: tuple[bytes, ...]

    def decode(self, *, min_short_side: int | None = None) -> list[NDArray[np.uint8]]:
        """Return T arrays (H, W, 3) uint8 RGB.

        Args:
            min_short_side: None: decoded in full, by the exact inverse DCT. Otherwise in the
                smallest of the sizes 1/8, 2/8, … 8/8 (libjpeg's scaled inverse DCT, several times
                quicker) that keeps min(H, W) at this many pixels or more, if it has them.

        Raises:
            ShardError: a JPEG is damaged, or larger than 8192 x 8192 pixels.
        """
        return [self._decode(number, min_short_side or 0) for number in range(len(self.jpegs))]

    def _decode(self, number: int, min_side: int) -> NDArray[np.uint8]:
        what = f"the frame of {self.video_id} at {self.pts_us[number]} us"
        jpeg = self.jpegs[number]
        try:
            height, width, _, _ = simplejpeg.decode_jpeg_header(jpeg)
            if height * width > _MAX_PIXELS:
                raise ShardError(f"{what} is {width}x{height}: more than {_MAX_PIXELS} pixels")
            pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
                jpeg, "RGB", min_height=min_side, min_width=min_side
            )
        except ValueError as error:
            raise ShardError(
                f"{what} does not decode ({error}); run `wtours verify` to find the damaged shard"
            ) from error
        return pixels


class ClipDataset:
    """The clips of a shard set, by number: a map-style dataset that needs no torch.

    Clips are numbered in the order of the rows they start at. What makes a clip:
    `wtours.shards.clip_starts`. A video whose shots are not known gives clips that ignore cuts
    (`index.shots_known` says whether there is one).

    Args:
        index: An open shard set.
        clip_length: T, frames in a clip.
        frame_interval_seconds: Δ, from one frame of a clip to the next.
        across_cuts: Whether a clip may go over a cut.

    Raises:
        ShardError: there is no such clip in the whole set.
    """

    def __init__(
        self,
        index: ShardIndex,
        *,
        clip_length: int = 8,
        frame_interval_seconds: float = 1.0,
        across_cuts: bool = False,
    ) -> None:
        self.index = index
        self._offsets_us = clip_offsets_us(clip_length, frame_interval_seconds)
        self.num_clips: dict[str, int] = {}
        """Number of clips of each video, by its id, in the order of the clips."""
        starts, total = np.empty(len(index), np.int64), 0
        for video in index.videos:
            part = self._starts(video, across_cuts=across_cuts)
            starts[total : total + len(part)] = part
            total += len(part)
            self.num_clips[video.video_id] = len(part)
        self.starts: NDArray[np.int64] = starts[:total]
        """(number of clips,) int64; the row of each clip's first frame."""
        if not len(self.starts):
            raise ShardError(
                f"{index.directory} has no clip of {clip_length} frames {frame_interval_seconds} s "
                f"apart within one shot; its videos are shorter or sampled more sparsely: use a "
                f"shorter clip or another interval"
            )

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self.starts)

    def __getitem__(self, number: int) -> Clip:
        """Return a clip, 0 to len - 1.

        Raises:
            ShardError: a shard was damaged since the index was opened.
        """
        rows = self.clip_rows(number)
        return Clip(
            video_id=self.index.video_of(rows[0]).video_id,
            start=rows[0],
            pts_us=tuple(self.index.pts_us[rows].tolist()),
            jpegs=self.index.read_jpegs(rows),
        )

    def clip_rows(self, number: int) -> list[int]:
        """Return the T rows of a clip."""
        if not 0 <= number < len(self.starts):
            raise IndexError(f"clip {number} of {len(self.starts)}")
        start = int(self.starts[number])
        video = self.index.video_of(start)
        pts_us = self.index.pts_us[video.start : video.stop]
        moments = self.index.pts_us[start] + np.array(self._offsets_us, dtype=np.int64)
        rows: list[int] = (video.start + nearest_rows(pts_us, moments)).tolist()
        return rows

    def shares(self, weights: Mapping[str, int]) -> tuple[ClipShare, ...]:
        """Return what a `ClipSampler` needs to draw from several videos in stated parts.

        Args:
            weights: {"venice": 2, "oslo": 1}: two clips of one for each of the other. A video that
                is not named is not drawn from. To weigh all clips alike, use no mixture.

        Raises:
            ShardError: a video is not in the set, or has no clip.
        """
        ranges, first = {}, 0
        for video_id, num_clips in self.num_clips.items():
            ranges[video_id] = range(first, first + num_clips)
            first += num_clips
        for video_id in weights:
            if not ranges.get(video_id):
                has = ", ".join(video_id for video_id, clips in ranges.items() if clips)
                raise ShardError(
                    f"{self.index.directory} has no clip of {video_id!r} to mix in; it has {has}"
                )
        return tuple(
            ClipShare(video_id, ranges[video_id], weights[video_id]) for video_id in sorted(weights)
        )

    def _starts(self, video: VideoRows, *, across_cuts: bool) -> NDArray[np.int64]:
        rows = slice(video.start, video.stop)
        return video.start + clip_starts(
            self.index.pts_us[rows],
            None if across_cuts else self.index.shot[rows],
            offsets_us=self._offsets_us,
            tolerance_us=video.tolerance_us,
        )
