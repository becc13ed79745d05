"""One segment of one video: decoded once for whatever is to be measured, published as files.

A segment reads from the last frame before it (the content score compares with it, and the nearest
frame to a tick may be on either side of a boundary) to the first frame after it, so that the
segments of a video give together exactly what one segment would.
"""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from wtours.analyze.detectors.base import Detection, DetectorClient, DetectorSource
from wtours.analyze.downscale import FrameReducer
from wtours.analyze.lightness import frame_lightness
from wtours.analyze.measurements import FRAMES, QUALITY, TRANSNET
from wtours.analyze.quality.meter import QualityMeter
from wtours.analyze.schema import (
    MEASURED_FILE,
    MEASURED_FRAMES_SCHEMA,
    MEASURED_SCHEMA,
    SEGMENT_DETECTIONS_SCHEMA,
    UNDECODABLE,
)
from wtours.analyze.shots import ContentScorer
from wtours.analyze.transnet import HEIGHT, PICTURES_FILE, WIDTH, SmallPictures
from wtours.media.frame import Frame
from wtours.media.reader import VideoReader, open_video
from wtours.media.sampling import TickSampler
from wtours.storage.atomic import RECEIPT_FILE, atomic_path, remove
from wtours.storage.receipts import Receipt, is_current, record_file, write_receipt
from wtours.storage.working_copy import share
from wtours.text import clock
from wtours.workspace.layout import DETECTIONS_FILE, FRAMES_FILE
from wtours.workspace.videos import FileIdentity, require_same_file, video_at_hand

_LEAD_IN_US = 1_000_000


@dataclass(frozen=True, slots=True)
class SegmentTask:
    """The unit of work: the frames of [start_us, end_us) of one video; end_us None: to its end."""

    video_id: str
    video_path: Path
    identity: FileIdentity | None
    """Of the file when the stage began."""
    stream: int | None
    """Of the file; None: the one that `open_video` chooses."""
    video_sha256: str
    folder: Path
    """Where its files are published."""
    number: int
    start_us: int
    end_us: int | None
    detector: DetectorSource | None
    """None: objects are not measured."""
    rate: Fraction
    """Frames a second that the detector is given."""
    measured: dict[str, Any]
    """What to measure: the parameters by measurement."""

    def __str__(self) -> str:
        end = "the end" if self.end_us is None else clock(self.end_us)
        return f"{self.video_id} from {clock(self.start_us)} to {end}"

    @property
    def receipt_path(self) -> Path:
        """Return where the segment's receipt is; it is published together with the files."""
        return self.folder / RECEIPT_FILE

    @property
    def half_tick_us(self) -> int:
        """Return half the time between two frames for the detector, and a little."""
        return int(Fraction(500_000) / self.rate) + 1

    def receipt(self, files: Iterable[Path] = ()) -> Receipt:
        """Return the receipt that says what the segment was made from."""
        return Receipt(
            stage="analyze-segment",
            key=f"{self.video_id}-{self.number:05d}",
            inputs={"video": self.video_sha256},
            params={
                "stream": self.stream,
                "start_us": self.start_us,
                "end_us": self.end_us,
                **self.measured,
            },
            files=tuple(record_file(file, relative_to=file.parent) for file in files),
        )

    def record_failure(self, reason: str) -> None:
        """Publish a receipt that says why the segment cannot be made; the next run tries again."""
        remove(self.folder)
        with atomic_path(self.folder) as folder:
            folder.mkdir()
            failed = self.receipt().model_copy(
                update={"status": "failed_permanent", "error": reason}
            )
            write_receipt(folder / RECEIPT_FILE, failed)

    def is_done(self) -> bool:
        """Return whether the segment is there, made from the same things."""
        wanted = self.receipt()
        return is_current(self.receipt_path, inputs=wanted.inputs, params=wanted.params)


def analyze_segment(task: SegmentTask) -> None:
    """Measure one segment and publish its folder, if it is not there.

    Raises:
        VideoError: the video cannot be read.
        AnalysisError: the detector failed.
    """
    if task.is_done():  # by a worker that died before it could say so
        return
    with video_at_hand(task.video_path, task.video_sha256), contextlib.ExitStack() as stack:
        detector = None if task.detector is None else stack.enter_context(task.detector.connect())
        measuring = SegmentMeasuring(task, detector)
        _read_segment(task, measuring)
        measuring.publish()


