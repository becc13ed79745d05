"""What is known of a video without decoding it."""

import contextlib
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from av.container import InputContainer
from av.video.stream import VideoStream

from wtours.media.container import choose_stream, num_main_streams
from wtours.media.frame import Frame
from wtours.media.frame_times import FrameTimes
from wtours.media.packets import to_us

_US = 1_000_000
_PRIMARIES = {1: "bt709", 4: "bt470m", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "film"}
_PRIMARIES |= {9: "bt2020", 10: "smpte428", 11: "smpte431", 12: "smpte432", 22: "ebu3213"}
_MATRICES = {0: "gbr", 1: "bt709", 4: "fcc", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m"}
_MATRICES |= {9: "bt2020nc", 10: "bt2020c"}
_WIDE_PRIMARIES = {"bt2020", "smpte428", "smpte431", "smpte432"}


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoMetadata:
    """What is known of a video stream without decoding it; sizes are upright, in square pixels."""

    path: Path
    codec: str
    """FFmpeg's name: "h264", "vp9", "av1", …"""
    container: str
    stream: int
    """Its index in the container."""
    num_video_streams: int
    """How many could have been taken."""
    width: int
    height: int
    coded_size: tuple[int, int]
    """Width and height as stored."""
    frame_rate: Fraction
    """Average frames per second."""
    nominal_frame_rate: Fraction
    """The usual one of a variable rate; PySceneDetect counts frames by it."""
    last_duration_us: int
    """How long the last frame is shown."""
    has_repaired_times: bool
    """The times in the file cannot be right (`wtours.media.frame_times`)."""
    rotation: int
    """Degrees, counterclockwise, that `Frame` applies: 0, 90, 180 or 270."""
    is_mirrored: bool
    """`Frame` exchanges left and right, after the rotation."""
    pixel_aspect_ratio: Fraction
    """Width of a stored pixel beside its height."""
    is_interlaced: bool
    pixel_format: str
    color_primaries: str | None
    """As stated; None: not stated. The pixels are not converted to other primaries."""
    color_matrix: str | None
    color_range: str | None
    """"limited" or "full"."""
    duration_us_from_header: int | None
    """Of this stream; None: the container states only its own."""

    def display_facts(self) -> dict[str, Any]:
        """Return what a reader of the pixels has to know: what is not as in usual video."""
        facts: dict[str, Any] = {}
        if self.pixel_aspect_ratio != 1:
            ratio = self.pixel_aspect_ratio
            facts["source_pixel_aspect_ratio"] = f"{ratio.numerator}/{ratio.denominator}"
        if self.is_interlaced:
            facts["source_interlaced"] = True
        if self.color_primaries in _WIDE_PRIMARIES:
            facts["source_color_primaries"] = self.color_primaries
        return facts


def _stated_us(stream: VideoStream, container: str) -> int | None:
    """Return the duration that the container states for the stream alone."""
    if stream.duration is not None and stream.time_base is not None:
        # FFmpeg shortens the duration of an AVI file to what is there of it, but not its frames.
        ticks = max(stream.duration, stream.frames if container == "avi" else 0)
        return to_us(ticks, stream.time_base)
    for name, text in stream.metadata.items():  # Matroska's statistics tag, with a language or not
        if name.partition("-")[0] == "DURATION":
            hours, _, rest = text.partition(":")
            minutes, _, seconds = rest.partition(":")
            with contextlib.suppress(ValueError, ArithmeticError):
                length = int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)
                return round(length * _US)
    return None


def describe(
    path: Path, container: InputContainer, times: FrameTimes, first: Frame
) -> VideoMetadata:
    """Return what is known of an open video; `first` is its first frame."""
    stream = choose_stream(path, container, times.stream)
    context = stream.codec_context
    width, height = first.size
    return VideoMetadata(
        path=path,
        codec=context.codec.canonical_name,
        container=container.format.name,
        stream=stream.index,
        num_video_streams=num_main_streams(container),
        width=width,
        height=height,
        coded_size=first.coded_size,
        frame_rate=times.frame_rate,
        nominal_frame_rate=times.nominal_rate,
        last_duration_us=times.last_duration_us,
        has_repaired_times=times.is_repaired,
        rotation=first.orientation.rotation,
        is_mirrored=first.orientation.is_mirrored,
        pixel_aspect_ratio=first.pixel_aspect,
        is_interlaced=first.is_interlaced,
        pixel_format=first.picture.format.name,
        color_primaries=_PRIMARIES.get(int(context.color_primaries)),
        color_matrix=_MATRICES.get(int(context.colorspace)),
        color_range={1: "limited", 2: "full"}.get(int(context.color_range)),
        duration_us_from_header=_stated_us(stream, container.format.name),
    )
