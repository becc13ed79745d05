"""Whether all of a file came, where no server said how long it is or parts were joined.

A container that states its own length is compared with it by `probe_video`. One that does not (a
transport stream, a fragmented mp4, a live webm) decodes without a fault wherever it ends.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from wtours.errors import VideoError
from wtours.media.container import choose_stream, open_container
from wtours.media.packets import demux

_MAX_GAP_SECONDS = 0.5
"""Between two frames of joined fragments; the shortest fragments in use last a second."""
_SHORTFALL_SECONDS, _SHORTFALL = 0.3, 0.001
"""So much shorter than its list a stream may be: the list's numbers are rounded."""
_TS_PACKET = 188
_MATROSKA, _SEGMENT_INFO, _DURATION = b"\x1aE\xdf\xa3", b"\x15\x49\xa9\x66", b"\x44\x89"
_MAX_HEAD_BYTES = 2**20


def states_own_length(path: Path) -> bool:
    """Return whether a video's container shows by itself that nothing of it is missing."""
    with path.open("rb") as file:
        head = file.read(_MAX_HEAD_BYTES)
    if head.startswith(_MATROSKA):
        info = head.find(_SEGMENT_INFO)
        return info >= 0 and _DURATION in head[info : info + 256]
    if head.startswith(b"RIFF"):
        return True
    if head[4:8] not in (b"ftyp", b"styp", b"moov", b"free", b"wide", b"mdat", b"skip"):
        return False
    kinds = list(_mp4_boxes(path))
    # The list of all fragments is written last, and a file without fragments has all in `moov`.
    return "cut" not in kinds and (b"moof" not in kinds or kinds[-1] == b"mfra")


def playlist_seconds(playlist: str) -> float:
    """Return how long the fragments of an HLS playlist last together; 0 if it is none."""
    return sum(float(seconds) for seconds in re.findall(r"(?m)^#EXTINF:(\d+(?:\.\d+)?)", playlist))


def require_no_holes(path: Path, *, seconds: float, lengths_stated: bool) -> None:
    """Refuse a video that was joined of fragments if one is missing, cut, or something else.

    Their list may say how long they last (0: it does not), the server how long each one is.

    Raises:
        VideoError: says where.
    """
    if not lengths_stated:
        raise VideoError("the server does not say how long its fragments are; use another source")
    with path.open("rb") as file:
        head = file.read(_TS_PACKET + 1)
    if head[:1] == head[_TS_PACKET:] == b"G":
        size = path.stat().st_size
        synced = np.memmap(path, np.uint8, "r")[::_TS_PACKET] == ord("G")
        if size % _TS_PACKET or not synced.all():
            place = int(np.argmin(synced)) * _TS_PACKET
            raise VideoError(f"a fragment near byte {place} is no video, or is cut; run it again")
    elif "cut" in list(_mp4_boxes(path)):
        raise VideoError("one of its fragments is no video, or is cut; run it again")
    with open_container(path) as container:
        stream = choose_stream(path, container, None)
        times = [
            float(packet.pts * stream.time_base)
            for packet in demux(path, container, stream)
            if packet.pts is not None and stream.time_base is not None
        ]
    times_s = np.sort(np.array(times))
    gaps_s = np.diff(times_s)
    if not len(gaps_s):
        raise VideoError("it has no frames; use another source")
    lasts_s = times_s[-1] - times_s[0] + float(np.median(gaps_s))
    if lasts_s < seconds - max(_SHORTFALL_SECONDS, _SHORTFALL * seconds):
        raise VideoError(
            f"it lasts {lasts_s:.1f} s, its fragments {seconds:.1f} s: one is missing, empty or "
            f"cut; use another source, or run the command again"
        )
    if gaps_s.max() > max(_MAX_GAP_SECONDS, 3 * float(np.median(gaps_s))):
        worst = int(gaps_s.argmax())
        raise VideoError(
            f"it has no frame from {times_s[worst] - times_s[0]:.1f} s to "
            f"{times_s[worst + 1] - times_s[0]:.1f} s: a fragment is missing or empty; use another "
            f"source, or run the command again"
        )


def _mp4_boxes(path: Path) -> Iterator[bytes | str]:
    """Yield the kind of each box at the top of an mp4, and "cut" if they do not end with it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        place = 0
        while place < size:
            file.seek(place)
            header = file.read(16)
            length, kind = int.from_bytes(header[:4], "big"), header[4:8]
            if length == 1:
                length = int.from_bytes(header[8:16], "big")
            elif length == 0:  # up to the end
                length = size - place
            if length < 8 or place + length > size or not kind.isalnum():
                yield "cut"
                return
            yield kind
            place += length
