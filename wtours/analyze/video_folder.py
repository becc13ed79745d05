"""Other datasets, to stand beside the walks: a folder of videos, analyzed where they lie."""

import re
from pathlib import Path

from wtours.errors import UsageError
from wtours.media.file_types import VIDEO_SUFFIXES, videos_in
from wtours.storage.hashing import digest, sha256_file
from wtours.storage.receipts import Receipt
from wtours.workspace.videos import DownloadedVideo, FileIdentity

_LONGEST = 24
"""Characters of a name that go into an id; what makes it unique stands behind them."""


def folder_videos(folder: Path) -> dict[str, Path]:
    """Return the videos in a folder and the folders in it, by id, in the order of their names.

    Hidden files are left out; files that may be videos and cannot be taken are named in a warning.

    An id is made of the folder's name and the file's path in it, so the same folder gives the same
    ids on every machine.

    Raises:
        UsageError: it is no folder, or has no video.
    """
    root = folder.resolve()
    if not root.is_dir():
        raise UsageError(f"{folder} is not a folder; give one that holds videos")
    paths = videos_in(root)
    if not paths:
        raise UsageError(f"{folder} has no video; files named *{', *'.join(VIDEO_SUFFIXES)} are")
    unique = {path: digest([root.name, path.relative_to(root).as_posix()])[:10] for path in paths}
    start = folder_id(root)
    return {f"{start}_{_plain(path.stem)}_{text}": path for path, text in unique.items()}


def video_in_place(video_id: str, path: Path) -> DownloadedVideo:
    """Return a video that was not downloaded: it stays where it is and is only read."""
    identity = FileIdentity.of(path)
    return DownloadedVideo(
        video_id=video_id,
        path=path,
        identity=identity,
        sha256=sha256_file(path),
        receipt=Receipt(stage="folder", key=video_id),
    )


def folder_id(folder: Path) -> str:
    """Return the beginning of the ids of a folder's videos."""
    return _plain(folder.resolve().name)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:_LONGEST] or "x"
