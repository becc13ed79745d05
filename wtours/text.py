"""Text that comes from outside, made safe to show: titles, labels, licenses, URLs."""

import re

# Control characters; marks that turn the reading direction; halves of surrogate pairs, which UTF-8
# cannot encode; non-characters.
_UNSHOWABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]+"
)


def plain(text: object) -> str:
    """Return the text on one line without characters that hide or reorder what stands there."""
    return " ".join(_UNSHOWABLE.sub(" ", str(text)).split())


def clock(time_us: int) -> str:
    """Return a time as h:mm:ss.t, for example "0:01:09.5"."""
    tenths = round(time_us / 100_000)
    seconds, tenth = divmod(tenths, 10)
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{tenth}"


_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>()#+!|~-])")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]+")


def plain_markdown(text: str) -> str:
    """Return text from outside as one line that Markdown shows as it is."""
    return _MARKDOWN.sub(r"\\\1", " ".join(_CONTROL.sub(" ", text).split()))


def seconds_text(seconds: float) -> str:
    """Return 3725.4 as "1:02:05"."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def bytes_text(size: float) -> str:
    """Return 1234567 as "1.2 MB" (decimal units)."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