class SegmentMeasuring:
    """Measures the frames of one segment as they are decoded, whoever decodes them.

    Push the last frame before the segment (where there is one), then the frames in time order until
    `push` says that the segment is over, or the video is; then `finish`, and `publish`.

    Args:
        detector: Connected; None: objects are not measured.
    """

    def __init__(self, task: SegmentTask, detector: DetectorClient | None) -> None:
        require_same_file(task.video_path, task.identity)
        self._task, self._detector = task, detector
        self._frames: list[dict[str, Any]] = []
        self._measured_pts_us: list[int] = []
        self._detections: list[dict[str, Any]] = []
        self._num_undecodable = 0
        self._pictures: list[NDArray[np.uint8]] = []  # (27, 48, 3) RGB, one for each frame
        self._quality = QualityMeter(task.start_us)
        self._reducer, self._scorer, self._small = FrameReducer(), ContentScorer(), SmallPictures()
        self._sampler = TickSampler[Frame](task.rate, start_us=task.start_us, end_us=task.end_us)

    def push(self, frame: Frame) -> bool:
        """Measure a frame; return whether the segment needs no other."""
        task = self._task
        self._detect(self._sampler.push(frame))
        if task.end_us is not None and frame.pts_us >= task.end_us:
            return not frame.is_corrupt or frame.pts_us > task.end_us + task.half_tick_us
        is_inside = frame.pts_us >= task.start_us
        if task.measured.keys() & {FRAMES, QUALITY}:
            reduced = self._reducer.reduce(frame)
        if FRAMES in task.measured:
            score = self._scorer.score(reduced)
            if is_inside:
                lightness = frame_lightness(reduced)
                self._frames.append(
                    {
                        "pts_us": frame.pts_us,
                        "lightness": lightness.mean,
                        "lightness_p5": lightness.p5,
                        "lightness_p95": lightness.p95,
                        "content_score": score,
                        "is_corrupt": frame.is_corrupt,
                    }
                )
        if QUALITY in task.measured:
            self._quality.push(frame.pts_us, reduced)
        if TRANSNET in task.measured and is_inside:
            self._pictures.append(self._small.reduce(frame))
        return False

    def finish(self, num_undecodable: int) -> None:
        """End the segment: the detector's last answers are waited for.

        Args:
            num_undecodable: How many of its frames do not decode.
        """
        self._num_undecodable = num_undecodable
        if self._detector is not None:
            self._detect(self._sampler.finish())
            self._add_detected(self._detector.finish())

    def publish(self) -> None:
        """Publish the segment's folder, with its receipt.

        Raises:
            VideoError: the video was replaced meanwhile.
        """
        task = self._task
        require_same_file(task.video_path, task.identity)
        remove(task.folder)  # what was made with other parameters
        with atomic_path(task.folder) as folder:
            folder.mkdir()
            self._write(folder)
            files = sorted(folder.iterdir())
            write_receipt(folder / RECEIPT_FILE, task.receipt(files))
        share(task.receipt_path)

    def _detect(self, sampled: list[tuple[int, Frame]]) -> None:
        if self._detector is not None:
            self._add_detected(self._detector.submit([frame for _, frame in sampled]))

    def _add_detected(self, detected: Iterable[tuple[int, list[Detection]]]) -> None:
        columns = SEGMENT_DETECTIONS_SCHEMA.names[1:]
        for pts_us, found in detected:
            self._measured_pts_us.append(pts_us)
            self._detections += [
                {"pts_us": pts_us, **{name: getattr(detection, name) for name in columns}}
                for detection in found
            ]

    def _write(self, folder: Path) -> None:
        task, tables = self._task, {}
        if FRAMES in task.measured:
            schema = MEASURED_FRAMES_SCHEMA.with_metadata({UNDECODABLE: str(self._num_undecodable)})
            tables[FRAMES_FILE] = pa.Table.from_pylist(self._frames, schema)
        if task.detector is not None:
            found = pa.Table.from_pylist(self._detections, SEGMENT_DETECTIONS_SCHEMA)
            tables[MEASURED_FILE] = pa.table([self._measured_pts_us], schema=MEASURED_SCHEMA)
            tables[DETECTIONS_FILE] = found
        for name, table in tables.items():
            pq.write_table(table, folder / name, compression="zstd")
        if QUALITY in task.measured:
            self._quality.write(folder)
        if TRANSNET in task.measured:
            pictures = np.array(self._pictures, np.uint8).reshape(-1, HEIGHT, WIDTH, 3)
            np.save(folder / PICTURES_FILE, pictures)


def _read_segment(task: SegmentTask, measuring: SegmentMeasuring) -> None:
    with open_video(task.video_path, stream=task.stream, threads=1) as video:
        frames = _frames_with_lead_in(video, task.start_us, reach_us=task.half_tick_us)
        any(map(measuring.push, frames))  # until the first that says it is over
        end_us = video.last_pts_us() + 1 if task.end_us is None else task.end_us
        measuring.finish(len(video.undecoded_pts_us(task.start_us, end_us)))


def _frames_with_lead_in(video: VideoReader, start_us: int, *, reach_us: int) -> Iterator[Frame]:
    """Yield the frames from `start_us`, after the last frame before it.

    If that one is corrupt, the last sound frame comes before it, where there is one within
    `reach_us`.
    """
    margin_us = _LEAD_IN_US
    while True:
        from_us = max(0, start_us - margin_us)
        frames, before = video.frames(from_us), list[Frame]()
        first = None
        for frame in frames:
            if frame.pts_us >= start_us:
                first = frame
                break
            # The last sound frame, and the last one if that is another.
            sound = [one for one in before if not one.is_corrupt]
            before = [*sound, frame] if frame.is_corrupt else [frame]
        has_sound = bool(before) and not before[0].is_corrupt
        if from_us == 0 or has_sound or (before and margin_us >= reach_us):
            break
        margin_us *= 4  # a gap before the segment: look further back
    yield from before
    if first is not None:
        yield first
        yield from frames
