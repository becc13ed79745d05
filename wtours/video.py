"""Reading video: metadata and frames in time order, by PyAV (which bundles FFmpeg).

Time is `pts_us`: whole microseconds from the video's first frame; intervals are half-open. The
frames of [a, b) are the same whether one reads the whole video or seeks to a: `frames` starts at a
keyframe at or before a and drops what lies before.

Only the containers in `FORMATS` are opened: a playlist (HLS, DASH, ffconcat) that calls itself .mp4
would make FFmpeg read other files.
"""

import contextlib
import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Self

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from wtours.errors import VideoError
from wtours.frame import Frame, PixelConverter

logger = logging.getLogger(__name__)

FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mpegts,avi"
"""FFmpeg demuxers that may open a file: containers, no playlists."""
MAX_PIXELS = 8192 * 8192
"""Refused above this width x height, before anything is allocated."""
_HDR_TRANSFERS = {16: "PQ (HDR10)", 18: "HLG"}
_US = 1_000_000

av.logging.set_level(None)  # what matters is raised, or counted as corrupt


@dataclass(frozen=True, slots=True)
class VideoMetadata:
    """What the container says of its video stream, after rotation."""

    path: Path
    codec: str
    """FFmpeg's name: "h264", "vp9", "av1", …"""
    container: str
    width: int
    height: int
    frame_rate: Fraction
    """Average frames per second, as the header claims."""
    rotation: int
    """Degrees, counterclockwise, that `Frame` applies: 0, 90, 180 or 270."""
    pixel_format: str
    duration_us_from_header: int | None
    num_frames_from_header: int | None


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
        self._container = _open_container(path, threads)
        self._converter = PixelConverter()
        self._waiting: set[int] = set()  # pts of packets that no frame has come of yet
        try:
            _refuse_unsupported(path, self._container)
            first = next(self._decoded(), None)
            if first is None:
                raise VideoError(f"{path} has no frame that can be decoded; download it again")
            self._origin = _pts(first)
            self.metadata = _metadata(path, self._container, self._stream, first)
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
        self._container = _open_container(self._path, self._threads)

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
        self._container = _open_container(self._path, 1)
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


@contextlib.contextmanager
def open_video(path: Path, *, threads: int = 0) -> Iterator[VideoReader]:
    """Open a video file for reading; `threads` as in `VideoReader`.

    Raises:
        VideoError: it is missing, not a video, a playlist, HDR, or larger than MAX_PIXELS.
    """
    with VideoReader(path, threads=threads) as reader:
        yield reader


def _open_container(path: Path, threads: int) -> InputContainer:
    if not path.is_file():
        raise VideoError(f"{path} is not a file; check the path")
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
    try:
        container = av.open(f"file:{path.absolute()}", container_options=options)
    except av.error.FFmpegError as error:
        raise VideoError(
            f"{path} cannot be opened as video ({error.strerror}); "
            f"expected mp4, mov, mkv, webm, ts or avi"
        ) from error
    for stream in container.streams.video[:1]:
        stream.thread_type = "AUTO" if threads != 1 else "NONE"
        stream.codec_context.thread_count = threads
    return container


def _pts(frame: av.VideoFrame) -> int:
    assert frame.pts is not None  # `_decoded` yields no other
    return frame.pts


def _refuse_unsupported(path: Path, container: InputContainer) -> None:
    if not container.streams.video:
        raise VideoError(f"{path} has no video stream")
    context = container.streams.video[0].codec_context
    if context.width * context.height > MAX_PIXELS:
        raise VideoError(
            f"{path} is {context.width}x{context.height}: more than {MAX_PIXELS} pixels a frame; "
            f"reduce it first: ffmpeg -i IN -vf scale=-2:2160 OUT.mp4"
        )
    transfer = _HDR_TRANSFERS.get(int(context.color_trc))
    if transfer is not None:
        raise VideoError(
            f"{path} is HDR ({transfer}); convert it to 8-bit BT.709 first: ffmpeg -i IN -vf "
            f"zscale=t=linear:npl=100,tonemap=hable,zscale=t=bt709:m=bt709:p=bt709,"
            f"format=yuv420p OUT.mp4"
        )


def _metadata(
    path: Path, container: InputContainer, stream: VideoStream, first: av.VideoFrame
) -> VideoMetadata:
    rotation = round(first.rotation) % 360
    if rotation % 90:
        raise VideoError(
            f"{path} is rotated by {rotation} degrees; only multiples of 90 are supported"
        )
    width, height = first.width, first.height
    if rotation in (90, 270):
        width, height = height, width
    rate = stream.average_rate or stream.guessed_rate
    if not rate:
        raise VideoError(f"{path} states no frame rate; remux it: ffmpeg -i IN -c copy OUT.mkv")
    duration_us = container.duration  # FFmpeg counts it in microseconds
    if stream.duration is not None and stream.time_base is not None:
        duration_us = round(stream.duration * stream.time_base * _US)
    return VideoMetadata(
        path=path,
        codec=stream.codec_context.codec.canonical_name,
        container=container.format.name,
        width=width,
        height=height,
        frame_rate=Fraction(rate.numerator, rate.denominator),
        rotation=rotation,
        pixel_format=first.format.name,
        duration_us_from_header=duration_us,
        num_frames_from_header=stream.frames or None,
    )
