"""Opening a video file: which containers are let in, and which stream is the main video.

Only the containers in `FORMATS` are opened: a playlist (HLS, DASH, ffconcat) that calls itself .mp4
would make FFmpeg read other files.
"""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from wtours.errors import VideoError
from wtours.media.limits import limits
from wtours.media.mp4_samples import declared_samples, is_dolby_vision_alone

FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mpegts,avi"
"""FFmpeg demuxers that may open a file: containers, no playlists."""
_AUXILIARY = Disposition.attached_pic | Disposition.still_image | Disposition.timed_thumbnails
_IMAGE_CODECS = {"mjpeg", "png", "bmp", "tiff", "webp", "gif"}
_HDR_TRANSFERS = {16: "PQ (HDR10)", 18: "HLG"}

av.logging.set_level(None)  # what matters is raised, or counted as corrupt


def open_container(path: Path) -> InputContainer:
    """Open a file; nothing is decoded of more pixels than the limit.

    Raises:
        VideoError: it is missing, not a video, a playlist, or declares too many samples.
    """
    if not path.is_file():
        raise VideoError(f"{path} is not a file; check the path")
    # FFmpeg's index of an MP4 has the sound's samples too: twice as many may be declared.
    declared = declared_samples(path)
    limits().check("packets", declared // 2, f"{path} declares {declared:,} samples")
    pixels = {"max_pixels": str(limits().pixels * 9 // 8 + 2**16)}
    try:
        return av.open(
            f"file:{path.absolute()}",
            container_options={"format_whitelist": FORMATS, "protocol_whitelist": "file"},
            options=pixels,
            metadata_errors="replace",
        )
    except av.error.FFmpegError as error:
        raise VideoError(
            f"{path} cannot be opened as video ({error.strerror}); "
            f"expected mp4, mov, mkv, webm, ts or avi"
        ) from error


def choose_stream(path: Path, container: InputContainer, wanted: int | None) -> VideoStream:
    """Return the main video stream.

    Not cover art, thumbnails or a still picture; then a codec of videos, since cover art is not
    always marked as such; then what the container marks as the default; then the largest picture;
    then the first.

    Args:
        path: For messages.
        container: Opened.
        wanted: The index that ffprobe shows (`Stream #0:N`); None: choose.

    Raises:
        VideoError: there is none, or `wanted` is not one.
    """
    streams = container.streams.video
    if wanted is not None:
        for stream in streams:
            if stream.index == wanted:
                return stream
        found = ", ".join(str(stream.index) for stream in streams) or "none"
        raise VideoError(f"{path} has no video stream {wanted}; its video streams: {found}")
    videos = [stream for stream in streams if not stream.disposition & _AUXILIARY]
    if not videos:
        kind = "no video stream" if not streams else "only a cover picture, no video stream"
        raise VideoError(f"{path} has {kind}")
    return max(videos, key=_rank)


def num_main_streams(container: InputContainer) -> int:
    """Return how many streams could be the main video."""
    return sum(not stream.disposition & _AUXILIARY for stream in container.streams.video)


def prepare_decoder(path: Path, stream: VideoStream, *, threads: int) -> None:
    """Set the threads and the pixel limit of a stream's decoder.

    Raises:
        VideoError: it cannot be decoded: no decoder, too large a picture, HDR, or Dolby Vision.
    """
    context: Any = stream.codec_context  # None, whatever the stubs say, without a decoder
    if context is None:
        raise VideoError(f"{path} has video of a codec that FFmpeg cannot decode; re-encode it")
    _refuse_large(path, context.width, context.height)
    transfer = _HDR_TRANSFERS.get(int(context.color_trc))
    if transfer is not None:
        raise VideoError(
            f"{path} is HDR ({transfer}); convert it to 8-bit BT.709 first: ffmpeg -i IN -vf "
            f"zscale=t=linear:npl=100,tonemap=hable,zscale=t=bt709:m=bt709:p=bt709,"
            f"format=yuv420p OUT.mp4"
        )
    if is_dolby_vision_alone(path):
        raise VideoError(
            f"{path} is Dolby Vision without a picture for other players (profile 5); convert it "
            f"by an ffmpeg with libplacebo: ffmpeg -i IN -vf libplacebo=colorspace=bt709:"
            f"color_primaries=bt709:color_trc=bt709:format=yuv420p OUT.mp4"
        )
    stream.thread_type = "AUTO" if threads != 1 else "NONE"
    context.thread_count = threads
    # A picture may grow in mid-stream: FFmpeg refuses it before it allocates. It counts what it
    # pads a picture with.
    most = limits().pixels * 9 // 8 + 2**16
    context.options = {**context.options, "max_pixels": str(most)}


def pixel_aspect_ratio(path: Path, stream: VideoStream) -> Fraction:
    """Return how wide a pixel is beside its height; 1 within 1 %, and where nothing is stated.

    Raises:
        VideoError: it is no ratio of a camera's.
    """
    stated = stream.sample_aspect_ratio
    if stated is None or stated <= 0 or abs(stated - 1) < Fraction(1, 100):
        return Fraction(1)  # 1281:1280 stands in files whose size was rounded
    if not Fraction(1, 4) <= stated <= 4:
        raise VideoError(
            f"{path} states pixels of {stated.numerator}:{stated.denominator}; set what is right: "
            f"ffmpeg -i IN -vf setsar=1 -c:v libx264 -crf 14 OUT.mp4"
        )
    width, height = stream.codec_context.width, stream.codec_context.height
    _refuse_large(path, round(width * stated), height)
    return Fraction(stated.numerator, stated.denominator)


def _refuse_large(path: Path, width: int, height: int) -> None:
    limits().check(
        "pixels",
        width * height,
        f"{path} is {width}x{height} (reduce it first: ffmpeg -i IN -vf scale=-2:2160 OUT.mp4)",
    )


def _rank(stream: VideoStream) -> tuple[bool, bool, int, int]:
    context: Any = stream.codec_context  # None, whatever the stubs say, without a decoder
    pixels = 0 if context is None else context.width * context.height
    is_picture = context is not None and context.codec.canonical_name in _IMAGE_CODECS
    is_default = bool(stream.disposition & Disposition.default)
    return not is_picture, is_default, pixels, -stream.index
