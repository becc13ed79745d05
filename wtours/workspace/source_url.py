"""Where a video comes from: a URL that shows no secret, and what may stand there at all."""

import base64
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from wtours.text import REDACTED, redact_url, redact_urls

_SHORTEST_SECRET = 4
"""Characters; a shorter one would hide letters of every text."""


class SourceUrl(str):
    """A source as it may be shown and stored: user, password and secret parameters are hidden."""

    working: str
    """The URL for the request. It stays in memory: no file, message or log has it."""

    def __new__(cls, url: str) -> "SourceUrl":
        """Hide the secrets of a URL; one that is a SourceUrl stays as it is."""
        if isinstance(url, SourceUrl):
            return url
        source = super().__new__(cls, redact_url(url))
        source.working = url
        return source

    def hide(self, text: str) -> str:
        """Return text that others made of the working URL, without its secrets."""
        for secret in self._secrets():
            text = text.replace(secret, REDACTED)
        return redact_urls(text)

    def _secrets(self) -> list[str]:
        """Return what stands in the working URL only, as it is there and as it is sent."""
        if self.working == self:
            return []
        parts = urlsplit(self.working)
        values = [pair.partition("=")[2] for pair in f"{parts.query}&{parts.fragment}".split("&")]
        values.append(parts.password or "")
        userinfo = unquote(parts.netloc.rpartition("@")[0])
        values = [value for value in values if f"={value}" not in self]
        values += [unquote(value) for value in values]
        values += [userinfo, base64.b64encode(userinfo.encode()).decode()]
        return sorted((v for v in values if len(v) >= _SHORTEST_SECRET), key=len, reverse=True)


def checked_source(url: str) -> SourceUrl:
    """Return a source of a manifest.

    Raises:
        ValueError: it is no http(s) URL and no name inside the given folder.
    """
    source = SourceUrl(url)
    scheme = url.partition(":")[0].lower()
    if scheme in ("http", "https"):
        try:
            has_host = bool(urlsplit(url).hostname)
        except ValueError as error:  # [ and ] that are no IPv6 address
            raise ValueError(f"{str(source)!r} is no URL: {error}") from error
        if not has_host:
            raise ValueError(f"{str(source)!r} has no host")
        if "__youtubedl_smuggle" in url:
            raise ValueError(f"{str(source)!r} gives orders to yt-dlp; remove what is behind its #")
    elif url.startswith("file:"):
        name = url.removeprefix("file:")
        if name.startswith("/") or "\\" in name or ".." in PurePosixPath(name).parts or not name:
            raise ValueError(f"{url!r}: a file: source is a name inside the given folder")
    else:
        raise ValueError(f"{str(source)!r}: sources are https:, http: or file: URLs")
    return source
