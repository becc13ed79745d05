"""Limits on what a video file may ask of the machine; environment variables raise them.

A file is somebody else's: 1.3 kB can declare 60 million samples (2 GB of index in FFmpeg), frames
of 128x128 can become ones of 16384x16000 in mid-stream, and a clock that jumps to Unix time makes
54 years of empty segments. What is over a limit is refused in one line that names the variable.
"""

import os
from dataclasses import dataclass, fields

from wtours.errors import UsageError, VideoError

MAX_LOSS = 0.2
"""The largest share of a video's frames that may be lost to damage, without `--max-loss`."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest values accepted; worker processes inherit the environment, so they agree."""

    pixels: int = 8192 * 8192
    """Width x height of a frame, as stored and as displayed. WTOURS_MAX_PIXELS"""
    packets: int = 5_000_000
    """Packets of a video (23 h at 60 frames a second), and samples that its container declares.
    WTOURS_MAX_PACKETS"""
    hours: int = 100
    """From the first frame to the end of the last one. WTOURS_MAX_HOURS"""
    gap_seconds: int = 600
    """Time without a frame, beyond the stated duration of the frame before it, that is taken for
    real; more is a clock that jumped, and is skipped. WTOURS_MAX_GAP_SECONDS"""
    segments: int = 100_000
    """Segments of one video in a shard set or an analysis. WTOURS_MAX_SEGMENTS"""

    def check(self, name: str, value: int, what: str) -> None:
        """Raise VideoError, naming the variable that raises the limit, if `value` is over it."""
        limit = getattr(self, name)
        if value > limit:
            raise VideoError(
                f"{what}: more than {limit:,} {name.replace('_', ' ')}; if that is right, set "
                f"{variable(name)}={value}"
            )


def variable(name: str) -> str:
    """Return the environment variable of a limit."""
    return f"WTOURS_MAX_{name.upper()}"


def limits() -> Limits:
    """Return the limits in force.

    Raises:
        UsageError: a variable holds no whole number above 0.
    """
    given = {}
    for field in fields(Limits):
        text = os.environ.get(variable(field.name))
        if text is None:
            continue
        if not text.isascii() or not text.isdecimal() or len(text) > 15 or int(text) == 0:
            raise UsageError(f"{variable(field.name)}={text!r}: give a whole number above 0")
        given[field.name] = int(text)
    return Limits(**given)


def check_loss(share: float, max_loss: float, what: str) -> None:
    """Raise VideoError if more of a video is lost than may be."""
    if share > max_loss:
        raise VideoError(
            f"{what}: {share:.1%} of it is lost (frames that do not decode, gaps), over --max-loss "
            f"{max_loss:g}; get the file again, or accept the loss: --max-loss "
            f"{min(1.0, share + 0.01):.2f}"
        )
