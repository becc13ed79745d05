"""An open yt-dlp with our options and no others, polite to hosts and impatient with stalls.

From a manifest it sees a URL and nothing else; from the user's machine neither configuration nor
plugins, and no other program: no ffmpeg, no external downloader.
"""

import contextlib
import io
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from http.cookiejar import LoadError
from pathlib import Path
from typing import Any

import yt_dlp
import yt_dlp.globals
from yt_dlp.cookies import YoutubeDLCookieJar
from yt_dlp.networking import Request
from yt_dlp.networking.exceptions import HTTPError, TransportError

from wtours.acquire.local_files import FetchProgress
from wtours.acquire.options import MAX_PAGE_BYTES, FetchOptions
from wtours.acquire.rate_limit import HostLimits
from wtours.acquire.ytdlp.errors import RefusedError, StalledError, causes, one_line
from wtours.acquire.ytdlp.formats import SORT, selector
from wtours.acquire.ytdlp.private_hosts import PrivateHostError, only_public_hosts
from wtours.errors import UsageError

logger = logging.getLogger(__name__)

_NO_PROGRAM = "/nonexistent"
_BLOCK_BYTES = 64 * 1024
_LARGEST_READ = 4 * 2**20
_opening = threading.Lock()  # yt-dlp fills its tables of extractors when it is opened


@contextlib.contextmanager
def open_ytdlp(
    options: FetchOptions,
    hosts: HostLimits,
    log: "Log",
    on_progress: FetchProgress,
    *,
    named_urls: Iterable[str],
    work: Path | None = None,
    declared_bytes: int | None = None,
) -> Iterator["YtDlp"]:
    """Open yt-dlp.

    Args:
        options: The user's.
        hosts: The limits that all downloads share.
        log: Takes its messages.
        on_progress: Called with the bytes so far and in all.
        named_urls: The only URLs whose hosts may be private.
        work: The folder that it writes in; None: it only looks things up.
        declared_bytes: The size that the server states of the file.
    """
    settings = {
        "format": selector(options.max_height, options.codec),
        "format_sort": list(SORT),
        "outtmpl": "source.%(ext)s",
        "paths": {"home": str(work)} if work is not None else {},
        "continuedl": True,
        "retries": 10,
        "fragment_retries": 5,  # half a minute in all, with the waits
        "skip_unavailable_fragments": False,  # a hole would be a video that looks whole
        "retry_sleep_functions": {"http": _retry_wait, "fragment": _retry_wait},
        "socket_timeout": options.socket_seconds,
        "ratelimit": options.limit_rate and options.limit_rate // options.jobs,
        "proxy": options.proxy,
        "cookiefile": _cookies(options.cookies_file),
        "cookiesfrombrowser": _browser(options.cookies_from_browser),
        "noplaylist": True,
        "extract_flat": "in_playlist",
        "enable_file_urls": False,
        "external_downloader": {"default": "native"},
        "ffmpeg_location": _NO_PROGRAM,
        "fixup": "never",
        "ignoreerrors": False,
        "cachedir": False,
        "js_runtimes": {"deno": {}, "node": {}},
        "quiet": True,
        "noprogress": True,
        "color": "no_color",
        "logger": log,
        "progress_hooks": [_progress_hook(on_progress, declared_bytes)],
    }
    with _opening:
        yt_dlp.globals.plugin_dirs.value = []  # code from the user's plugin folders is not ours
        ydl = YtDlp(settings, hosts, options)
    ydl.bytes_left = MAX_PAGE_BYTES if work is None else options.max_bytes
    with only_public_hosts([*named_urls, *_proxy_urls(ydl)]), ydl:
        yield ydl


def _proxy_urls(ydl: "YtDlp") -> list[str]:
    """Return the proxies that are asked: that of the options, else those of the environment.

    Both may be written without a scheme, as host:port.
    """
    # `no_proxy` is among them: it names hosts that are asked directly.
    proxies = [proxy for scheme, proxy in ydl.proxies.items() if proxy and scheme != "no"]
    return [proxy if "://" in proxy else f"http://{proxy}" for proxy in proxies]


class Log:
    """Passes yt-dlp's messages to `logging`; its errors are raised, so they are details here.

    Attributes:
        warnings: What it warned of.
    """

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def debug(self, message: str) -> None:
        """Take a message."""
        logger.debug("%s", one_line(message))

    def warning(self, message: str) -> None:
        """Take a warning, and keep it: the reason of an error is sometimes only there."""
        self.warnings.append(one_line(message))
        logger.info("%s", one_line(message))

    error = debug


