"""Fetching from YouTube and from any other URL, by yt-dlp as a library.

yt-dlp gets fixed options: from a manifest it sees a URL and nothing else, and from the user's
machine neither configuration nor plugins. What yt-dlp does not guard against, this module does:
content that changes between two runs (the working folder is named by what the server says of the
file), a body that ends early, a first request that fails in passing.
"""

import contextlib
import errno
import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wtours.errors import (
    DownloadError,
    MissingPackageError,
    PermanentDownloadError,
    WtoursError,
)
from wtours.fetchers import Fetched, FetchProgress, working_folder
from wtours.fsio import full_disk_message, remove

try:
    import yt_dlp
    import yt_dlp.globals
    from yt_dlp.networking import HEADRequest
    from yt_dlp.networking.exceptions import HTTPError, TransportError
    from yt_dlp.utils import UnsupportedError, YoutubeDLError
except ModuleNotFoundError as _error:
    raise MissingPackageError("yt-dlp", "download", "downloading from a URL") from _error

logger = logging.getLogger(__name__)

FORMAT = (
    "298/136/bestvideo[height<=720][vcodec^=avc1]/bestvideo[height<=720]/best[height<=720]/best"
)
"""720p H.264 without sound where YouTube has it: what shards of short side 512 need."""
_INFO_KEYS = (
    "id", "title", "description", "channel", "channel_id", "channel_url", "uploader", "uploader_id",
    "upload_date", "timestamp", "duration", "license", "extractor_key", "format_id", "format_note",
    "ext", "width", "height", "fps", "vcodec", "dynamic_range", "filesize", "live_status",
    "availability", "age_limit",
)  # fmt: skip
"""Kept of yt-dlp's info: none of them holds an address with a signature, a header or a cookie."""
_RETRY_WAITS_SECONDS = (1.0, 4.0)
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m|[\x00-\x1f\x7f-\x9f]+")

_SIGN_IN = (
    "YouTube asks for a signed-in user; fetch it with `yt-dlp --cookies-from-browser BROWSER URL` "
    "and give the folder: --from-dir DIR"
)
_JS_RUNTIME = "YouTube needs a JavaScript runtime: install deno, or node 20 or newer"
_REMEDIES: tuple[tuple[str, type[DownloadError], str], ...] = (
    (r"not a bot|confirm your age|login required", DownloadError, _SIGN_IN),
    (r"private video|has been removed|video unavailable|account .*terminated|no longer available"
     r"|does not exist", PermanentDownloadError, "the video is gone; use another source"),
    (r"http error (404|410)", PermanentDownloadError, "the URL leads nowhere; use another source"),
    (r"http error 403", DownloadError, "the server refuses; try again later, or update yt-dlp"),
    (r"http error 429", DownloadError, "the server asks for fewer requests; try again later"),
    (r"live event|premieres in", DownloadError, "it is not there yet; try again later"),
    (r"unsupported url", PermanentDownloadError, "there is no video at this URL"),
)  # fmt: skip
"""What in yt-dlp's message tells the kind of error, and what to do about it."""


@dataclass(frozen=True, slots=True)
class YtDlpFetcher:
    """Fetches one http(s) URL; see `wtours.fetchers.Fetcher`."""

    def __call__(self, source: str, folder: Path, on_progress: FetchProgress) -> Fetched:
        """Fetch what `source` leads to, going on in the part that an earlier run has left."""
        waits_seconds = iter(_RETRY_WAITS_SECONDS)
        while True:
            log = _Log()
            try:
                return _fetch(source, folder, on_progress, log)
            except YoutubeDLError as error:
                wait_seconds = next(waits_seconds, None) if _is_passing(error) else None
                if wait_seconds is None:
                    raise explain(
                        error, source=source, folder=folder, warnings=log.warnings
                    ) from error
                logger.info("%s: %s; trying again", source, _one_line(str(error)))
            time.sleep(wait_seconds)


def _fetch(source: str, folder: Path, on_progress: FetchProgress, log: "_Log") -> Fetched:
    with _ytdlp(log, on_progress) as ydl:
        info = ydl.extract_info(source, download=False)
        observed_at = datetime.now(UTC).isoformat(timespec="seconds")
        _refuse_unfit(source, info)
        identity = _identity(ydl, info)
    work = working_folder(folder, source, identity)
    with _ytdlp(log, on_progress, work) as ydl:
        result = ydl.process_ie_result(info, download=True)
        path = Path(result["requested_downloads"][0]["filepath"])
        kept = {key: ydl.sanitize_info(result).get(key) for key in _INFO_KEYS}
    _check_size(source, path, identity["bytes"])
    return Fetched(path=path, info=kept, license_observed_at=observed_at)


@contextlib.contextmanager
def _ytdlp(log: "_Log", on_progress: FetchProgress, work: Path | None = None) -> Iterator[Any]:
    """Open yt-dlp with our options and no others; `work` is where it writes."""
    yt_dlp.globals.plugin_dirs.value = []  # code from the user's plugin folders is not ours to run
    options = {
        "format": FORMAT,
        "outtmpl": "source.%(ext)s",
        "paths": {"home": str(work)} if work is not None else {},
        "continuedl": True,
        "retries": 10,
        "fragment_retries": 10,
        "retry_sleep_functions": {
            "http": _retry_wait_seconds,
            "fragment": _retry_wait_seconds,
        },
        "socket_timeout": 30,
        "noplaylist": True,
        "extract_flat": "in_playlist",
        "enable_file_urls": False,
        "external_downloader": {"default": "native"},
        "fixup": "never",
        "ignoreerrors": False,
        "cachedir": False,
        "js_runtimes": {"deno": {}, "node": {}},
        "quiet": True,
        "noprogress": True,
        "color": "no_color",
        "logger": log,
        "progress_hooks": [_progress_hook(on_progress)],
    }
    with _YtDlp(options) as ydl:
        yield ydl


