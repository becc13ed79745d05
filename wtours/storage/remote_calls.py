"""Calls to a server: bounded in time, tried again when that can help, then named.

tenacity would replace the loop and not the rest: fsspec's clients report a lost answer, a throttled
request and a missing object by one class of exception.

HTTP answers are held to the range that was asked for: fsspec's client reads whatever body comes;
one without end fills the memory, and other bytes than the ones asked for, or the whole file, go
unnoticed while their number is right.
"""

import functools
import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar
from urllib.parse import urlsplit

from wtours.errors import MissingPackageError, StorageError

T = TypeVar("T")
_FIRST_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 20.0
_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError")
_EXTRAS = {
    **dict.fromkeys(("http", "https"), ("aiohttp", "stream")),
    **dict.fromkeys(("s3", "s3a"), ("s3fs", "s3")),
    **dict.fromkeys(("gs", "gcs"), ("gcsfs", "gcs")),
    **dict.fromkeys(("az", "abfs", "abfss", "adl"), ("adlfs", "azure")),
}


class ObjectMissingError(StorageError):
    """There is no such object."""


class PreconditionError(StorageError):
    """The object is not as the request demands (HTTP 412)."""


def shown(url: str) -> str:
    """Return a URL as messages show it: without its query, which may hold a signature."""
    return url.split("?", 1)[0]


def open_file_system(url: str, storage_options: Mapping[str, Any]) -> tuple[Any, str]:
    """Return fsspec's file system of a URL, and the path in it.

    Ask again in each process: fsspec keeps one instance a process, none of which outlives a fork.

    Raises:
        MissingPackageError: the client of the protocol is not installed; names the extra.
        StorageError: the URL cannot be understood.
    """
    from fsspec.core import url_to_fs

    # A listing that is kept answers "there is none" for what another process has published since.
    options = {"use_listings_cache": False, **storage_options}
    try:
        return url_to_fs(url, **held_to_ranges(url, options))  # type: ignore[no-any-return]
    except ImportError as error:
        known = _EXTRAS.get(urlsplit(url).scheme)
        if known is not None:
            raise MissingPackageError(*known, f"reading {shown(url)}") from error
        raise StorageError(f"{shown(url)} cannot be read: {error}") from error
    except (ValueError, RuntimeError) as error:  # RuntimeError: no thread could be started
        raise StorageError(f"{shown(url)} cannot be read: {error}") from error


def read_range(file_system: Any, path: str, start: int, end: int) -> bytes:
    """Return the bytes [start, end) of an object.

    Raises:
        OSError: fewer came, or whatever else the client raises.
    """
    data: bytes = file_system.cat_file(path, start=start, end=end)
    if len(data) != end - start:
        raise OSError(f"{len(data)} bytes came for the {end - start} from {start} on")
    return data


def call(
    ask: Callable[[], T],
    name: str,
    *,
    attempts: int,
    timeout_seconds: float | None = None,
    first: Future[T] | None = None,
) -> T:
    """Return what a call to a server gives, asking again as often as is allowed.

    Args:
        ask: The call, harmless to repeat.
        name: Of the object, for messages.
        attempts: How often at most.
        timeout_seconds: After so long without an answer an attempt is left behind; None: the
            client's own limits hold, and the call runs in this thread.
        first: A call that is under way, as the first attempt.

    Raises:
        ObjectMissingError: the object is missing; not tried again.
        PreconditionError: another version of it is there; not tried again.
        FileExistsError: the name is taken; not tried again.
        StorageError: it failed each time, or in a way that will not change.
    """
    for attempt in range(1, attempts + 1):
        try:
            if timeout_seconds is None:
                return ask()
            future, first = first or in_thread(ask), None
            return future.result(timeout_seconds)
        except FileExistsError:
            raise
        except Exception as error:  # whatever the protocol's library raises
            cause, reason = _explained(error, name)
            if isinstance(error, TimeoutError) and timeout_seconds is not None:
                reason = f"nothing came for {timeout_seconds:g} s"
            if attempt == attempts:
                raise StorageError(f"{name}: {reason}; given up after {attempts} attempts") from (
                    cause
                )
        # With jitter: of many that a store has turned away, not all come back at once.
        pause = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2 ** (attempt - 1))
        time.sleep(pause * random.uniform(0.5, 1.0))
    raise AssertionError("attempts is below 1")


def _explained(error: Exception, name: str) -> tuple[BaseException, str]:
    """Return the cause of an error, in words too; raise it if asking again will not help."""
    cause: BaseException = error
    if isinstance(error, FileNotFoundError):
        # fsspec says this of a 503, a refused connection or a TLS error too, as cause.
        cause = error.__cause__ or error
        response = getattr(cause, "response", None)  # of botocore, on top of the status
        status = getattr(cause, "status", None)
        if isinstance(response, dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 404)
        elif response is not None:  # of the Hugging Face Hub
            status = getattr(response, "status_code", status)
        if isinstance(cause, FileNotFoundError | LookupError) or status in (404, 410):
            raise ObjectMissingError(f"{name} is missing") from error
    reason = " ".join(str(cause).split())[:300] or type(cause).__name__
    if isinstance(error, PermissionError) or type(error).__name__ in _CREDENTIALS:
        raise StorageError(
            f"{name}: access is refused ({reason}); check the credentials that the client finds "
            f"and what they are allowed to do there"
        ) from error
    if isinstance(error, OSError) and re.search("pre-?condition", reason, re.IGNORECASE):
        raise PreconditionError(f"{name}: another version of it is there") from error
    return cause, reason


def in_thread(ask: Callable[[], T]) -> Future[T]:
    """Start a call in a daemon thread: one that hangs does not keep the process alive."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(ask())
        except BaseException as error:  # or the reader would wait for nothing
            future.set_exception(error)

    try:
        threading.Thread(target=run, name="wtours-fetch", daemon=True).start()
    except RuntimeError as error:  # the limit of threads: tried again, and then said
        future.set_exception(error)
    return future


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
