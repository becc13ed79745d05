"""Clips out of a shard set: a map-style dataset that needs no torch."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wtours.errors import ShardError
from wtours.shards.clip import Clip, TorchClips
from wtours.shards.clip_starts import (
    FrameInterval,
    IntervalRange,
    clip_offsets_us,
    clip_starts,
    longest_reach_us,
    nearest_rows,
    range_starts,
    spaced_starts,
)
from wtours.shards.index import ShardIndex, VideoRows
from wtours.shards.layers.layer import Layer
from wtours.shards.sampler import ClipKey, ClipSampler, ClipShare
from wtours.shards.split import Split, read_split

_US = 1_000_000


class ClipDataset:
    """The clips of a shard set, by number: a map-style dataset that needs no torch.

    Clips are numbered in the order of the rows they start at. What makes a clip:
    `wtours.shards.clip_starts`. A video whose shots are not known gives clips that ignore cuts
    (`index.shots_known` says whether there is one).

    Args:
        index: An open shard set.
        clip_length: T, frames in a clip.
        frame_interval_seconds: Δ, from one frame of a clip to the next; or T - 1 of them; or a
            range that each clip draws its own from.
        across_cuts: Whether a clip may go over a cut.
        min_start_distance_seconds: No two clips of a video start nearer to each other; 0: a clip
            starts at every frame that it can.
        split: Only clips that lie in this part of the set's `split.json`, for example "train".
        layers: Names of layers (`wtours layer make`) whose values come with each clip.

    Raises:
        ShardError: there is no such clip in the whole set, no such split, or no such layer of these
            frames.
        ValueError: an interval or distance makes no sense.
    """

    def __init__(
        self,
        index: ShardIndex,
        *,
        clip_length: int = 8,
        frame_interval_seconds: FrameInterval = 1.0,
        across_cuts: bool = False,
        min_start_distance_seconds: float = 0.0,
        split: str | None = None,
        layers: Sequence[str] = (),
    ) -> None:
        if not 0 <= min_start_distance_seconds < 1e9:
            raise ValueError(
                f"min_start_distance_seconds must be >= 0, got {min_start_distance_seconds}"
            )
        self.index = index
        self.clip_length = clip_length
        self.across_cuts = across_cuts
        self._interval = frame_interval_seconds
        self._distance_us = round(min_start_distance_seconds * _US)
        self.split: Split | None = None if split is None else read_split(index, split)
        """The blocks that clips are taken from; None: all of the set."""
        self.layers: dict[str, Layer] = {name: Layer.open(index, name) for name in layers}
        """Open, by name."""
        longest = frame_interval_seconds
        if isinstance(longest, IntervalRange):
            clip_offsets_us(clip_length, longest.min)  # refuses one below a microsecond
            longest = longest.max
        self._offsets_us = clip_offsets_us(clip_length, longest)
        self.num_clips: dict[str, int] = {}
        """Number of clips of each video, by its id, in the order of the clips."""
        # As narrow as a set's rows allow: there is one for almost every frame.
        kind: type[np.signedinteger[Any]] = np.int32 if len(index) < 2**31 else np.int64
        starts, total = np.empty(len(index), kind), 0
        for video in index.videos:
            part = self._starts(video)
            starts[total : total + len(part)] = part
            total += len(part)
            self.num_clips[video.video_id] = len(part)
        self.starts: NDArray[np.signedinteger[Any]] = starts[:total]
        """(number of clips,) int32 (int64 from 2**31 frames on); the row of its first frame."""
        if not len(self.starts):
            interval = frame_interval_seconds
            shown = (
                f"{interval.min:g} to {interval.max:g}"
                if isinstance(interval, IntervalRange)
                else str(interval)
            )
            raise ShardError(
                f"{index.directory} has no clip of {clip_length} frames {shown} s "
                f"apart within one shot{'' if split is None else f' of its split {split!r}'}; its "
                f"videos are shorter or sampled more sparsely: use a shorter clip or another "
                f"interval"
            )

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self.starts)

    def __getitem__(self, key: ClipKey) -> Clip:
        """Return a clip.

        Args:
            key: Its number, 0 to len - 1; where the interval is a range, (number, draw in [0, 1)),
                as `ClipSampler.key_at` gives it.

        Raises:
            ShardError: a shard was damaged since the index was opened.
            ValueError: the interval is a range, and there is no draw.
        """
        rows = self.clip_rows(key)
        return Clip(
            video_id=self.index.video_of(rows[0]).video_id,
            start=rows[0],
            pts_us=tuple(self.index.pts_us[rows].tolist()),
            jpegs=self.index.read_jpegs(rows),
            layers={name: layer.read(rows) for name, layer in self.layers.items()},
        )

    def clip_rows(self, key: ClipKey) -> list[int]:
        """Return the T rows of a clip; see `__getitem__`."""
        number, draw = key if isinstance(key, tuple) else (key, None)
        if not 0 <= number < len(self.starts):
            raise IndexError(f"clip {number} of {len(self.starts)}")
        offsets_us = self._offsets_us
        if isinstance(self._interval, IntervalRange):
            if draw is None:
                raise ValueError(
                    "each clip draws its interval: take the sampler of `ClipDataset.sampler`, and "
                    "index by its `key_at(position)`"
                )
            offsets_us = clip_offsets_us(self.clip_length, self._interval.at(draw))
        start = int(self.starts[number])
        video = self.index.video_of(start)
        pts_us = self.index.pts_us[video.start : video.stop]
        moments = self.index.pts_us[start] + np.array(offsets_us, dtype=np.int64)
        rows: list[int] = (video.start + nearest_rows(pts_us, moments)).tolist()
        return rows

    def sampler(
        self,
        *,
        seed: int,
        clips_per_epoch: int | None = None,
        clips_per_video: int | None = None,
        mixture: Mapping[str, int] | None = None,
        clips_per_neighborhood: int = 1,
        neighborhood_seconds: float = 10.0,
    ) -> ClipSampler:
        """Return the order of these clips; see `ClipSampler`.

        Args:
            seed: Another seed, another order.
            clips_per_epoch: Clips that make an epoch; None: all.
            clips_per_video: Instead: an epoch is so many clips of each video that has one.
            mixture: See `shares`.
            clips_per_neighborhood: So many clips in a row begin near each other.
            neighborhood_seconds: How near: within this of the first, in the same shot.

        Raises:
            ShardError: a video of the mixture is not in the set, or has no clip.
            ValueError: clips_per_video beside clips_per_epoch or a mixture, or not a multiple of
                clips_per_neighborhood.
        """
        if clips_per_video is not None:
            if clips_per_epoch is not None or mixture:
                raise ValueError("clips_per_video goes without clips_per_epoch and mixture")
            if clips_per_video % max(clips_per_neighborhood, 1):
                raise ValueError(
                    f"clips_per_video ({clips_per_video}) must be a multiple of "
                    f"clips_per_neighborhood ({clips_per_neighborhood})"
                )
            mixture = {video_id: 1 for video_id, num_clips in self.num_clips.items() if num_clips}
            clips_per_epoch = clips_per_video * len(mixture)
        if not 0 < neighborhood_seconds < 1e9:
            raise ValueError(f"neighborhood_seconds must be > 0, got {neighborhood_seconds}")
        return ClipSampler(
            len(self),
            seed=seed,
            clips_per_epoch=clips_per_epoch,
            mixture=self.shares(mixture) if mixture else (),
            clips_per_neighborhood=clips_per_neighborhood,
            neighbors=partial(self.neighbors, seconds=neighborhood_seconds),
            draws=isinstance(self._interval, IntervalRange),
        )

    def neighbors(self, number: int, *, seconds: float) -> range:
        """Return the clips around a clip, itself among them.

        They start in the same video within `seconds` of it; in the same shot, unless clips go
        across cuts.
        """
        start = int(self.starts[number])
        video = self.index.video_of(start)
        pts_us = self.index.pts_us[video.start : video.stop]
        moment, reach = self.index.pts_us[start], round(seconds * _US)
        rows = video.start + np.searchsorted(pts_us, [moment - reach, moment + reach + 1])
        # In their own type: searchsorted would copy all starts into a wider one.
        first, stop = np.searchsorted(self.starts, rows.astype(self.starts.dtype)).tolist()
        shot = self.index.shot[self.starts[first:stop]]
        here = number - first
        if not self.across_cuts and shot[here] >= 0:
            others = np.flatnonzero((shot != shot[here]) & (shot >= 0))
            before, after = others[others < here], others[others > here]
            stop = first + int(after[0]) if len(after) else stop
            first = first + int(before[-1]) + 1 if len(before) else first
        return range(first, stop)

    def torch(
        self,
        transform: Callable[[NDArray[np.uint8]], Any] | None = None,
        *,
        min_short_side: int | None = None,
    ) -> TorchClips:
        """Return the clips as a dataset for `torch.utils.data.DataLoader` and its default collate.

        An item is {"frames", "pts_us", "video_id", "start"}: frames are (T, H, W, 3) uint8 RGB, or
        what `transform` makes of them; pts_us are (T,) int64 microseconds; start is the row of the
        first frame. Each layer is an item by its name, (T, ...): the values stacked, NaN where a
        layer of floats has none. Frames of two videos may differ in size: then a transform has to
        make them equal before a batch can be made. torch itself is not needed here.

            clips = ClipDataset(ShardIndex.open("data/shards/default"))
            loader = DataLoader(clips.torch(transform=crop), batch_size=8, num_workers=4)

        Args:
            transform: Called with the frames of a clip; under spawn it has to be picklable.
            min_short_side: Decode smaller, as `Clip.decode` does.
        """
        return TorchClips(self, transform, min_short_side)

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

    def _starts(self, video: VideoRows) -> NDArray[np.int64]:
        """Return the rows at which a clip of a video starts."""
        rows = slice(video.start, video.stop)
        pts_us = self.index.pts_us[rows]
        shot = None if self.across_cuts else self.index.shot[rows]
        if isinstance(self._interval, IntervalRange) and self.clip_length > 1:
            starts = range_starts(
                pts_us,
                self.index.frame_index[rows],
                shot,
                is_native=self.index.dataset.params.rate is None,
                span_us=self._offsets_us[-1],
                shortest_us=round(self._interval.min * _US),
                tolerance_us=video.tolerance_us,
            )
        else:
            starts = clip_starts(
                pts_us, shot, offsets_us=self._offsets_us, tolerance_us=video.tolerance_us
            )
        if self.split is not None:
            # The last frame may be later than its moment.
            reach_us = longest_reach_us(pts_us, video.tolerance_us) if self.clip_length > 1 else 0
            span_us = self._offsets_us[-1] + reach_us
            starts = starts[self.split.holds(video.video_id, pts_us[starts], span_us)]
        if self._distance_us:
            starts = starts[spaced_starts(pts_us[starts], self._distance_us)]
        rows_of_set: NDArray[np.int64] = video.start + starts
        return rows_of_set
