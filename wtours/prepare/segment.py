"""The unit of work of `prepare`: a stretch of a video, decoded once for analysis and shards.

What is published, and how, is that of `analyze` and of `shard`: this module only hands the same
frames to both. It does so where nothing is damaged. What a decoder conceals may depend on where it
began, and the two begin at different places; so a stretch with a frame that is corrupt or does not
decode is read apart for each, as the two commands do.
"""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from wtours.analyze import segment as analysis
from wtours.analyze.detectors.base import DetectorClient
from wtours.errors import ShardError, StorageError, VideoError, WtoursError
from wtours.media.frame import Frame
from wtours.media.frame_times import frame_times
from wtours.media.reader import VideoMetadata, VideoReader, open_video
from wtours.sharding import segment as sharding
from wtours.sharding.segment_writer import SegmentWriting, shard_segment
from wtours.text import clock
from wtours.workspace.videos import video_at_hand

logger = logging.getLogger(__name__)
_LEAD_IN_US = 1_000_000
_US = 1_000_000


@dataclass(frozen=True, slots=True)
class PrepareTask:
    """The segments that begin in one stretch of a video, in time order, those that are not done."""

    video_id: str
    number: int
    """Of the stretch."""
    measured: tuple[analysis.SegmentTask, ...]
    shards: tuple[sharding.SegmentTask, ...]
    directory: Path

    def __str__(self) -> str:
        starts = [task.start_us for task in self.measured]
        starts += [task.interval_us[0] for task in self.shards]
        return f"{self.video_id} from {clock(min(starts))}"

    def record_failure(self, reason: str) -> None:
        """Publish receipts that say why the segments cannot be made; the next run tries again."""
        for measured in self.measured:
            if not measured.is_done():
                measured.record_failure(reason)
        for shard in self.shards:
            if not shard.is_done(self.directory):
                sharding.record_failure(shard, self.directory, reason)


@dataclass(frozen=True, slots=True)
class PrepareOutcome:
    """How a task ended."""

    not_measured: str | None
    """Why segments of the analysis are missing; None: they are done."""
    not_sharded: str | None
    """Why segments of the shard set are missing; None: they are done."""
    is_decoded_once: bool
    """Whether one pass over the frames was enough."""


def prepare_segments(task: PrepareTask) -> PrepareOutcome:
    """Publish the segments of a task; one that cannot be made does not stop the others.

    What is there already is kept: a task that was interrupted is resumed.

    Raises:
        StorageError: the disk is full, or refuses to read or write.
        ShardError: the set or its parameters are not as they should be.
    """
    measured = tuple(one for one in task.measured if not one.is_done())
    shards = tuple(one for one in task.shards if not one.is_done(task.directory))
    if measured and shards:
        try:
            video = measured[0].video_path, measured[0].video_sha256
            with video_at_hand(*video), contextlib.ExitStack() as stack:
                _decode_once(measured, shards, task.directory, stack)
        except (StorageError, ShardError, OSError):
            raise
        except Exception as error:  # read apart, each says what is wrong in its own way
            logger.info("%s is read apart for analysis and shards: %s", task, error)
        else:
            return PrepareOutcome(None, None, is_decoded_once=True)
    return _decode_apart(measured, shards, task.directory)


def _decode_apart(
    measured: tuple[analysis.SegmentTask, ...],
    shards: tuple[sharding.SegmentTask, ...],
    directory: Path,
) -> PrepareOutcome:
    not_measured = not_sharded = None
    for segment in measured:
        try:
            if not segment.is_done():
                analysis.analyze_segment(segment)
        except StorageError:
            raise
        except WtoursError as error:
            not_measured = not_measured or str(error)
        except Exception as error:  # a file may break any library
            logger.info("%s", segment, exc_info=True)
            said = " ".join(str(error).split())
            not_measured = not_measured or f"{segment}: {type(error).__name__}: {said}"
    for shard in shards:
        reason = shard_segment(shard, directory=directory, keep_done=True)
        not_sharded = not_sharded or reason
    passes = len(measured) + len(shards)
    return PrepareOutcome(not_measured, not_sharded, is_decoded_once=passes <= 1)


