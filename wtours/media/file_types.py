"""Names of video codecs and suffixes of video files; needs no decoder."""

import logging
import os
from enum import StrEnum
from pathlib import Path, PurePath

logger = logging.getLogger(__name__)


class Codec(StrEnum):
    """A video codec to insist on."""

    H264 = "h264"
    VP9 = "vp9"
    AV1 = "av1"


VIDEO_SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".insv", ".360", ".mkv", ".webm", ".avi",
    ".ts", ".mts", ".m2ts", ".m2t",
)  # fmt: skip
"""File names taken as videos, lower case; what a file really is, `open_video` decides."""
_OTHER_SUFFIXES = (
    ".mpg", ".mpeg", ".vob", ".flv", ".wmv", ".asf", ".ogv", ".mxf", ".dv", ".rm", ".rmvb",
    ".divx", ".h264", ".264", ".h265", ".265", ".hevc", ".y4m",
)  # fmt: skip
"""Videos in containers that are not opened (`wtours.media.container.FORMATS`)."""


def is_video_name(path: PurePath) -> bool:
    """Return whether a file is taken as a video: by its suffix, and not hidden.

    Hidden files are a system's own: macOS writes `._walk.mp4` beside each file on a camera's card.
    """
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".")


def name_problem(path: PurePath) -> str | None:
    """Return in one line why a file is not taken though it may be a video; None: nothing to say."""
    if path.name.startswith("."):
        return None
    name = os.fsencode(path.name).decode("utf-8", "backslashreplace")  # what is not UTF-8: \xNN
    if path.suffix.lower() in _OTHER_SUFFIXES:
        return (
            f"{name}: {path.suffix.lower()} is not read; convert it: ffmpeg -i IN -crf 14 OUT.mp4"
        )
    if is_video_name(path) and name != path.name:
        return f"{name}: its name is not UTF-8; rename it"
    return None


def videos_in(folder: Path, *, except_in: Path | None = None) -> list[Path]:
    """Return the videos in a folder and the folders in it, by path, but for those in another one.

    Hidden files are left out; files that may be videos and cannot be taken are named in a warning.
    """
    found: list[Path] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in names if not name.startswith(".")]
    videos = []
    for path in sorted(path for path in found if path.is_file()):
        if except_in is not None and path.resolve().is_relative_to(except_in):
            continue
        problem = name_problem(path)
        if problem is not None:
            logger.warning("%s", problem)
        elif is_video_name(path):
            videos.append(path)
    return videos
