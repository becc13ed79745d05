"""One segment of one video: decoded once for lightness, cut scores and objects, published as files.

A segment reads from the last frame before it (the content score compares with it, and the nearest
frame to a tick may be on either side of a boundary) to the first frame after it, so that the
segments of a video give together exactly what one segment would.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from wtours.analyze.detectors.base import Detection
from wtours.analyze.detectors.precomputed import FileDetector
from wtours.analyze.detectors.server import Endpoint, RemoteNetwork
from wtours.analyze.detectors.spec import DetectorSpec
from wtours.analyze.downscale import FrameReducer
from wtours.analyze.lightness import frame_lightness
from wtours.analyze.schema import DETECTIONS_FILE, DETECTIONS_SCHEMA, FRAMES_FILE, FRAMES_SCHEMA
from wtours.analyze.shots import ContentScorer
from wtours.analyze.transnet import HEIGHT, PICTURES_FILE, WIDTH, SmallPictures
from wtours.errors import AnalysisError, VideoError
from wtours.media.frame import Frame
from wtours.media.reader import VideoReader, open_video
from wtours.media.tick_picker import TickPicker
from wtours.storage.atomic import atomic_path, remove
from wtours.storage.receipts import Receipt, is_current, record_file, write_receipt

MEASURED_FILE = "measured.parquet"
MEASURED_SCHEMA = pa.schema([pa.field("pts_us", pa.int64(), nullable=False)])
SEGMENT_FRAMES_SCHEMA = pa.schema(
    [field for field in FRAMES_SCHEMA if field.name not in ("frame", "objects_measured")]
)
SEGMENT_DETECTIONS_SCHEMA = pa.schema([f for f in DETECTIONS_SCHEMA if f.name != "frame"])
_LEAD_IN_US = 1_000_000


@dataclass(frozen=True, slots=True)
class SegmentTask:
    """The unit of work: the frames of [start_us, end_us) of one video; end_us None: to its end."""

    video_id: str
    video_path: Path
    video_sha256: str
    folder: Path
    """Where its files are published."""
    number: int
    start_us: int
    end_us: int | None
    detector: DetectorSpec | None
    """None: objects are not looked for."""
    weights_sha256: str | None
    """What the detector's weights must be."""
    endpoint: Endpoint | None
    """Where the detector's process is, if it is a network."""
    rate: Fraction
    """Frames a second that the detector looks at."""
    keep_pictures: bool
    """Publish the small pictures that TransNet V2 sees, too."""
    params: dict[str, Any]
    """What the result depends on, beside the video and the interval."""

    @property
    def receipt_path(self) -> Path:
        """Return where the segment's receipt is; it is published together with the files."""
        return self.folder / "receipt.json"

    def receipt(self, files: Iterable[Path] = ()) -> Receipt:
        """Return the receipt that says what the segment was made from."""
        return Receipt(
            stage="analyze-segment",
            key=f"{self.video_id}-{self.number:05d}",
            inputs={"video": self.video_sha256},
            params={"start_us": self.start_us, "end_us": self.end_us, **self.params},
            files=tuple(record_file(file, relative_to=file.parent) for file in files),
        )

    def is_done(self) -> bool:
        """Return whether the segment is there, made from the same things."""
        wanted = self.receipt()
        return is_current(self.receipt_path, inputs=wanted.inputs, params=wanted.params)


def analyze_segment(task: SegmentTask) -> None:
    """Measure one segment and publish its folder.

    Raises:
        VideoError: the video cannot be read.
    """
    with _detector_of(task) as detector, open_video(task.video_path, threads=1) as video:
        measured = _Measured(task, detector)
        measured.read(video)
    tables = {
        FRAMES_FILE: pa.Table.from_pylist(measured.frames, SEGMENT_FRAMES_SCHEMA),
        MEASURED_FILE: pa.table({"pts_us": measured.looked_at}, schema=MEASURED_SCHEMA),
        DETECTIONS_FILE: pa.Table.from_pylist(measured.detections, SEGMENT_DETECTIONS_SCHEMA),
    }
    remove(task.folder)  # what was made with other parameters
    with atomic_path(task.folder) as folder:
        folder.mkdir()
        for name, table in tables.items():
            pq.write_table(table, folder / name, compression="zstd")
        if task.keep_pictures:
            np.save(folder / PICTURES_FILE, measured.pictures())
        files = sorted(folder.iterdir())
        write_receipt(folder / "receipt.json", task.receipt(files))


