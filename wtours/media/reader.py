"""Reading video: metadata and frames in time order, by PyAV (which bundles FFmpeg).

Time is `pts_us`: whole microseconds from the video's first frame; intervals are half-open. The
frames of [a, b) are the same whether one reads the whole video or seeks to a: `frames` starts at a
keyframe at or before a and drops what lies before.
"""

import contextlib
import itertools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Self

import av
import av.error
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

from wtours.errors import VideoError
from wtours.media.container import (
    FORMATS,
    MAX_PIXELS,
    VideoMetadata,
    metadata_of,
    open_container,
    refuse_unsupported,
)
from wtours.media.frame import Frame, PixelConverter

__all__ = ["FORMATS", "MAX_PIXELS", "Frame", "VideoMetadata", "VideoReader", "open_video"]

_US = 1_000_000


class VideoReader:
    """An open video; use it as a context manager. Made by `open_video`.

    Args:
        path: The file.
        threads: How many decode; 0: as many as there are cores. Of a damaged video, what FFmpeg
            conceals then differs from run to run: stages that publish pixels decode on one.

    Attributes:
        metadata: What the container says.
    """

    def __init__(self, path: Path, *, threads: int = 0) -> None:
        self._path = path
        self._threads = threads
        self._container = open_container(path, threads=threads)
        self._converter = PixelConverter()
        self._waiting: set[int] = set()  # pts of packets that no frame has come of yet
        try:
            refuse_unsupported(path, self._container)
            first = next(self._decoded(), None)
            if first is None:
                raise VideoError(f"{path} has no frame that can be decoded; download it again")
            self._origin = _pts(first)
            self.metadata = metadata_of(path, self._container, first)
        except BaseException:
            self._container.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def frames(
        self, start_us: int = 0, end_us: int | None = None, *, lead_us: int = 0
    ) -> Iterator[Frame]:
        """Yield the frames of [start_us, end_us) in time order.

        Args:
            start_us: Where to begin.
            end_us: None: to the end.
            lead_us: Also yield the frames of so many microseconds before start_us, unless a whole
                keyframe is at start_us exactly: decoding begins there, which may save seconds.

        Raises:
            VideoError: the file ends in the middle, or its frames carry no timestamps.
        """
        decoded = self._decoded_from(start_us)
        first = next(decoded, None)
        lead_start_us = max(0, start_us - lead_us)
        if first is not None and self._to_us(_pts(first)) == start_us and not first.is_corrupt:
            lead_start_us = start_us
        elif first is None or self._to_us(_pts(first)) > lead_start_us:
            decoded = self._decoded_from(lead_start_us)
            first = next(decoded, None)
        for frame in itertools.chain([] if first is None else [first], decoded):
            pts_us = self._to_us(_pts(frame))
            if end_us is not None and pts_us >= end_us:
                return
            if pts_us >= lead_start_us:
                rotation = self.metadata.rotation
                yield Frame(frame, pts_us=pts_us, rotation=rotation, converter=self._converter)

    def undecoded_pts_us(self, start_us: int, end_us: int) -> list[int]:
        """Return when the frames of [start_us, end_us) are that the file has but cannot show.

        Their packets do not decode. Ask after reading these frames to the end, and before others:
        the answer does not depend on where decoding began, nor on its threads.
        """
        missing = (self._to_us(pts) for pts in self._waiting)
        return sorted(pts_us for pts_us in missing if start_us <= pts_us < end_us)

    def packet_pts_us(self) -> NDArray[np.int64]:
        """Return the pts of every packet, sorted, int64 microseconds: a scan without decoding."""
        self._seek(0)
        pts = [self._to_us(p.pts) for p in self._packets() if p.pts is not None]
        return np.unique(np.array(pts, dtype=np.int64))

    def last_pts_us(self) -> int:
        """Return the pts of the last packet, reading only the end where the container allows it."""
        duration_us = self.metadata.duration_us_from_header
        starts = [0] if duration_us is None else [max(0, duration_us - 10 * _US), 0]
        for start_us in starts:
            self._seek(start_us)
            pts = [p.pts for p in self._packets() if p.pts is not None]
            if pts:
                return self._to_us(max(pts))
        raise VideoError(f"{self.metadata.path} holds no packets; download it again")

    def _decoded_from(self, start_us: int) -> Iterator[av.VideoFrame]:
        """Yield decoded frames beginning with a keyframe at or before `start_us`."""
        margin_us = 0
        while True:
            seek_us = max(0, start_us - margin_us)
            self._seek(seek_us)
            frames = self._decoded()
            # Frames shown before the keyframe that a seek lands on may lack their references.
            key = next((f for f in frames if f.key_frame or seek_us == 0), None)
            if key is not None and (seek_us == 0 or self._to_us(_pts(key)) <= start_us):
                yield key
                yield from frames
                return
            if seek_us == 0:
                return
            margin_us = max(2 * margin_us, 2 * _US)

    def _seek(self, start_us: int) -> None:
        """Go to a keyframe at or before `start_us`; to the beginning where seeking fails."""
        self._waiting.clear()
        if start_us > 0:
            offset = self._origin + int(Fraction(start_us, _US) / self._time_base)
            with contextlib.suppress(av.error.FFmpegError):
                self._container.seek(offset, stream=self._stream, backward=True)
                return
        # Opened anew, since some containers (AVI) cannot seek back to their first frame.
        self._container.close()
        self._container = open_container(self._path, threads=self._threads)

    def _decoded(self) -> Iterator[av.VideoFrame]:
        """Yield frames in increasing pts; undecodable packets are left out."""
        last_pts: int | None = None
        for frame in self._decoded_once():
            if last_pts is None or _pts(frame) > last_pts:
                last_pts = _pts(frame)
                self._waiting.discard(last_pts)
                yield frame
            elif self._container.format.name == "avi":
                raise VideoError(
                    f"{self._path}: AVI holds no times for frames that are stored out of order "
                    f"(B-frames); re-encode it: ffmpeg -i IN -c:v libx264 -crf 14 OUT.mp4"
                )
        if last_pts is None or not any(pts > last_pts for pts in self._waiting):
            return
        # An undecodable packet near the end takes with it the frames that other threads held: a
        # decoder that is being drained gives nothing after an error. One thread holds none.
        seen_pts, undecoded = last_pts, {pts for pts in self._waiting if pts <= last_pts}
        self._container.close()
        self._container = open_container(self._path, threads=1)
        with contextlib.suppress(av.error.FFmpegError):
            self._container.seek(last_pts, stream=self._stream, backward=True)
        for frame in self._decoded_once():
            if _pts(frame) > last_pts:
                last_pts = _pts(frame)
                self._waiting.discard(last_pts)
                yield frame
        self._waiting = undecoded | {pts for pts in self._waiting if pts > seen_pts}

    def _decoded_once(self) -> Iterator[av.VideoFrame]:
        for packet in self._packets():
            # Neither an edit list's lead-in nor an empty packet of AVI (a frame shown for longer).
            if packet.pts is not None and packet.size and not packet.is_discard:
                self._waiting.add(packet.pts)
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                continue
            for frame in frames:
                if not isinstance(frame, av.VideoFrame):
                    continue
                if frame.pts is None:
                    raise VideoError(
                        f"{self._path}: frames carry no timestamps; remux it: "
                        f"ffmpeg -i IN -c copy OUT.mp4"
                    )
                yield frame

    def _packets(self) -> Iterator[av.Packet]:  # type: ignore[type-arg]
        try:
            yield from self._container.demux(self._stream)
        except av.error.FFmpegError as error:
            raise VideoError(
                f"{self._path}: the file is cut or damaged ({error}); download it again"
            ) from error

    def _to_us(self, pts: int) -> int:
        return round((pts - self._origin) * self._time_base * _US)

    @property
    def _stream(self) -> VideoStream:
        return self._container.streams.video[0]

    @property
    def _time_base(self) -> Fraction:
        time_base = self._stream.time_base
        assert time_base is not None  # every demuxed stream has one
        return time_base


def open_video(path: Path, *, threads: int = 0) -> VideoReader:
    """Open a video file for reading, `with open_video(path) as video`; `threads` as there.

    Raises:
        VideoError: it is missing, not a video, a playlist, HDR, or larger than MAX_PIXELS.
    """
    return VideoReader(path, threads=threads)


def _pts(frame: av.VideoFrame) -> int:
    assert frame.pts is not None  # `_decoded` yields no other
    return frame.pts
