"""What the user may say of fetching. A manifest can say none of it."""

from dataclasses import dataclass
from pathlib import Path

from wtours.acquire.ytdlp.formats import DEFAULT_MAX_HEIGHT
from wtours.errors import UsageError
from wtours.media.file_types import Codec
from wtours.media.limits import MAX_LOSS
from wtours.text import parse_bytes

MIN_RATE = 32 * 1024
"""A slower download would count as hanging."""
MAX_PAGE_BYTES = 64 * 2**20
"""Of a page, a playlist or a script; YouTube's largest have a few MB."""
DEFAULT_MAX_BYTES = 256 * 2**30
"""Of one video; the longest walk in 4K has about 50 GB."""
_KILO = 1024
"""As yt-dlp counts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchOptions:
    """The options of `wtours download`."""

    max_height: int = DEFAULT_MAX_HEIGHT
    codec: Codec | None = None
    """None: any; H.264 where the choice is free."""
    allow_unknown_license: bool = False
    cookies_file: Path | None = None
    """In Netscape's format; read, never written."""
    cookies_from_browser: str | None = None
    """BROWSER or BROWSER:PROFILE."""
    limit_rate: int | None = None
    """Bytes per second, of all downloads together."""
    proxy: str | None = None
    sleep_seconds: float = 0.0
    """Between two requests to one host, over all downloads."""
    jobs: int = 1
    """Videos fetched at once."""
    max_bytes: int = DEFAULT_MAX_BYTES
    """Of one video, whatever the server says or sends."""
    max_loss: float = MAX_LOSS
    """The largest share of a video that may be lost to damage."""
    socket_seconds: float = 30.0
    """How long a server is waited for: for an answer, and for each piece of it."""
    stall_seconds: float = 60.0
    stall_bytes: int = 64 * 1024
    """A body that brings less than this in `stall_seconds` counts as hanging."""
    retry_waits_seconds: tuple[float, ...] = (1.0, 4.0)
    """Before each new attempt after a passing fault."""


def parse_rate(text: str | None) -> int | None:
    """Return "500K" or "2M" as bytes per second; None stays None.

    Raises:
        UsageError: it is no rate, or below MIN_RATE.
    """
    if text is None:
        return None
    rate = parse_bytes(text, kilo=_KILO)
    if rate < MIN_RATE:
        raise UsageError(f"--limit-rate {text!r}: use for example 500K or 2M, and at least 32K")
    return rate


def parse_size(text: str) -> int:
    """Return "200G" as bytes.

    Raises:
        UsageError: it is no size, or 0.
    """
    size = parse_bytes(text, kilo=_KILO)
    if not size:
        raise UsageError(f"--max-size {text!r}: use for example 500M or 200G")
    return size
