"""Finding a video whose end shows nothing more: one blank or frozen picture until the end.

A mirror's Venice lasts 3 h 40 min and has content for 1 h 50 min: duration and decoding say nothing
of that. The last picture is compared with earlier ones, first with the one that may just differ.
"""

import itertools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wtours.errors import VideoError
from wtours.media.reader import VideoReader, open_video

SHORT_SIDE = 32
"""Pictures are compared at this size."""
MAX_LEVELS, MEAN_LEVELS = 12, 1.5
"""Of 255: two pictures that differ by no more are the same, coded twice. In the walks of the tests
pictures one second apart differ by 50 levels and more."""
MAX_SECONDS = 30.0
MAX_SHARE = 0.01
"""A still end up to the larger of the two is an end card."""
_NUM_LOOKS = 4
_RESOLUTION_US = 1_000_000
_US = 1_000_000


def check_frozen_tail(path: Path, last_pts_us: int, *, stream: int | None = None) -> None:
    """Raise VideoError if the video shows one picture for too long until its end.

    Decodes a few frames only: two looks for a sound video. The last frame is compared with other
    frames, never with itself: one that is held, as in a slide show, is no frozen tail.
    """
    allowed_us = round(max(MAX_SECONDS * _US, MAX_SHARE * last_pts_us))
    first_look_us = last_pts_us - allowed_us
    if first_look_us <= 0:
        return
    with open_video(path, stream=stream) as reader:
        last_shown_us, last = _picture(reader, last_pts_us)
        for look in range(_NUM_LOOKS):
            look_us = first_look_us + look * allowed_us // _NUM_LOOKS
            shown_us, picture = _picture(reader, look_us)
            if shown_us >= last_shown_us or not _same(last, picture):
                return
        moving_us, still_us = 0, first_look_us
        while still_us - moving_us > _RESOLUTION_US:
            middle_us = (moving_us + still_us) // 2
            if _same(last, _picture(reader, middle_us)[1]):
                still_us = middle_us
            else:
                moving_us = middle_us
    kind = "blank" if int(np.ptp(last)) <= MAX_LEVELS else "frozen"
    raise VideoError(
        f"its picture is {kind} from {still_us / _US:.0f} s on, of {last_pts_us / _US:.0f} s: a "
        f"broken file; use another source, or cut that end off: "
        f"ffmpeg -i IN -t {still_us / _US:.0f} -c copy OUT.mkv"
    )


def _picture(reader: VideoReader, pts_us: int) -> tuple[int, NDArray[np.uint8]]:
    """Return when the first picture at or after a time is shown (else one before it), and it.

    It is small, (H, W, 3) uint8.
    """
    for start_us in (pts_us, pts_us - _US, 0):  # the last packets may not decode
        frames = list(itertools.islice(reader.frames(start_us=max(0, start_us)), 1))
        if frames:
            return frames[0].pts_us, frames[0].to_rgb(short_side=SHORT_SIDE)
    raise VideoError(f"has no picture at {pts_us / _US:.0f} s; download it again")


def _same(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> bool:
    if a.shape != b.shape:
        return False
    levels = np.abs(a.astype(int) - b.astype(int))
    return int(levels.max()) <= MAX_LEVELS and float(levels.mean()) <= MEAN_LEVELS
