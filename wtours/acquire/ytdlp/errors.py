"""What yt-dlp's errors mean: of which kind they are, and what to do about them."""

import errno
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from yt_dlp.networking.exceptions import HTTPError, TransportError
from yt_dlp.utils import UnsupportedError, YoutubeDLError

from wtours.errors import DiskFullError, DownloadError, PermanentDownloadError, WtoursError
from wtours.storage.os_errors import full_disk_message
from wtours.text import plain, redact_urls
from wtours.workspace.source_url import SourceUrl

_SIGN_IN = (
    "the site asks for a signed-in user: `wtours download` takes --cookies-from-browser BROWSER "
    "(firefox, chrome, …) or --cookies FILE"
)
_JS_RUNTIME = "YouTube needs a JavaScript runtime: install deno, or node 20 or newer"
_REMEDIES: tuple[tuple[str, type[DownloadError], str], ...] = (
    # YouTube begins these two with "Video unavailable", too.
    (r"rate-limited by youtube", DownloadError,
     "YouTube asks for fewer requests; try again in an hour, by `wtours download --sleep 10`"),
    (r"in your country|from your location", DownloadError,
     "it is blocked in this country; use `wtours download --proxy URL`, or another source"),
    (r"private video|has been removed|video unavailable|account .*terminated|no longer available"
     r"|does not exist", PermanentDownloadError, "the video is gone; use another source"),
    (r"sign in|captcha|login required", DownloadError, _SIGN_IN),
    (r"http error (404|410)", PermanentDownloadError, "the URL leads nowhere; use another source"),
    (r"http error 403", DownloadError, "the server refuses; try again later, or update yt-dlp"),
    (r"http error 429", DownloadError, "the server asks for fewer requests; try again later"),
    (r"live event|premieres in", DownloadError, "it is not there yet; try again later"),
    (r"unsupported url", PermanentDownloadError, "there is no video at this URL"),
)  # fmt: skip
"""What in yt-dlp's message tells the kind of error, and what to do about it."""


class StalledError(DownloadError):
    """The server sends next to nothing."""


class RefusedError(PermanentDownloadError):
    """What the server does is not accepted: too many bytes, a redirect to a private host."""


def is_passing(error: BaseException) -> bool:
    """Return whether a second request may succeed: a server's 5xx, a network fault, a stall."""
    return any(
        isinstance(cause, TransportError | StalledError)
        or (isinstance(cause, HTTPError) and cause.status >= 500)
        for cause in causes(error)
    )


def http_error(error: BaseException, status: int) -> HTTPError | None:
    """Return the answer of that status which led to the error, if one did."""
    for cause in causes(error):
        if isinstance(cause, HTTPError) and cause.status == status:
            return cause
    return None


def explain(
    error: YoutubeDLError, *, source: SourceUrl, folder: Path, warnings: Sequence[str] = ()
) -> WtoursError:
    """Return our error for yt-dlp's: one line, with what to do.

    The real reason is sometimes only in what it warned of before.
    """
    origins = list(causes(error))
    if any(getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT) for cause in origins):
        return DiskFullError(full_disk_message(folder / "source"))
    problem = source.hide(one_line(str(error)))
    if any(isinstance(cause, UnsupportedError) for cause in origins):
        problem = "unsupported URL"  # the original repeats the URL with its query
    for pattern, kind, remedy in _REMEDIES:
        if re.search(pattern, problem, re.IGNORECASE):
            return kind(f"{source}: {problem}: {remedy}")
    # Without a runtime the formats go missing, and only a warning says why.
    if re.search(r"javascript runtime|challenge solving", " ".join(warnings), re.IGNORECASE):
        return DownloadError(f"{source}: {problem}: {_JS_RUNTIME}")
    if "requested format is not available" in problem.lower():
        return PermanentDownloadError(
            f"{source}: no format is within --max-height and of --codec; raise or drop them"
        )
    return DownloadError(f"{source}: {problem}")


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and everything that led to it; yt-dlp keeps causes in several places."""
    seen: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        cause = waiting.pop()
        if not isinstance(cause, BaseException) or any(cause is other for other in seen):
            continue
        seen.append(cause)
        yield cause
        origin = getattr(cause, "exc_info", None) or (None, None, None)
        waiting += [getattr(cause, "cause", None), origin[1], cause.__cause__, cause.__context__]


def one_line(text: str) -> str:
    """Return yt-dlp's message without colors, control characters and advice on reporting bugs."""
    text = redact_urls(plain(text)).removeprefix("ERROR:")
    return re.split(r"; please report this issue|\. Use --cookies| \(caused by ", text)[0].strip()
