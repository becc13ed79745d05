"""Opening a video file: which containers are let in, and what they say of their video stream.

Only the containers in `FORMATS` are opened: a playlist (HLS, DASH, ffconcat) that calls itself .mp4
would make FFmpeg read other files.
"""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import av.error
from av.container import InputContainer

from wtours.errors import VideoError

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


def open_container(path: Path, *, threads: int = 0) -> InputContainer:
    """Open a file; its first video stream, if it has one, will be decoded by so many threads.

    Raises:
        VideoError: it is missing, not a video, or a playlist.
    """
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


def refuse_unsupported(path: Path, container: InputContainer) -> None:
    """Raise VideoError for what has no picture, a too large one, or HDR, before it is decoded."""
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


def metadata_of(path: Path, container: InputContainer, first: av.VideoFrame) -> VideoMetadata:
    """Return what an open container says; `first` is the first frame, which states the rotation.

    Raises:
        VideoError: the video lies askew, or states no frame rate.
    """
    stream = container.streams.video[0]
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
