"""Facts of a whole video file, measured from its two ends."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from wtours.errors import VideoError
from wtours.media.container import VideoMetadata, open_container
from wtours.media.reader import VideoReader, open_video

_US = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoFacts:
    """What was measured of a whole video file."""

    codec: str
    container: str
    """FFmpeg's demuxer, for example "mov,mp4,m4a,3gp,3g2,mj2"."""
    width: int
    height: int
    frame_rate: Fraction
    first_pts_us: int
    last_pts_us: int
    duration_us: int
    """From the first frame to the end of the last one, which is taken to last 1/frame_rate."""

    def to_json(self) -> dict[str, Any]:
        """Return the facts as they stand in a receipt; frame_rate as "60000/1001"."""
        values = {name: getattr(self, name) for name in self.__slots__}
        rate = self.frame_rate
        return {**values, "frame_rate": f"{rate.numerator}/{rate.denominator}"}


def probe_video(path: Path) -> VideoFacts:
    """Measure a video and make sure that it is all there: its first and last frames decode.

    Decodes the two ends only, so the time does not grow with the length.

    Raises:
        VideoError: it is no video, its length differs from its header's by over 1 s and 0.5 %, or
            its index lists frames that lie beyond the end of the file.
    """
    with open_video(path) as reader:
        metadata = reader.metadata
        first_pts_us = next(frame.pts_us for frame in reader.frames())
        last_pts_us = reader.last_pts_us()
        _decode_end(reader, last_pts_us)
    _check_index(path)
    duration_us = last_pts_us - first_pts_us + round(_US / metadata.frame_rate)
    declared_us = _declared_us(metadata)
    if declared_us is not None and not is_close_us(duration_us, declared_us, 1 * _US, 0.005):
        raise VideoError(
            f"{path} is cut or damaged: its frames span {duration_us / _US:.1f} s, its header "
            f"says {declared_us / _US:.1f} s; download it again"
        )
    return VideoFacts(
        codec=metadata.codec,
        container=metadata.container,
        width=metadata.width,
        height=metadata.height,
        frame_rate=metadata.frame_rate,
        first_pts_us=first_pts_us,
        last_pts_us=last_pts_us,
        duration_us=duration_us,
    )


def is_close_us(measured_us: float, expected_us: float, within_us: float, share: float) -> bool:
    """Return whether two durations differ by at most `within_us` or `share` of the expected one."""
    return abs(measured_us - expected_us) <= max(within_us, share * expected_us)


def _check_index(path: Path) -> None:
    """Raise VideoError if the container's own list of frames (mp4, avi) goes on after the file."""
    size = path.stat().st_size
    with open_container(path) as container:
        entries = container.streams.video[0].index_entries
        num_missing = sum(entry.pos + entry.size > size for entry in entries)
        if num_missing:
            raise VideoError(
                f"{path} is cut or damaged: {num_missing} of the {len(entries)} frames in its "
                f"index lie beyond its end; download it again"
            )


def _declared_us(metadata: VideoMetadata) -> int | None:
    """Return how long the header says that the video is."""
    frames = metadata.num_frames_from_header
    if metadata.container == "avi" and frames is not None:
        # FFmpeg shortens the duration of an AVI file to what is there of it, but not its frames.
        return max(metadata.duration_us_from_header or 0, round(frames * _US / metadata.frame_rate))
    return metadata.duration_us_from_header


def _decode_end(reader: VideoReader, last_pts_us: int) -> None:
    if not any(True for _ in reader.frames(start_us=max(0, last_pts_us - _US))):
        raise VideoError(
            f"{reader.metadata.path} is cut or damaged: its last second does not decode; "
            f"download it again"
        )
