"""Text that comes from outside, made safe to show: titles, labels, licences, URLs."""

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
