"""Fetching from YouTube and from any other URL, by yt-dlp as a library.

What yt-dlp does not guard against, this module does: a license that is not open, content that
changes between two runs (the working folder is named by what the server says of the file), a part
that is not ours, a body that ends early, an address that has run out (403), a fault in passing.
"""

import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from wtours.acquire.license_policy import require_open
from wtours.acquire.local_files import Fetched, FetchProgress, working_folder
from wtours.acquire.options import FetchOptions
from wtours.acquire.rate_limit import HostLimits
from wtours.acquire.ytdlp.formats import SelectedFormat, selected_format
from wtours.errors import DownloadError, MissingPackageError, PermanentDownloadError
from wtours.storage.atomic import remove

try:
    from yt_dlp.networking import HEADRequest
    from yt_dlp.networking.exceptions import HTTPError
    from yt_dlp.utils import YoutubeDLError
except ModuleNotFoundError as _error:
    raise MissingPackageError("yt-dlp", "download", "downloading from a URL") from _error

from wtours.acquire.ytdlp.errors import StalledError, explain, http_error, is_passing, one_line
from wtours.acquire.ytdlp.partial_files import drop_foreign_parts
from wtours.acquire.ytdlp.session import Log, open_ytdlp

logger = logging.getLogger(__name__)

_INFO_KEYS = (
    "id", "title", "description", "channel", "channel_id", "channel_url", "uploader", "uploader_id",
    "upload_date", "timestamp", "duration", "license", "extractor_key", "format_id", "format_note",
    "ext", "width", "height", "fps", "vcodec", "dynamic_range", "filesize", "live_status",
    "availability", "age_limit",
)  # fmt: skip
"""Kept of yt-dlp's info: none of them holds an address with a signature, a header or a cookie."""
_PROTOCOLS = ("http", "https", "http_dash_segments", "m3u8", "m3u8_native")
"""What yt-dlp fetches by itself; for others it starts programs."""


Answer = TypeVar("Answer")


def _ignore_choice(choice: SelectedFormat) -> None:
    """Do nothing."""


@dataclass(frozen=True, slots=True)
class YtDlpFetcher:
    """Fetches one http(s) URL; see `wtours.acquire.local_files.Fetcher`."""

    options: FetchOptions = field(default_factory=FetchOptions)
    hosts: HostLimits = field(default_factory=HostLimits)
    """Shared by all fetchers of a run."""
    on_selected: Callable[[SelectedFormat], None] = _ignore_choice
    """Called before the first byte of the video, each time it is looked up."""

    def __call__(self, source: str, folder: Path, on_progress: FetchProgress) -> Fetched:
        """Fetch what `source` leads to, going on in the part that an earlier run has left.

        Raises:
            HostBusyError: the host has asked to wait.
        """
        return self._patiently(
            source, folder, lambda log: self._fetch(source, folder, on_progress, log)
        )

    def choose(self, source: str, folder: Path) -> SelectedFormat:
        """Return what would be fetched, and fetch nothing of it.

        Raises:
            DownloadError: it cannot be had, or its license does not allow it.
        """

        def look(log: Log) -> SelectedFormat:
            with open_ytdlp(self.options, self.hosts, log, lambda done, total: None) as ydl:
                choice, info, _ = self._look_up(ydl, source)
                size = None if choice.bytes else _identity(ydl, info)["bytes"]
            return choice if size is None else choice.with_size(size)

        return self._patiently(source, folder, look)

    def _patiently(self, source: str, folder: Path, attempt: Callable[[Log], Answer]) -> Answer:
        """Return the attempt's answer; after a passing fault, or one 403, it is made again."""
        waits_seconds = [*self.options.retry_policy.retry_waits_seconds]
        may_look_up_again = True
        while True:
            log = Log()
            try:
                return attempt(log)
            except (YoutubeDLError, StalledError) as error:
                if (busy := http_error(error, 429)) is not None:
                    self.hosts.check(busy.response.url)  # raises, unless the wait is over
                elif http_error(error, 403) is not None and may_look_up_again:
                    may_look_up_again = False  # the address may have run out
                elif is_passing(error) and waits_seconds:
                    time.sleep(waits_seconds.pop(0))
                elif isinstance(error, StalledError):
                    raise StalledError(f"{source}: {error}") from error
                else:
                    raise explain(
                        error, source=source, folder=folder, warnings=log.warnings
                    ) from error
                logger.info("%s: %s; trying again", source, one_line(str(error)))

    def _fetch(self, source: str, folder: Path, on_progress: FetchProgress, log: Log) -> Fetched:
        with open_ytdlp(self.options, self.hosts, log, on_progress) as ydl:
            choice, info, observed_at = self._look_up(ydl, source)
            identity = _identity(ydl, info)
        self.on_selected(choice if choice.bytes else choice.with_size(identity["bytes"]))
        work = working_folder(folder, source, identity)
        with open_ytdlp(self.options, self.hosts, log, on_progress, work) as ydl:
            drop_foreign_parts(ydl, info, work)
            result = ydl.process_ie_result(info, download=True)
            path = Path(result["requested_downloads"][0]["filepath"])
            kept = {key: ydl.sanitize_info(result).get(key) for key in _INFO_KEYS}
        _check_size(source, path, identity["bytes"])
        return Fetched(path=path, info=kept, license_observed_at=observed_at)

    def _look_up(self, ydl: Any, source: str) -> tuple[SelectedFormat, dict[str, Any], str]:
        """Return what yt-dlp selects of the source, its info, and when it was looked at."""
        info = ydl.extract_info(source, download=False)
        observed_at = datetime.now(UTC).isoformat(timespec="seconds")
        _refuse_unfit(source, info)
        choice = selected_format(source, info)
        require_open(
            source, choice.license_observed, allow_unknown=self.options.allow_unknown_license
        )
        return choice, info, observed_at


def _refuse_unfit(source: str, info: dict[str, Any]) -> None:
    if "entries" in info:
        raise PermanentDownloadError(f"{source} is a list of videos; give the URL of one video")
    if info.get("is_live"):
        raise DownloadError(f"{source} is live now; try again when it is over")
    if info.get("protocol") not in _PROTOCOLS:
        raise PermanentDownloadError(
            f"{source} is served by {info.get('protocol')}; only http and https are fetched"
        )


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
