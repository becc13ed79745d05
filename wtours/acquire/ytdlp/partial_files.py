"""Resume a partial download only if it belongs to the same file.

The working folder's name already stands for the version that the server states. That the bytes
themselves are ours is checked here: the part's two ends against the server's.
"""

import contextlib
import logging
from pathlib import Path
from typing import Any

from yt_dlp.networking import Request
from yt_dlp.networking.exceptions import HTTPError

logger = logging.getLogger(__name__)

OVERLAP_BYTES = 16 * 1024


def drop_foreign_parts(ydl: Any, info: dict[str, Any], work: Path) -> None:
    """Remove the unfinished file in `work` if it is no beginning of what yt-dlp's info leads to."""
    if info.get("protocol") not in ("http", "https"):
        return
    for part in work.glob("*.part"):
        if not _is_beginning(ydl, info, part):
            logger.info("%s is not a part of %s; starting over", part, info.get("id"))
            part.unlink()


def _is_beginning(ydl: Any, info: dict[str, Any], part: Path) -> bool:
    size = part.stat().st_size
    starts = {0, max(0, size - OVERLAP_BYTES)}
    with part.open("rb") as file:
        for start in sorted(starts):
            file.seek(start)
            ours = file.read(OVERLAP_BYTES)
            theirs = _read_range(ydl, info, start, len(ours))
            if theirs is not None and theirs != ours:
                return False
    return True


def _read_range(ydl: Any, info: dict[str, Any], start: int, length: int) -> bytes | None:
    """Return a piece of the file; None if the server gives no pieces (then nothing is resumed)."""
    if length == 0:
        return b""
    headers = {
        **info.get("http_headers", {}),
        "Range": f"bytes={start}-{start + length - 1}",
        "Accept-Encoding": "identity",
    }
    try:
        with contextlib.closing(ydl.urlopen(Request(info["url"], headers=headers))) as response:
            if response.status != 206 and start > 0:
                return None
            return _read_exactly(response, length)
    except HTTPError as error:
        if error.status == 416:  # the part is longer than the file
            return b""
        raise


def _read_exactly(response: Any, length: int) -> bytes:
    read = b""
    while len(read) < length:
        block: bytes = response.read(length - len(read))
        if not block:
            break
        read += block
    return read
