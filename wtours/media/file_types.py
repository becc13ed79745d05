"""Names of video codecs and suffixes of video files; needs no decoder."""

from enum import StrEnum


class Codec(StrEnum):
    """A video codec to insist on."""

    H264 = "h264"
    VP9 = "vp9"
    AV1 = "av1"


VIDEO_SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts"
)  # fmt: skip
"""File names taken as videos, lower case; what a file really is, `open_video` decides."""
