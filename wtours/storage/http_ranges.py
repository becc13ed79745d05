"""HTTP answers to range requests, held to the range that was asked for.

fsspec's client reads whatever body comes: one without end fills the memory, and other bytes than
the ones asked for, or the whole file, go unnoticed while their number is right.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{1,18})")


def held_to_ranges(url: str, storage_options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of fsspec's file system of a URL, so that its answers are held to ranges.

    Raises:
        ImportError: aiohttp is not installed, and the URL is of the web.
    """
    options = dict(storage_options)
    if urlsplit(url).scheme in ("http", "https"):
        own = {"response_class": _response_class()}
        options["client_kwargs"] = own | options.get("client_kwargs", {})
    return options


@functools.cache
def _response_class() -> type[Any]:
    import aiohttp

    class RangeResponse(aiohttp.ClientResponse):
        """An answer whose body is not read beyond the range that was asked for."""

        async def read(self) -> bytes:
            """Return the body.

            Raises:
                OSError: it is of another range, or larger than the one that was asked for.
            """
            asked = _RANGE.fullmatch(self.request_info.headers.get("Range", ""))
            if asked is None:
                return await super().read()
            if self.status not in (200, 206):  # an error, which fsspec raises by its status
                self.close()
                return b""
            first, last = int(asked[1]), int(asked[2])
            given = self.headers.get("Content-Range", "none")
            # A server that knows no ranges sends the whole file, which the range may be.
            is_asked = (
                first == 0 if self.status == 200 else given.startswith(f"bytes {first}-{last}/")
            )
            if not is_asked:
                self.close()
                raise OSError(
                    f"asked for the bytes {first} to {last}, the server answers with status "
                    f"{self.status} and the range {given[:80]!r}"
                )
            body = bytearray()
            async for block in self.content.iter_any():
                body += block
                if len(body) > last - first + 1:
                    self.close()
                    raise OSError(
                        f"the server sends more than the {last - first + 1} bytes from {first} on "
                        f"that were asked for"
                    )
            return bytes(body)

    return RangeResponse
