"""Facts of a whole video file, measured from its packets and its two ends."""

import itertools
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from wtours.errors import VideoError
from wtours.media.container import choose_stream, open_container
from wtours.media.limits import MAX_LOSS, check_loss
from wtours.media.packets import demux, parameter_changes, to_us
from wtours.media.reader import VideoMetadata, open_video

_US = 1_000_000
_CHANGE_SHOWS_WITHIN = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoFacts:
    """What was measured of a whole video file; sizes are upright, in square pixels."""

    codec: str
    container: str
    """FFmpeg's demuxer, for example "mov,mp4,m4a,3gp,3g2,mj2"."""
    stream: int
    """Its index in the container, as ffprobe numbers it."""
    video_streams: int
    """How many could have been taken."""
    width: int
    height: int
    frame_rate: Fraction
    first_pts_us: int
    last_pts_us: int
    duration_us: int
    """From the first frame to the end of the last one: its own duration, else 1/frame_rate."""
    repaired_times: bool
    """The file's times cannot be right; `wtours.media.frame_times` says what was made of them."""
    lost_share: float
    """Of the video, known without decoding: frames of zero bytes, and gaps."""
    rotation: int
    mirrored: bool
    pixel_aspect_ratio: Fraction
    interlaced: bool
    color_primaries: str | None
    color_matrix: str | None
    color_range: str | None

    def to_json(self) -> dict[str, Any]:
        """Return the facts as they stand in a receipt; fractions as "60000/1001"."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return {
            name: f"{value.numerator}/{value.denominator}" if isinstance(value, Fraction) else value
            for name, value in values.items()
        }

    def remarks(self) -> list[str]:
        """Return what a user should know of how the file is read, a clause each."""
        found = []
        if self.video_streams > 1:
            found.append(
                f"it has {self.video_streams} video streams; stream {self.stream} is taken "
                f"(another: `wtours add --stream N`, or stream = N in the manifest)"
            )
        if self.repaired_times:
            found.append("its frame times cannot be right and are repaired")
        if self.lost_share > 0:
            found.append(f"{self.lost_share:.1%} of it is lost (zero bytes, or gaps)")
        if self.pixel_aspect_ratio != 1:
            ratio = self.pixel_aspect_ratio
            found.append(
                f"its pixels are {ratio.numerator}:{ratio.denominator}; it is published with "
                f"square ones"
            )
        if self.interlaced:
            found.append("it is interlaced; the top field of each frame is published")
        return found


def probe_video(path: Path, *, stream: int | None = None, max_loss: float = MAX_LOSS) -> VideoFacts:
    """Measure a video and make sure that it is all there, and that the later stages can read it.

    Its packets are listed and its two ends decoded, so the time grows with the file's bytes, as for
    its sha256, and hardly with its pixels.

    Args:
        path: The file.
        stream: Which of its streams; None: the main one.
        max_loss: The largest share of it that may be lost.

    Raises:
        VideoError: it is no video, it is shorter than its header says by over 1 s and 0.5 %, its
            index lists frames that lie beyond the end of the file, too much of it is lost, or its
            pictures change their size.
    """
    with open_video(path, stream=stream) as reader:
        metadata, last_pts_us = reader.metadata, reader.last_pts_us()
        first_pts_us = next(frame.pts_us for frame in reader.frames())
        _check_index(metadata)
        duration_us = last_pts_us - first_pts_us + metadata.last_duration_us
        if not metadata.has_repaired_times or metadata.container == "avi":
            _check_length(metadata, duration_us)
        check_loss(reader.lost_share, max_loss, str(path))
        for number in parameter_changes(path, metadata.stream):
            start_us = max(0, reader.keyframe_us(number))
            for _ in itertools.islice(reader.frames(start_us), _CHANGE_SHOWS_WITHIN):
                pass  # a change of size is refused
        if not any(True for _ in reader.frames(start_us=max(0, last_pts_us - _US))):
            raise VideoError(
                f"{path} is cut or damaged: its last second does not decode; download it again"
            )
        return VideoFacts(
            codec=metadata.codec,
            container=metadata.container,
            stream=metadata.stream,
            video_streams=metadata.num_video_streams,
            width=metadata.width,
            height=metadata.height,
            frame_rate=metadata.frame_rate,
            first_pts_us=first_pts_us,
            last_pts_us=last_pts_us,
            duration_us=duration_us,
            repaired_times=metadata.has_repaired_times,
            lost_share=round(reader.lost_share, 6),
            rotation=metadata.rotation,
            mirrored=metadata.is_mirrored,
            pixel_aspect_ratio=metadata.pixel_aspect_ratio,
            interlaced=metadata.is_interlaced,
            color_primaries=metadata.color_primaries,
            color_matrix=metadata.color_matrix,
            color_range=metadata.color_range,
        )


def is_close_us(measured_us: float, expected_us: float, within_us: float, share: float) -> bool:
    """Return whether two durations differ by at most `within_us` or `share` of the expected one."""
    return abs(measured_us - expected_us) <= max(within_us, share * expected_us)


def _check_index(metadata: VideoMetadata) -> None:
    """Raise VideoError if the container's own list of frames (mp4, avi) goes on after the file."""
    path = metadata.path
    size = path.stat().st_size
    with open_container(path) as container:
        entries = choose_stream(path, container, metadata.stream).index_entries
        num_missing = sum(entry.pos + entry.size > size for entry in entries)
        if num_missing:
            raise VideoError(
                f"{path} is cut or damaged: {num_missing} of the {len(entries)} frames in its "
                f"index lie beyond its end; download it again"
            )


def _check_length(metadata: VideoMetadata, duration_us: int) -> None:
    """Raise VideoError if the video ends before its header says.

    A container that states only its own duration (Matroska without statistics) is whole if any of
    its streams lasts that long: the sound may outlast the picture.
    """
    stated_us = metadata.duration_us_from_header
    if stated_us is not None and _reaches(duration_us, stated_us):
        return
    if metadata.container not in ("avi", "mpegts") and "mp4" not in metadata.container:
        stated_us, reached_us = _container_length(metadata.path)
        if stated_us is None or _reaches(max(reached_us, duration_us), stated_us):
            return
    if stated_us is not None:
        raise VideoError(
            f"{metadata.path} is cut or damaged: its frames span {duration_us / _US:.1f} s, its "
            f"header says {stated_us / _US:.1f} s; download it again"
        )


def _reaches(measured_us: int, stated_us: int) -> bool:
    return measured_us > stated_us or is_close_us(measured_us, stated_us, 1 * _US, 0.005)


def _container_length(path: Path) -> tuple[int | None, int]:
    """Return the duration that a container states, and when its last packet ends."""
    end_us = 0
    with open_container(path) as container:
        for packet in demux(path, container):
            if packet.pts is not None and packet.time_base is not None:
                ticks = packet.pts + (packet.duration or 0)
                end_us = max(end_us, to_us(ticks, Fraction(packet.time_base)))
        return container.duration, end_us  # FFmpeg counts it in microseconds