class _Measured:
    """The rows of one segment, filled by `read`."""

    def __init__(self, task: SegmentTask, detector: "_Asked | None") -> None:
        self._task = task
        self._detector = detector
        self._waiting: list[Frame] = []
        self._under_way: deque[list[int]] = deque()
        self.frames: list[dict[str, Any]] = []
        self.looked_at: list[int] = []
        self.detections: list[dict[str, Any]] = []
        self._pictures: list[NDArray[np.uint8]] = []

    def pictures(self) -> NDArray[np.uint8]:
        """Return (n, 27, 48, 3) uint8 RGB, one for each of `frames`."""
        return np.array(self._pictures, np.uint8).reshape(-1, HEIGHT, WIDTH, 3)

    def read(self, video: VideoReader) -> None:
        task, reducer, scorer, small = self._task, FrameReducer(), ContentScorer(), SmallPictures()
        picker = TickPicker[Frame](task.rate, start_us=task.start_us, end_us=task.end_us)
        half_tick_us = int(Fraction(500_000) / task.rate) + 1
        for frame in _frames_with_lead_in(video, task.start_us, reach_us=half_tick_us):
            if not frame.is_corrupt:
                self._look_at(picker.push(frame))
            if task.end_us is not None and frame.pts_us >= task.end_us:
                if not frame.is_corrupt or frame.pts_us > task.end_us + half_tick_us:
                    break
                continue
            _check_size(frame, video)
            reduced = reducer.reduce(frame)
            score = scorer.score(reduced)
            if frame.pts_us >= task.start_us:
                lightness = frame_lightness(reduced)
                if task.keep_pictures:
                    self._pictures.append(small.reduce(frame))
                self.frames.append(
                    {
                        "pts_us": frame.pts_us,
                        "lightness": lightness.mean,
                        "lightness_p5": lightness.p5,
                        "lightness_p95": lightness.p95,
                        "content_score": score,
                        "is_corrupt": frame.is_corrupt,
                    }
                )
        self._look_at(picker.finish())
        self._look_at_the_rest()

    def _look_at(self, frames: list[Frame]) -> None:
        if self._detector is not None:
            self._waiting += frames
            while len(self._waiting) >= self._detector.batch_size:
                self._send(self._detector)

    def _look_at_the_rest(self) -> None:
        if self._detector is not None:
            if self._waiting:
                self._send(self._detector)
            while self._under_way:
                self._receive(self._detector)

    def _send(self, detector: "_Asked") -> None:
        if len(self._under_way) == detector.max_waiting:
            self._receive(detector)
        batch = self._waiting[: detector.batch_size]
        self._waiting = self._waiting[detector.batch_size :]
        detector.send(batch)
        self._under_way.append([frame.pts_us for frame in batch])

    def _receive(self, detector: "_Asked") -> None:
        for pts_us, found in zip(self._under_way.popleft(), detector.receive(), strict=True):
            self.looked_at.append(pts_us)
            self.detections += [_row(pts_us, detection) for detection in found]


def _row(pts_us: int, detection: Detection) -> dict[str, Any]:
    names = SEGMENT_DETECTIONS_SCHEMA.names[1:]
    return {"pts_us": pts_us, **{name: getattr(detection, name) for name in names}}


def _check_size(frame: Frame, video: VideoReader) -> None:
    expected = (video.metadata.width, video.metadata.height)
    if frame.size != expected:
        raise VideoError(
            f"{video.metadata.path}: the picture changes from {expected[0]}x{expected[1]} to "
            f"{frame.size[0]}x{frame.size[1]} at {frame.pts_us / 1e6:.2f} s; "
            f"re-encode it to one size"
        )


def _frames_with_lead_in(video: VideoReader, start_us: int, *, reach_us: int) -> Iterator[Frame]:
    """Yield the frames from `start_us`, after the last frame before it.

    If that one is corrupt, the last sound frame comes before it, where there is one within
    `reach_us`.
    """
    margin_us = _LEAD_IN_US
    while True:
        from_us = max(0, start_us - margin_us)
        frames = video.frames(from_us)
        lead_in, first = _split_lead_in(frames, start_us)
        has_sound = bool(lead_in) and not lead_in[0].is_corrupt
        if from_us == 0 or has_sound or (lead_in and margin_us >= reach_us):
            break
        margin_us *= 4  # a gap before the segment: look further back
    yield from lead_in
    if first is not None:
        yield first
        yield from frames


def _split_lead_in(frames: Iterator[Frame], start_us: int) -> tuple[list[Frame], Frame | None]:
    """Return the last sound frame and the last frame before `start_us`, and the first after."""
    last: Frame | None = None
    last_sound: Frame | None = None
    first: Frame | None = None
    for frame in frames:
        if frame.pts_us >= start_us:
            first = frame
            break
        last = frame
        last_sound = last_sound if frame.is_corrupt else frame
    lead_in = [frame for frame in (last_sound, last) if frame is not None]
    return lead_in[:1] if last is last_sound else lead_in, first


class _Asked(Protocol):
    """What looks at frames: batches are sent, and answered in the same order."""

    @property
    def batch_size(self) -> int: ...
    @property
    def max_waiting(self) -> int: ...
    def send(self, frames: Sequence[Frame]) -> None: ...
    def receive(self) -> list[list[Detection]]: ...


class _FromFile:
    """Detections made elsewhere."""

    batch_size = max_waiting = 1

    def __init__(self, detector: FileDetector) -> None:
        self._detector = detector
        self._found: list[list[Detection]] = []

    def send(self, frames: Sequence[Frame]) -> None:
        self._found = self._detector.detect(frames)

    def receive(self) -> list[list[Detection]]:
        return self._found


@contextmanager
def _detector_of(task: SegmentTask) -> Iterator[_Asked | None]:
    if task.detector is None:
        yield None
    elif task.endpoint is not None:
        with RemoteNetwork(task.detector, task.endpoint) as network:
            yield network
    else:
        assert task.weights_sha256 is not None  # it goes with the detector
        detector = _load_file(task.detector, task.video_id, task.rate, task.weights_sha256)
        if detector.facts.weights_sha256 != task.weights_sha256:
            raise AnalysisError(
                f"{task.detector} changed while {task.video_id} was analyzed; "
                f"run the same command again"
            )
        yield _FromFile(detector)


@lru_cache(maxsize=1)
def _load_file(
    spec: DetectorSpec, video_id: str, rate: Fraction, weights_sha256: str
) -> FileDetector:
    """Return the detections; a process checks their file once, not for each of its segments."""
    return FileDetector(spec.file(video_id), rate=rate)
