"""Fetching from YouTube and from any other URL, by yt-dlp as a library.

What yt-dlp does not guard against, this module does: a license that is not open, content that
changes between two runs (the working folder is named by what the server says of the file), a part
that is not ours, a body that ends early, an address that has run out (403), a fault in passing.
"""

import contextlib
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from wtours.acquire.completeness import playlist_seconds, require_no_holes
from wtours.acquire.local_files import Fetched, FetchProgress, require_room, working_folder
from wtours.acquire.options import FetchOptions
from wtours.acquire.rate_limit import HostLimits
from wtours.acquire.ytdlp.formats import SelectedFormat, selected_format
from wtours.errors import DownloadError, MissingPackageError, PermanentDownloadError, VideoError
from wtours.storage.atomic import remove
from wtours.workspace.source_url import SourceUrl

try:
    from yt_dlp.networking import HEADRequest, Request
    from yt_dlp.networking.exceptions import HTTPError
    from yt_dlp.utils import YoutubeDLError
except ModuleNotFoundError as _error:
    raise MissingPackageError("yt-dlp", "download", "downloading from a URL") from _error

from wtours.acquire.ytdlp.errors import (
    RefusedError,
    StalledError,
    explain,
    http_error,
    is_passing,
    one_line,
)
from wtours.acquire.ytdlp.partial_files import drop_foreign_parts
from wtours.acquire.ytdlp.session import Log, YtDlp, open_ytdlp

logger = logging.getLogger(__name__)

_INFO_KEYS = (
    "id", "title", "description", "channel", "channel_id", "channel_url", "uploader", "uploader_id",
    "upload_date", "timestamp", "duration", "license", "extractor_key", "format_id", "format_note",
    "ext", "width", "height", "fps", "vcodec", "dynamic_range", "filesize", "live_status",
    "availability", "age_limit",
)  # fmt: skip
"""Kept of yt-dlp's info: none of them holds an address with a signature, a header or a cookie."""
_OPEN = re.compile(
    r"creative commons|creativecommons\.org/|\bcc[ -]?(?:by|0)\b|\bpublic domain\b", re.IGNORECASE
)
"""A license, in the source's own words, that is Creative Commons (or none)."""
_PROTOCOLS = ("http", "https", "http_dash_segments", "m3u8", "m3u8_native")
"""What yt-dlp fetches by itself; for others it starts programs."""


Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class YtDlpFetcher:
    """Fetches one http(s) URL; see `wtours.acquire.local_files.Fetcher`."""

    options: FetchOptions = field(default_factory=FetchOptions)
    hosts: HostLimits = field(default_factory=HostLimits)
    """Shared by all fetchers of a run."""
    named_urls: tuple[str, ...] = ()
    """Of the whole manifest: private hosts are asked only if one of these URLs names them."""
    on_selected: Callable[[SelectedFormat], None] = lambda choice: None
    """Called before the first byte of the video, each time it is looked up."""

    def __call__(self, source: str, folder: Path, on_progress: FetchProgress) -> Fetched:
        """Fetch what `source` leads to, going on in the part that an earlier run has left.

        Raises:
            HostBusyError: the host has asked to wait.
        """
        url = SourceUrl(source)
        return self._with_retries(
            url, folder, lambda log: self._fetch(url, folder, on_progress, log)
        )

    def choose(self, source: str, folder: Path) -> SelectedFormat:
        """Return what would be fetched, and fetch nothing of it.

        Raises:
            DownloadError: it cannot be had, or its license does not allow it.
        """

        url = SourceUrl(source)

        def look(log: Log) -> SelectedFormat:
            with self._open(url, log, lambda done, total: None) as ydl:
                choice, info, _ = self._look_up(ydl, url)
                size = None if choice.bytes else _identity(ydl, info)["bytes"]
            return choice if size is None else choice.with_size(size)

        return self._with_retries(url, folder, look)

    def _open(
        self, source: SourceUrl, log: Log, on_progress: FetchProgress, **more: Any
    ) -> contextlib.AbstractContextManager[YtDlp]:
        named = [source.working, *self.named_urls]
        return open_ytdlp(self.options, self.hosts, log, on_progress, named_urls=named, **more)

    def _with_retries(
        self, source: SourceUrl, folder: Path, attempt: Callable[[Log], Answer]
    ) -> Answer:
        """Return the attempt's answer; after a passing fault, or one 403, it is made again."""
        waits_seconds = [*self.options.retry_waits_seconds]
        may_look_up_again = True
        while True:
            log = Log()
            try:
                return attempt(log)
            except (YoutubeDLError, StalledError, RefusedError) as error:
                if isinstance(error, RefusedError):
                    raise RefusedError(f"{source}: {error}") from error
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
                logger.info("%s: %s; trying again", source, source.hide(one_line(str(error))))

    def _fetch(
        self, source: SourceUrl, folder: Path, on_progress: FetchProgress, log: Log
    ) -> Fetched:
        with self._open(source, log, on_progress) as ydl:
            choice, info, observed_at = self._look_up(ydl, source)
            identity = _identity(ydl, info)
        size: int | None = identity["bytes"]
        self.on_selected(choice if choice.bytes else choice.with_size(size))
        if size is not None:
            if size > self.options.max_bytes:
                raise RefusedError(f"the server states {size} bytes; raise --max-size to allow it")
            require_room(source, folder, size)
        work = working_folder(folder, source, identity)
        with self._open(source, log, on_progress, work=work, declared_bytes=size) as ydl:
            drop_foreign_parts(ydl, info, work)
            is_fragmented = info.get("protocol") not in ("http", "https")
            seconds = _seconds_of_fragments(ydl, info) if is_fragmented else 0.0
            ydl.lengths_stated = True  # from here on it is the video that is asked for
            result = ydl.process_ie_result(info, download=True)
            path = Path(result["requested_downloads"][0]["filepath"])
            kept = {key: ydl.sanitize_info(result).get(key) for key in _INFO_KEYS}
        if size is not None and path.stat().st_size != size:
            got = path.stat().st_size
            remove(work)
            raise DownloadError(
                f"{source}: got {got} bytes of a file of {size}; run the command again"
            )
        if is_fragmented:
            try:
                require_no_holes(path, seconds=seconds, lengths_stated=ydl.lengths_stated)
            except VideoError as error:
                remove(work)
                problem = str(error).replace(str(path), "the file")
                raise VideoError(f"{source}: {problem}") from error
        return Fetched(
            path=path,
            info={key: source.hide(v) if isinstance(v, str) else v for key, v in kept.items()},
            license_observed_at=observed_at,
            length_stated=is_fragmented or size is not None or ydl.lengths_stated,
        )

    def _look_up(self, ydl: Any, source: SourceUrl) -> tuple[SelectedFormat, dict[str, Any], str]:
        """Return what yt-dlp selects of the source, its info, and when it was looked at."""
        info = ydl.extract_info(source.working, download=False)
        observed_at = datetime.now(UTC).isoformat(timespec="seconds")
        if "entries" in info:
            raise PermanentDownloadError(f"{source} is a list of videos; give the URL of one video")
        if info.get("is_live"):
            raise DownloadError(f"{source} is live now; try again when it is over")
        if info.get("protocol") not in _PROTOCOLS:
            raise PermanentDownloadError(
                f"{source} is served by {info.get('protocol')}; only http and https are fetched"
            )
        choice = selected_format(source, info)
        _require_open(
            source, choice.license_observed, allow_unknown=self.options.allow_unknown_license
        )
        return choice, info, observed_at