class _DamagedError(VideoError):
    """What comes out of the decoder may depend on where it began."""


def _decode_once(
    measured: tuple[analysis.SegmentTask, ...],
    shards: tuple[sharding.SegmentTask, ...],
    directory: Path,
    stack: contextlib.ExitStack,
) -> None:
    """Publish all segments from one pass over the frames.

    Raises:
        VideoError: something is damaged: what had been finished before stays.
    """
    first = measured[0]
    reader = stack.enter_context(open_video(first.video_path, stream=first.stream, threads=1))
    if frame_times(first.video_path, first.stream).is_repaired:
        raise _DamagedError("its times had to be repaired")
    detector = None if first.detector is None else stack.enter_context(first.detector.connect())
    waiting: list[_Measure | _Write] = [_Measure(task, detector) for task in measured]
    waiting += [_Write(task, directory, reader.metadata, stack) for task in shards]
    # In the order of their beginnings: a detector gets the frames of one segment after the other.
    waiting.sort(key=lambda sink: sink.from_us, reverse=True)
    begin_us = waiting[-1].from_us
    running: list[_Measure | _Write] = []
    before: Frame | None = None
    for frame in _frames_with_one_before(reader, begin_us):
        if frame.is_corrupt:
            raise _DamagedError(f"the frame at {clock(frame.pts_us)} is damaged")
        while waiting and waiting[-1].from_us <= frame.pts_us:
            running.append(waiting.pop())
            if before is not None:
                running[-1].push(before)
        for sink in [sink for sink in running if sink.push(frame)]:
            running.remove(sink)
            _finish(sink, reader, begin_us)
        before = frame
        if not (running or waiting):
            return
    for sink in running + waiting[::-1]:  # the video ends in them, or before them
        _finish(sink, reader, begin_us)


class _Measure:
    """A segment of the analysis that takes frames."""

    def __init__(self, task: analysis.SegmentTask, detector: DetectorClient | None) -> None:
        self.from_us, self.end_us = task.start_us, task.end_us
        self._measuring = analysis.SegmentMeasuring(task, detector)
        self.push = self._measuring.push

    def finish(self) -> None:
        self._measuring.finish(num_undecodable=0)
        self._measuring.publish()


class _Write:
    """A segment of the shard set that takes frames."""

    def __init__(
        self,
        task: sharding.SegmentTask,
        directory: Path,
        metadata: VideoMetadata,
        stack: contextlib.ExitStack,
    ) -> None:
        start_us, end_us = task.interval_us
        self.from_us = max(0, start_us - task.margin_us)
        self.end_us: int | None = end_us + task.margin_us
        self._block = stack.enter_context(contextlib.ExitStack())
        self._writing = self._block.enter_context(SegmentWriting(task, directory, metadata))
        self.push = self._writing.push

    def finish(self) -> None:
        self._writing.finish(num_undecodable=0)
        self._block.close()  # publishes the tar
        self._writing.publish()


def _finish(sink: _Measure | _Write, reader: VideoReader, begin_us: int) -> None:
    """Publish a segment if every frame that it was made from came out of the decoder."""
    end_us = reader.last_pts_us() + 1 if sink.end_us is None else sink.end_us
    lost = reader.undecoded_pts_us(max(0, begin_us - _LEAD_IN_US), end_us)
    if lost:
        raise _DamagedError(f"the frame at {clock(lost[0])} does not decode")
    sink.finish()


def _frames_with_one_before(reader: VideoReader, start_us: int) -> Iterator[Frame]:
    """Yield the frames from `start_us` on, after at least one before it, where there is one."""
    margin_us = _LEAD_IN_US
    while True:
        from_us = max(0, start_us - margin_us)
        frames = reader.frames(from_us)
        first = next(frames, None)
        if from_us == 0 or (first is not None and first.pts_us < start_us):
            return chain([] if first is None else [first], frames)
        margin_us *= 4  # a gap before it: look further back