class YtDlp(yt_dlp.YoutubeDL):  # type: ignore[misc]
    """yt-dlp whose every request goes through the host's limit, and whose reads are bounded.

    It also closes the responses which its extractors and its errors leave open.

    Attributes:
        bytes_left: What may still be read, of all responses together.
        lengths_stated: Whether each body that was asked for said where it ends.
    """

    def __init__(self, settings: dict[str, Any], hosts: HostLimits, options: FetchOptions) -> None:
        self._responses: list[Any] = []
        self._hosts = hosts
        self._options = options
        self.bytes_left = MAX_PAGE_BYTES
        self.lengths_stated = True
        super().__init__(settings)

    def urlopen(self, request: Any) -> Any:
        """Send a request when it is the host's turn, and bound what is read of the response."""
        if isinstance(request, str):
            request = Request(request)
        # A small body that is unpacked to gigabytes is of no use to anybody here.
        request.headers["Accept-Encoding"] = "identity"
        url = request.url
        self._responses = [response for response in self._responses if not response.closed]
        self._hosts.before_request(url)
        try:
            response = super().urlopen(request)
        except HTTPError as error:
            self._responses.append(error.response)
            retry_after = error.response.headers.get("Retry-After")
            if error.status == 429 or (error.status == 503 and retry_after is not None):
                self._hosts.refused(url, retry_after)
            raise
        except TransportError as error:
            for cause in causes(error):
                if isinstance(cause, PrivateHostError):
                    raise RefusedError(str(cause)) from error
            raise
        self._responses.append(response)
        headers = response.headers
        is_chunked = "chunked" in (headers.get("Transfer-Encoding") or "").lower()
        if request.method != "HEAD" and not is_chunked:
            self.lengths_stated &= (headers.get("Content-Length") or "").isdigit()
        self._bound_reads(response)
        return response

    def _bound_reads(self, response: Any) -> None:
        """Make `response.read` raise when next to nothing comes, or too much.

        A socket's timeout starts again with every byte, and a read of n bytes waits for all n; so
        each read takes what is there, and the bytes are counted over time.
        """
        stream = response.fp
        if not hasattr(stream, "read1"):
            return
        options = self._options
        since, num_bytes = time.monotonic(), 0

        def read(amount: int | None = None, **keywords: Any) -> bytes:
            nonlocal since, num_bytes
            if amount is None:
                return b"".join(iter(lambda: read(_BLOCK_BYTES, **keywords), b""))
            block: bytes = stream.read1(min(amount, _LARGEST_READ), **keywords)
            self.bytes_left -= len(block)
            if self.bytes_left < 0:
                raise RefusedError("the server sends more than --max-size, or than a page can have")
            num_bytes += len(block)
            now = time.monotonic()
            if now - since >= options.stall_seconds:
                if block and num_bytes < options.stall_bytes:
                    raise StalledError(
                        f"the server sent {num_bytes} bytes in {now - since:.0f} s; "
                        f"run the command again later"
                    )
                since, num_bytes = now, 0
            return block

        with contextlib.suppress(AttributeError):  # a body that is in memory already
            stream.read = read

    def close(self) -> None:
        """Close what is still open."""
        for response in self._responses:
            response.close()
        super().close()


def _progress_hook(
    on_progress: FetchProgress, declared_bytes: int | None
) -> Callable[[dict[str, Any]], None]:
    def hook(status: dict[str, Any]) -> None:
        if declared_bytes is not None and (status.get("downloaded_bytes") or 0) > declared_bytes:
            raise RefusedError(f"the server sends more than the {declared_bytes} bytes it states")
        total = status.get("total_bytes") or status.get("total_bytes_estimate")
        on_progress(status.get("downloaded_bytes") or 0, total)

    return hook


def _retry_wait(n: int) -> float:
    """Return how long yt-dlp waits before its n-th next request after a dropped connection."""
    return float(min(2 ** max(n - 1, 0), 60))


def _cookies(path: Path | None) -> io.StringIO | None:
    """Return the user's cookies as a copy in memory, since yt-dlp writes back what it changes."""
    if path is None:
        return None
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the cookies in {path} ({error}); check the path") from error
    try:  # here, since yt-dlp would name an object in memory
        YoutubeDLCookieJar(io.StringIO(text)).load()
    except LoadError as error:
        raise UsageError(
            f"{path} is no file of cookies in Netscape's format; export them as cookies.txt"
        ) from error
    return io.StringIO(text)


def _browser(text: str | None) -> tuple[str, str | None, None, None] | None:
    """Return yt-dlp's (browser, profile, keyring, container)."""
    if text is None:
        return None
    name, _, profile = text.partition(":")
    known = sorted(yt_dlp.cookies.SUPPORTED_BROWSERS)
    if name.lower() not in known:
        raise UsageError(f"--cookies-from-browser {text!r}: use one of {', '.join(known)}")
    return name.lower(), profile or None, None, None
