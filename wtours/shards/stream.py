"""Clips out of shards on an object store or a web server: from the tars alone, read once in order.

Where the set is on a disk, `ClipDataset` is better: any clip at any time, exact resume, cuts. A
stream reads each byte of each shard once, in long ranges, and needs no index.
"""

import itertools
import math
import operator
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from wtours.errors import ShardError
from wtours.shards.clip import Clip
from wtours.shards.clip_starts import (
    STRETCH_GAPS,
    clip_offsets_us,
    clip_starts,
    nearest_rows,
    tolerance_us,
)
from wtours.shards.range_reads.remote import FetchPolicy, RangeReader, RemoteShard, list_shards
from wtours.shards.schema import Dataset
from wtours.shards.tar_reader import StreamedFrame, read_samples

_BATCH_FRAMES = 64
_MAX_WINDOW_BYTES = 2**30
_MAX_DENOMINATOR = 1002  # 1001: 30000/1001
_US = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOrder:
    """Which clips of a stream come to this consumer, and in what order.

    The set is divided by shards: in pass p, consumer `part` of `num_parts` reads the run number
    (part + p) mod num_parts of each video's shards, runs being equally long but for one. So each
    byte is read by one consumer only, and each consumer sees all videos, but a clip that begins in
    one run and ends in the next comes to nobody: of V videos, V * (num_parts - 1) times a clip's
    span is lost, at other places in no pass. Consumers may differ in number of clips.

    Raises:
        ValueError: a value is out of range.
    """

    passes: int | None = 1
    """How often to go through the set; None: without end."""
    start_stride: int = 1
    """A clip begins at every `start_stride`-th sampled frame of a run."""
    videos_at_once: int = 4
    """Clips are taken from this many videos in turn; each holds a clip's span of frames."""
    shuffle_clips: int = 0
    """Clips that wait in memory and are drawn at random; 0: in time order, videos by their ids."""
    seed: int = 0
    """Of the shuffling."""
    part: int = 0
    """This consumer, for example rank * num_workers + worker."""
    num_parts: int = 1
    """All consumers: world_size * num_workers."""

    def __post_init__(self) -> None:
        least = {"start_stride": 1, "videos_at_once": 1, "num_parts": 1, "shuffle_clips": 0}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ValueError(f"{name} must be >= {value}, got {getattr(self, name)}")
        if self.passes is not None and self.passes < 1:
            raise ValueError(f"passes must be >= 1 or None, got {self.passes}")
        if not 0 <= self.part < self.num_parts:
            raise ValueError(f"part ({self.part}) must be 0 to {self.num_parts - 1}")


class _SamplingRate:
    """The sampling rate of a shard set: as dataset.json says, else what the frames seen allow.

    Tick i keeps a frame from [i - 1/2, i + 1/2) periods on, so each frame bounds the rate. Of the
    rates left, a whole one is taken, else the source's own, else that of the least denominator; if
    none is left, the frames are numbered one by one ("native"). So the same clips come out by the
    URL of the folder and by those of the tars.
    """

    def __init__(self, dataset: Dataset | None) -> None:
        self._dataset = dataset
        self._low, self._high = Fraction(0), Fraction(_US)

    def see(self, frames: Sequence[StreamedFrame]) -> None:
        """Narrow the bounds."""
        for frame in frames if self._dataset is None else ():
            if frame.pts_us:
                doubled = 2 * frame.frame_index, 2 * frame.pts_us
                self._low = max(self._low, Fraction((doubled[0] - 1) * _US, doubled[1]))
                self._high = min(self._high, Fraction((doubled[0] + 1) * _US, doubled[1]))

    def tolerance_us(self, source_rate: Fraction) -> int:
        """Return how far a clip's frame may be from its moment, as `clip_starts` takes it."""
        if self._dataset is not None:
            return tolerance_us(self._dataset.params.rate, source_rate)
        low, high = self._low, self._high
        candidates = (Fraction(math.ceil(low * n), n) for n in range(1, _MAX_DENOMINATOR))
        rate = next((rate for rate in candidates if 0 < rate < high), None) if low < high else None
        if rate is None or (rate.denominator > 1 and low <= source_rate < high):
            return tolerance_us(None, source_rate)
        return tolerance_us(rate, source_rate)


def stream_clips(
    source: str | Sequence[str],
    *,
    clip_length: int = 8,
    frame_interval_seconds: float = 1.0,
    order: StreamOrder | None = None,
    policy: FetchPolicy | None = None,
) -> Iterator[Clip]:
    """Yield the clips of shards at fsspec URLs (https:, s3:, gs:, file:, a path, …).

    Clips go across cuts: cuts are in the index. Memory holds, for each of `videos_at_once`, the
    frames of a clip's span and at most 2 * ranges_ahead ranges of 4 MiB, and `shuffle_clips` clips.

    Args:
        source: The URL of a shard set's folder: its `dataset.json` is fetched, and each shard must
            be as it says, to the sha256 (known when the shard's last clip has come). Or the URLs of
            tars, named as `wtours shard` names them, in any order: each must be a whole tar.
        clip_length: T, frames in a clip.
        frame_interval_seconds: Δ, from one frame of a clip to the next.
        order: Passes, interleaving, shuffling, and this consumer's part.
        policy: Retries, timeouts, prefetching, and options of fsspec.

    Raises:
        ShardError: a shard is missing, slow, damaged or not of format 1, after retries; the message
            names it. Or there is no such clip in the set.
        MissingPackageError: fsspec has no client for the protocol.
    """
    order, policy = order or StreamOrder(), policy or FetchPolicy()
    offsets_us = clip_offsets_us(clip_length, frame_interval_seconds)
    dataset, shards = list_shards(source, policy)
    num_empty = 0
    for pass_number in itertools.count() if order.passes is None else range(order.passes):
        generator = random.Random(f"{order.seed}/{pass_number}/{order.part}")
        runs = _runs(shards, order, pass_number)
        if order.shuffle_clips:
            generator.shuffle(runs)
        clips = _in_turn(
            [_run_clips(run, dataset, offsets_us, order, policy) for run in runs], order
        )
        is_empty = True
        for clip in _shuffled(clips, order.shuffle_clips, generator):
            is_empty = False
            yield clip
        num_empty = num_empty + 1 if is_empty else 0
        if num_empty == order.num_parts:
            raise ShardError(
                f"no clip of {clip_length} frames {frame_interval_seconds} s apart in any run of "
                f"shards: use a shorter clip, another interval or fewer parts ({order.num_parts})"
            )