def _retry_wait_seconds(n: int) -> float:
    """Return how long yt-dlp waits before its n-th next request after a dropped connection."""
    return float(min(2 ** max(n - 1, 0), 60))


def _progress_hook(on_progress: FetchProgress) -> Callable[[dict[str, Any]], None]:
    def hook(status: dict[str, Any]) -> None:
        total = status.get("total_bytes") or status.get("total_bytes_estimate")
        on_progress(status.get("downloaded_bytes") or 0, total)

    return hook


def _refuse_unfit(source: str, info: dict[str, Any]) -> None:
    if "entries" in info:
        raise PermanentDownloadError(f"{source} is a list of videos; give the URL of one video")
    if info.get("is_live"):
        raise DownloadError(f"{source} is live now; try again when it is over")


def _identity(ydl: Any, info: dict[str, Any]) -> dict[str, Any]:
    """Return what tells one version of the file from another, as the server states it now."""
    headers: dict[str, str | None] = {}
    if info.get("protocol") in ("http", "https"):
        request = HEADRequest(
            info["url"], headers={**info.get("http_headers", {}), "Accept-Encoding": "identity"}
        )
        try:
            with contextlib.closing(ydl.urlopen(request)) as response:
                names = ("Content-Length", "ETag", "Last-Modified")
                headers = {name: response.headers.get(name) for name in names}
        except HTTPError as error:
            if error.status >= 500:
                raise
            # Some servers answer no HEAD request; the download itself will tell.
    length = headers.get("Content-Length")
    return {
        "format_id": info.get("format_id"),
        "bytes": int(length) if length is not None else info.get("filesize"),
        "etag": headers.get("ETag"),
        "last_modified": headers.get("Last-Modified"),
    }


def _check_size(source: str, path: Path, declared_bytes: int | None) -> None:
    size = path.stat().st_size
    if declared_bytes is not None and size != declared_bytes:
        remove(path.parent)
        raise DownloadError(
            f"{source}: got {size} bytes of a file of {declared_bytes}; run the command again"
        )


def _is_passing(error: YoutubeDLError) -> bool:
    """Return whether a second request may succeed: a server's 5xx, a network fault."""
    return any(
        isinstance(cause, TransportError) or (isinstance(cause, HTTPError) and cause.status >= 500)
        for cause in _causes(error)
    )


def explain(
    error: YoutubeDLError, *, source: str, folder: Path, warnings: Sequence[str] = ()
) -> WtoursError:
    """Return our error for yt-dlp's: one line, with what to do.

    Args:
        error: What yt-dlp raised.
        source: The URL.
        folder: Where it was writing.
        warnings: What it warned of before; the real reason is sometimes only there.
    """
    causes = list(_causes(error))
    if any(getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT) for cause in causes):
        return WtoursError(full_disk_message(folder / "source"))
    problem = _one_line(str(error))
    if any(isinstance(cause, UnsupportedError) for cause in causes):
        problem = "unsupported URL"  # the original repeats the URL with its query
    for pattern, kind, remedy in _REMEDIES:
        if re.search(pattern, problem, re.IGNORECASE):
            return kind(f"{source}: {problem}: {remedy}")
    # Without a runtime the formats go missing, and only a warning says why.
    if re.search(r"javascript runtime|challenge solving", " ".join(warnings), re.IGNORECASE):
        return DownloadError(f"{source}: {problem}: {_JS_RUNTIME}")
    return DownloadError(f"{source}: {problem}")


def _causes(error: BaseException) -> Iterator[BaseException]:
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


def _one_line(text: str) -> str:
    """Return yt-dlp's message without colours, control characters and advice on reporting bugs."""
    text = _ESCAPES.sub(" ", text).removeprefix("ERROR:")
    text = re.split(r"; please report this issue|\. Use --cookies| \(caused by ", text)[0]
    return " ".join(text.split())


class _YtDlp(yt_dlp.YoutubeDL):  # type: ignore[misc]
    """yt-dlp that closes the responses which its extractors and its errors leave open."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._responses: list[Any] = []
        super().__init__(options)

    def urlopen(self, request: Any) -> Any:
        self._responses = [response for response in self._responses if not response.closed]
        try:
            response = super().urlopen(request)
        except HTTPError as error:
            self._responses.append(error.response)
            raise
        self._responses.append(response)
        return response

    def close(self) -> None:
        for response in self._responses:
            response.close()
        super().close()


class _Log:
    """Passes yt-dlp's messages to `logging`; its errors are raised, so they are details here."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def debug(self, message: str) -> None:
        logger.debug("%s", _one_line(message))

    def warning(self, message: str) -> None:
        self.warnings.append(_one_line(message))
        logger.info("%s", _one_line(message))

    def error(self, message: str) -> None:
        logger.debug("%s", _one_line(message))
