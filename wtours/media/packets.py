"""The packets of a video's stream, read without decoding: which of them are frames.

Not what an edit list hides, nor AVI's empty packets ("show the last one again"), nor the second
field of a frame, nor VP8's invisible reference frames.
"""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import av.error
import numpy as np
from av.bitstream import BitStreamFilterContext
from av.container import InputContainer
from av.video.stream import VideoStream

from wtours.errors import VideoError
from wtours.media.container import choose_stream, open_container
from wtours.media.h264_fields import FieldPairing
from wtours.media.limits import limits

_US = 1_000_000
_MOST_RETRIES = 100_000
_WITH_PARAMETER_SETS = {"h264", "hevc", "av1", "mpeg1video", "mpeg2video", "mpeg4", "vc1"}
_SIZE_IN_HEADER = {"vp8": slice(6, 10), "vp9": slice(1, 9)}
"""Bytes of a keyframe: RFC 6386, 9.1; VP9 bitstream specification, 6.2."""
_MOST_PARAMETERS = 64


def scan_packets(
    path: Path, container: InputContainer, stream: VideoStream
) -> "Iterator[tuple[av.Packet[VideoStream], bool]]":
    """Yield one stream's packets, and of each whether it is a frame.

    The same rules hold for the list of all frames and, in a repaired video, while decoding: there a
    packet is known by its number in this order.

    Raises:
        VideoError: the file ends in the middle, or has more packets than the limit.
    """
    codec, most = stream.codec_context.codec.canonical_name, limits().packets
    fields = FieldPairing(stream.codec_context.extradata) if codec == "h264" else None
    for count, packet in enumerate(demux(path, container, stream), start=1):
        if count > most:
            limits().check("packets", count, str(path))
        if not packet.size or packet.is_discard:
            is_frame = False
        elif fields is not None and (fields.may_have_fields or packet.is_keyframe):
            is_frame = not fields.is_second_field(bytes(packet))
        else:  # RFC 6386, 9.1: bit 4 of a VP8 frame's first byte says that it is shown
            is_frame = codec != "vp8" or bool(bytes(memoryview(packet)[:1])[0] & 0x10)
        yield packet, is_frame


def demux(
    path: Path, container: InputContainer, stream: VideoStream | None = None
) -> Iterator[av.Packet]:  # type: ignore[type-arg]
    """Yield the packets of a stream, or of all.

    Raises:
        VideoError: the file ends in the middle.
    """
    for _ in range(_MOST_RETRIES):
        try:
            yield from container.demux() if stream is None else container.demux(stream)
        except av.error.BlockingIOError:
            continue  # MPEG-TS lost its sync in damage, and finds it again further on
        except av.error.FFmpegError as error:
            raise VideoError(
                f"{path}: the file is cut or damaged ({error}); download it again"
            ) from error
        return
    raise VideoError(f"{path}: the file is damaged in too many places; download it again")


def parameter_changes(path: Path, stream: int) -> list[int]:
    """Return the numbers of the frames, after the first, that bring new parameters to the decoder.

    A picture's size changes nowhere else, in the codecs that state it in keyframes.
    """
    found: dict[bytes, int] = {}
    with open_container(path) as container:
        video = choose_stream(path, container, stream)
        codec = video.codec_context.codec.canonical_name
        extract = None
        if codec in _WITH_PARAMETER_SETS:
            extract = BitStreamFilterContext("extract_extradata", video)
        number = -1
        for packet, is_frame in scan_packets(path, container, video):
            number += is_frame
            if is_frame and packet.is_keyframe and len(found) < _MOST_PARAMETERS:
                found.setdefault(_parameters(packet, codec, extract), number)
    found.pop(b"", None)
    return sorted(found.values())[1:]


def _parameters(packet: av.Packet, codec: str, extract: BitStreamFilterContext | None) -> bytes:  # type: ignore[type-arg]
    """Return what a keyframe says of the pictures from it on; b"": nothing."""
    if codec in _SIZE_IN_HEADER:
        return bytes(memoryview(packet)[_SIZE_IN_HEADER[codec]])
    given = _new_extradata(packet)
    if given or extract is None:
        return given
    try:
        return b"".join(_new_extradata(filtered) for filtered in extract.filter(packet))
    except av.error.FFmpegError:  # a damaged packet
        return b""


def _new_extradata(packet: av.Packet) -> bytes:  # type: ignore[type-arg]
    kinds = [bytes(data) for data in packet.iter_sidedata() if data.data_type == "new_extradata"]
    return b"".join(kinds)


def decoded(packet: "av.Packet[VideoStream]") -> list[av.VideoFrame]:
    """Return the frames that come out of the decoder; none where the packet is damaged."""
    try:
        frames = packet.decode()
    except av.error.FFmpegError as error:
        if isinstance(error, MemoryError):
            raise
        return []
    return frames


def is_zero(packet: av.Packet) -> bool:  # type: ignore[type-arg]
    """Return whether a packet has nothing but zero bytes."""
    view = memoryview(packet)
    return not any(view[:32]) and not np.frombuffer(view, np.uint8).any()


def to_us(ticks: int, unit: Fraction) -> int:
    """Return ticks of `unit` seconds as microseconds, rounded half to even."""
    return rounded(ticks * unit.numerator * _US, unit.denominator)


def rounded(value: int, divisor: int) -> int:
    """Return the quotient, rounded half to even."""
    quotient, rest = divmod(value, divisor)
    up = 2 * rest > divisor or (2 * rest == divisor and quotient % 2 == 1)
    return quotient + up
