"""Text made safe to show, and numbers as people read them.

Titles, labels, licenses, URLs and file names come from outside. `plain` is for one line, and
`plain_lines` for text of our own with such values in it; `escape_markdown` and `escape_csv` are
for files that other programs interpret.
"""

import re

# Control characters (and the color sequences of terminals whole); marks that turn the reading
# direction; halves of surrogate pairs, which UTF-8 cannot encode; non-characters.
_UNSHOWABLE = (
    "\x1b\\[[0-9;]*m|[\x00-{}\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
    "\ud800-\udfff\ufffe\uffff]"
)
_IN_LINE = re.compile(_UNSHOWABLE.format("\x1f"))
_IN_LINES = re.compile(_UNSHOWABLE.format("\x08\x0b-\x1f"))
_MARKDOWN = re.compile(r"[\\`*_{}\[\]()<>#!|~&]|^[+-](?=\s)")


def plain(text: object) -> str:
    """Return the text on one line without characters that hide or reorder what stands there."""
    return " ".join(_IN_LINE.sub(" ", str(text)).split())


def plain_lines(text: str) -> str:
    """Return the text with such characters replaced by "�"; line breaks and tabs stay."""
    return _IN_LINES.sub("�", text)


def escape_markdown(text: str) -> str:
    """Return the text on one line, which Markdown shows as it is."""
    return _MARKDOWN.sub(r"\\\g<0>", plain(text))


def escape_json(text: str) -> str:
    """Return JSON text with such characters escaped, which keeps the values as they are."""
    return _IN_LINES.sub(lambda found: "".join(f"\\u{ord(c):04x}" for c in found[0]), text)


def escape_csv(text: str) -> str:
    """Return the text so that no spreadsheet takes it for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def clock(time_us: int) -> str:
    """Return a time as h:mm:ss.t, for example "0:01:09.5"."""
    tenths = round(time_us / 100_000)
    seconds, tenth = divmod(tenths, 10)
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{tenth}"


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