def _runs(
    shards: list[RemoteShard], order: StreamOrder, pass_number: int
) -> list[list[RemoteShard]]:
    """Return this consumer's run of consecutive shards of each video that has one for it."""
    number = (order.part + pass_number) % order.num_parts
    runs = []
    for _, group in itertools.groupby(shards, key=lambda shard: shard.video_id):
        video = list(group)
        start = len(video) * number // order.num_parts
        runs.append(video[start : len(video) * (number + 1) // order.num_parts])
    return [run for run in runs if run]


def _run_clips(
    run: list[RemoteShard],
    dataset: Dataset | None,
    offsets_us: tuple[int, ...],
    order: StreamOrder,
    policy: FetchPolicy,
) -> Iterator[Clip]:
    """Yield the clips of a run of shards, in time order."""
    frames = _run_frames(run, policy)
    rate = _SamplingRate(dataset)
    moments_us = np.array(offsets_us)
    window: list[StreamedFrame] = []
    num_dropped = first = 0  # `first`: of the window, whose clip is to be decided next
    while True:
        batch = list(itertools.islice(frames, _BATCH_FRAMES))
        window += batch
        if not window:
            return
        rate.see(batch)
        num_bytes = sum(len(frame.jpeg) for frame in window)
        if num_bytes > _MAX_WINDOW_BYTES:
            raise ShardError(
                f"the frames of {run[0].video_id} within a clip's span take {num_bytes >> 20} MiB; "
                f"a stream keeps {_MAX_WINDOW_BYTES >> 20}: use a shorter span, or ClipDataset"
            )
        pts_us = np.array([frame.pts_us for frame in window])
        # Only a start whose last moment has been passed is decided, by the frames that tell how
        # fast the source is there; at the end all are.
        known = max(0, len(window) - 1 - STRETCH_GAPS)
        decided_us = pts_us[known] - offsets_us[-1] if batch else pts_us[-1]
        stop = int(np.searchsorted(pts_us, decided_us, side="right"))
        tolerance = rate.tolerance_us(window[-1].source_rate)
        starts = clip_starts(pts_us, None, offsets_us=offsets_us, tolerance_us=tolerance)
        for start in starts[(first <= starts) & (starts < stop)].tolist():
            if (num_dropped + start) % order.start_stride == 0:
                rows = nearest_rows(pts_us, pts_us[start] + moments_us)
                times = tuple(window[row].pts_us for row in rows)
                yield Clip(run[0].video_id, None, times, tuple(window[row].jpeg for row in rows))
        if not batch:
            return
        kept = max(0, stop - STRETCH_GAPS)
        window = window[kept:]
        num_dropped, first = num_dropped + kept, stop - kept


def _run_frames(run: list[RemoteShard], policy: FetchPolicy) -> Iterator[StreamedFrame]:
    """Yield the frames of consecutive shards; the next shard is asked for while one is read."""
    previous = (-1, -1)
    following = _open(run[0], policy)
    for number, shard in enumerate(run):
        reader = following
        if number + 1 < len(run):
            following = _open(run[number + 1], policy)
        num_frames = 0
        for frame in read_samples(reader):
            place = (frame.frame_index, frame.pts_us)
            if frame.video_id != shard.video_id or min(map(operator.sub, place, previous)) <= 0:
                raise ShardError(
                    f"{reader.name}: frame {frame.frame_index} of {frame.video_id} at "
                    f"{frame.pts_us} us does not belong there"
                )
            previous = place
            num_frames += 1
            yield frame
        record, found = shard.record, (num_frames, reader.sha256())
        if record is not None and found != (record.frames, record.sha256):
            raise ShardError(
                f"{reader.name} is not the shard that dataset.json describes ({num_frames} frames, "
                f"sha256 {reader.sha256()}): copy it there again"
            )


def _open(shard: RemoteShard, policy: FetchPolicy) -> RangeReader:
    return RangeReader(shard.url, policy, size=shard.record.bytes if shard.record else None)


def _in_turn(clips: list[Iterator[Clip]], order: StreamOrder) -> Iterator[Clip]:
    """Yield from the first few iterators in turn; when one ends, the next takes its place."""
    waiting = iter(clips)
    active = list(itertools.islice(waiting, order.videos_at_once))
    while active:
        for iterator in list(active):
            clip = next(iterator, None)
            if clip is not None:
                yield clip
                continue
            place = active.index(iterator)
            active[place : place + 1] = itertools.islice(waiting, 1)


def _shuffled(clips: Iterator[Clip], size: int, generator: random.Random) -> Iterator[Clip]:
    """Yield the clips in an order that is random within about `size` of them."""
    buffer: list[Clip] = []
    for clip in clips:
        if len(buffer) < size:
            buffer.append(clip)
            continue
        if size:
            place = generator.randrange(size)
            clip, buffer[place] = buffer[place], clip
        yield clip
    generator.shuffle(buffer)
    yield from buffer
