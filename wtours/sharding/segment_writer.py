"""Writing a segment: its frames are decoded, sampled, reduced, encoded, and put into a tar."""

import itertools
import logging
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Self

from wtours.errors import VideoError, WorkerDiedError, WtoursError
from wtours.execution.executor import Executor
from wtours.media.frame import Frame
from wtours.media.image import encode_planes
from wtours.media.reader import VideoMetadata, VideoReader, open_video
from wtours.media.sampling import TickSampler
from wtours.sharding.anonymize.blur import Blur
from wtours.sharding.segment import SegmentTask, publish_receipt, publish_rows, record_failure
from wtours.sharding.selection.seconds import taken_seconds
from wtours.sharding.tar_writer import ShardTar
from wtours.workspace.videos import require_same_file, video_at_hand

logger = logging.getLogger(__name__)
_US = 1_000_000


def run_segments(
    tasks: Iterable[SegmentTask], directory: Path, executor: Executor, *, keep_done: bool = True
) -> Iterator[tuple[SegmentTask, str | None]]:
    """Publish segments; yield each as it ends, with the reason if it could not be made.

    Args:
        tasks: The segments.
        directory: The shard set.
        executor: Runs them.
        keep_done: A segment that is there is not made again, when a worker that died is replaced.

    A segment that kills its process, also alone, is recorded as failed; the next run tries again.
    """
    try:
        function = partial(shard_segment, directory=directory, keep_done=keep_done)
        yield from executor.map(function, tasks)
    except WorkerDiedError as error:
        for task in error.tasks:
            assert isinstance(task, SegmentTask)
            reason = error.reason(task)
            record_failure(task, directory, reason)
            yield task, reason


def shard_segment(task: SegmentTask, *, directory: Path, keep_done: bool) -> str | None:
    """Publish one segment in the shard set `directory`; with `keep_done`, if it is not there.

    Returns:
        Why the video cannot be read (the other videos are still processed), or None.

    Raises:
        WtoursError: the disk is full.
    """
    if keep_done and task.is_done(directory):
        return None
    try:
        with (
            video_at_hand(Path(task.video_path), task.source_sha256),
            open_video(Path(task.video_path), stream=task.stream, threads=1) as reader,
            SegmentWriting(task, directory, reader.metadata) as writing,
        ):
            for frame in _frames(reader, task):
                writing.push(frame)
            writing.finish(len(reader.undecoded_pts_us(*task.interval_us)))
    except VideoError as error:
        return str(error)
    except (WtoursError, OSError):  # of the disk or the set: it would meet each segment
        raise
    except Exception as error:  # a file may break any library
        logger.info("%s", task, exc_info=True)
        return f"{task}: {type(error).__name__}: {' '.join(str(error).split())}"
    writing.publish()
    return None


class SegmentWriting:
    """Writes one segment from frames as they are decoded, whoever decodes them.

    Push the frames in time order, those of `task.margin_us` before the segment too, until `push`
    says that the segment is over, or the video is; then `finish`. The tar is published when the
    block ends, the rows and the receipt by `publish`.

    Args:
        task: The segment.
        directory: The shard set.
        metadata: Of the video.
    """

    def __init__(self, task: SegmentTask, directory: Path, metadata: VideoMetadata) -> None:
        require_same_file(Path(task.video_path), task.identity)
        self._task, self._directory = task, directory
        self._tar = ShardTar(directory / f"{task.shard}.tar", task.params.suffix)
        self._num_corrupt = self._num_undecodable = 0
        params, rate = task.params, metadata.frame_rate
        self._source = {  # facts of the file, never of its license
            "source_sha256": task.source_sha256,
            "source_width": metadata.width,
            "source_height": metadata.height,
            "source_frame_rate": f"{rate.numerator}/{rate.denominator}",
            **metadata.display_facts(),
        }
        self._blur = None
        if params.blur is not None:
            self._blur = Blur(
                directory,
                params.blur,
                task.video_id,
                interval_us=task.interval_us,
                source_size=(metadata.width, metadata.height),
                period_us=float(_US / rate),
            )
        self._seconds = None
        if params.where is not None:
            self._seconds = taken_seconds(directory, params.where, task.video_id)
        self._sampler = None if params.rate is None else TickSampler[Frame](params.rate)
        self._native = dict(zip(task.native_pts_us, itertools.count(task.native_first_index)))

    def __enter__(self) -> Self:
        self._tar.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._tar.__exit__(*error)

    def push(self, frame: Frame) -> bool:
        """Write what this frame decides; return whether the segment needs no other.

        Raises:
            VideoError: with "native", its time is that of no packet.
        """
        task = self._task
        start_us, end_us = task.interval_us
        is_inside = start_us <= frame.pts_us < end_us
        self._num_corrupt += is_inside and frame.is_corrupt
        if self._sampler is not None:
            self._write(self._sampler.push(frame))
        elif is_inside:
            if frame.pts_us not in self._native:
                raise VideoError(
                    f"{task.video_path}: the frame at {frame.pts_us} us has no packet of that "
                    f"time, so native frames cannot be numbered; use --fps with a number"
                )
            if not frame.is_corrupt:
                self._write([(self._native[frame.pts_us], frame)])
        return frame.pts_us >= end_us + task.margin_us

    def finish(self, num_undecodable: int) -> None:
        """End the segment, of whose frames so many do not decode.

        Raises:
            VideoError: the video was replaced meanwhile.
        """
        if self._sampler is not None:
            self._write(self._sampler.finish())
        self._num_undecodable = num_undecodable
        require_same_file(Path(self._task.video_path), self._task.identity)

    def publish(self) -> None:
        """Publish the rows and the receipt; call it after the block, which publishes the tar."""
        rows = self._tar.rows
        files = publish_rows(self._task, self._directory, rows)
        facts = {"frames": len(rows), "corrupt_frames": self._num_corrupt}
        facts["undecodable_frames"] = self._num_undecodable
        publish_receipt(self._task, self._directory, files=files, facts=facts)

    def _write(self, sampled: Iterable[tuple[int, Frame]]) -> None:
        task, params = self._task, self._task.params
        start_us, end_us = task.interval_us
        for frame_index, frame in sampled:
            if not start_us <= frame.pts_us < end_us:  # a tick of the margin
                continue
            if self._seconds is not None and frame.pts_us // _US not in self._seconds:
                continue
            blurred: dict[str, float] = {}
            if self._blur is None:
                planes = frame.to_jpeg_planes(params.short_side)
            else:
                planes, blurred = self._blur.apply(frame, params.short_side)
            image = encode_planes(planes, quality=params.quality, codec=params.codec)
            pts_us, source = frame.pts_us, self._source
            self._tar.add(task.video_id, frame_index, pts_us, image, source, **blurred)


def _frames(reader: VideoReader, task: SegmentTask) -> Iterator[Frame]:
    """Yield the frames that decide the segment, in time order."""
    start_us, end_us = task.interval_us
    # A tick at the border has frames on both sides of it: look one tick further, so that it keeps
    # the same frame whichever segment is made. None is nearer than one at the very moment.
    margin_us, rate = task.margin_us, task.params.rate
    if rate is None or start_us * rate % _US == 0:
        return reader.frames(start_us, end_us + margin_us, lead_us=margin_us)
    return reader.frames(max(0, start_us - margin_us), end_us + margin_us)