def _require_open(source: str, license_observed: str | None, *, allow_unknown: bool) -> None:
    """Let a source pass by the license that it states itself, or say why not.

    A manifest only claims a license. What the network observes decides: Creative Commons passes,
    another license is refused, none needs the user's word and is recorded as unknown. A file that
    the user already has is not asked for.

    YouTube says "Creative Commons Attribution license (reuse allowed)", and nothing of its standard
    license; `allow_unknown`: the user answers for a source that says nothing.

    Raises:
        PermanentDownloadError: it must not be fetched.
    """
    if license_observed is None:
        if not allow_unknown:
            raise PermanentDownloadError(
                f"{source}: it states no license (as under YouTube's standard license); if you "
                f"may use it, add --allow-unknown-license"
            )
    elif not _OPEN.search(license_observed):
        raise PermanentDownloadError(
            f"{source}: its license is {license_observed!r}, not Creative Commons; ask its owner, "
            f"and give the file itself: `wtours download --from-dir DIR`"
        )


def _seconds_of_fragments(ydl: YtDlp, info: dict[str, Any]) -> float:
    """Return how long the list of fragments says that they last; 0 if it does not say."""
    if fragments := info.get("fragments"):
        return sum(float(fragment.get("duration") or 0) for fragment in fragments)
    # Some sites answer only who says, in a header, which of their pages it comes from.
    request = Request(info["url"], headers=info.get("http_headers", {}))
    with contextlib.closing(ydl.urlopen(request)) as response:
        return playlist_seconds(response.read().decode("utf-8", "replace"))


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
    if length is not None and not length.isdigit():
        raise RefusedError(f"the server states the length {length[:40]!r}, which is no number")
    return {
        "format_id": info.get("format_id"),
        "bytes": int(length) if length is not None else info.get("filesize"),
        "etag": headers.get("ETag"),
        "last_modified": headers.get("Last-Modified"),
    }
