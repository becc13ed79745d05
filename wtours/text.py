"""Text made safe to show, and numbers as people read them.

Titles, labels, licenses, URLs and file names come from outside. `plain` is for one line, and
`plain_lines` for text of our own with such values in it; `escape_markdown` and `escape_csv` are
for files that other programs interpret.
"""

import difflib
import re
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import unquote

from wtours.errors import WtoursError

if TYPE_CHECKING:
    from pydantic import ValidationError

# Control characters (and the color sequences of terminals whole); marks that turn the reading
# direction; halves of surrogate pairs, which UTF-8 cannot encode; non-characters.
_UNSHOWABLE = (
    "\x1b\\[[0-9;]*m|[\x00-{}\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
    "\ud800-\udfff\ufffe\uffff]"
)
_IN_LINE = re.compile(_UNSHOWABLE.format("\x1f"))
_IN_LINES = re.compile(_UNSHOWABLE.format("\x08\x0b-\x1f"))
_MARKDOWN = re.compile(r"[\\`*_{}\[\]()<>#!|~&]|^[+-](?=\s)")

DOCS = "https://wtours.readthedocs.io/"
"""The documentation, as in the project's metadata."""
_URL = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s\"'<>]+", re.IGNORECASE)
_PARAMETER = re.compile(r"([?&;#])([^=&;#]*)=([^&;#]+)")
_SECRET_NAME = re.compile(
    r"token|key|sig|auth|pass|pwd|secret|cred|session|sid$|access|policy|code|ticket|jwt|hmac|hash",
    re.IGNORECASE,
)
_LONG_VALUE = 32
"""Characters; a parameter as long is taken for a secret whatever its name."""
_PUBLIC_NAMES = ("v", "list")
"""YouTube's; a playlist's has more than 32 characters."""
REDACTED = "REDACTED"
_SIZE = re.compile(r"(\d{1,9}(?:\.\d{1,3})?) *([kmgt]?)(i?)b?", re.IGNORECASE | re.ASCII)

VIDEO_ID = r"[a-z0-9_]{1,64}"
"""What names a video everywhere: in manifests, folders and the files of shards."""


def redact_url(url: str) -> str:
    """Return a URL without user name, password, and parameters that are secrets."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    tail = rest[len(authority) :]
    if "@" in authority:
        authority = f"{REDACTED}@{authority.rpartition('@')[2]}"
    return f"{scheme}://{authority}{_PARAMETER.sub(_redact_parameter, tail)}"


def redact_urls(text: str) -> str:
    """Return the text with each URL in it redacted."""
    return _URL.sub(lambda found: redact_url(found[0]), text)


def _redact_parameter(found: re.Match[str]) -> str:
    separator, name, value = found.groups()
    is_long = len(value) >= _LONG_VALUE and name not in _PUBLIC_NAMES
    is_secret = is_long or _SECRET_NAME.search(unquote(name))
    return f"{separator}{name}={REDACTED if is_secret else value}"


def plain(text: object) -> str:
    """Return the text on one line without characters that hide or reorder what stands there."""
    return " ".join(_IN_LINE.sub(" ", str(text)).split())


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, at most 200 characters; else its kind."""
    return plain(next(iter(str(error).strip().splitlines()), ""))[:200] or type(error).__name__


def first_problem(error: "ValidationError | WtoursError") -> str:
    """Return the first thing that is refused in a file, on one line: by pydantic with the field."""
    text = str(error)
    if not isinstance(error, WtoursError):
        first = error.errors()[0]
        text = f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}"
    return textwrap.shorten(plain(text), 300, placeholder=" …")


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


def docs_page(page: str) -> str:
    """Return the address of a page of the documentation, for example of "reference/tables"."""
    return f"{DOCS}en/latest/{page}.html"


def clock(time_us: int) -> str:
    """Return a time as h:mm:ss.t, for example "0:01:09.5"."""
    tenths = round(time_us / 100_000)
    seconds, tenth = divmod(tenths, 10)
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{tenth}"


def seconds_text(seconds: float) -> str:
    """Return 3725.4 as "1:02:05"."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def rate_text(frame_rate: str) -> str:
    """Return "60000/1001" or "15/1" as "59.94 frames/s" or "15 frames/s"."""
    top, _, bottom = frame_rate.partition("/")
    return f"{float(f'{int(top) / int(bottom or 1):.4g}'):g} frames/s"


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with what is counted, as "1 shard", "1,200 shards", "2 classes"."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def listed(names: Sequence[str], *, most: int = 12, like: str = "") -> str:
    """Return names as "a, b, c"; of many the first, and how many more there are.

    Args:
        names: What there is.
        most: So many are named.
        like: What was asked for and is not there: the names that it may be a slip of come first.
    """
    if like:
        meant = difflib.get_close_matches(like, names, n=most)
        names = list(dict.fromkeys([*meant, *names]))
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def parse_bytes(text: str, *, kilo: int = 1000, bare: str = "") -> int:
    """Return the bytes that "500GB", "1.5 T" or "24GiB" names; 0 where it names none.

    Args:
        text: What a user wrote.
        kilo: What a k is; a Ki is 1024 in any case.
        bare: The unit of a number without one.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        return 0
    number, unit, binary = found.groups()
    power = " kmgt".index((unit or bare or " ").lower())
    return int(float(number) * (1024 if binary else kilo) ** power)


def bytes_text(size: float) -> str:
    """Return 1234567 as "1.2 MB" (decimal units)."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
