"""A web server on 127.0.0.1 that misbehaves as told, for tests of downloading.

with serve({"/walk.mp4": Resource(body)}) as server:
    fetch(server.url("/walk.mp4"))
assert server.requests[0].range is None
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_BLOCK = 16 * 1024
_ENDLESS_BLOCK = 2**20


@dataclass(slots=True)
class Resource:
    """One path, and how the server treats those who ask for it; may change while it runs."""

    body: bytes
    content_type: str = "video/mp4"
    etag: str | None = None
    last_modified: str | None = None
    accepts_ranges: bool = True
    states_length: bool = True
    failing_statuses: list[int] = field(default_factory=list)
    """Each request takes one off the front and gets it; when none is left, the body."""
    drop_after_bytes: int | None = None
    """Every connection is closed after so many bytes of body."""
    stall_after_bytes: int | None = None
    """Every connection sends so many bytes of body, then waits until the server ends."""
    pause_seconds: float = 0.0
    """Wait before each 16 KiB."""
    trickle_seconds: float | None = None
    """Send byte by byte, and wait so long after each."""
    retry_after: str | None = None
    """The Retry-After header of the failing statuses."""
    headers: dict[str, str] = field(default_factory=dict)
    """Sent instead of those of the same name."""
    location: str | None = None
    """Redirect there."""
    is_endless: bool = False
    """The body is sent again and again, up to 1 GiB; its length is stated to HEAD alone."""


@dataclass(frozen=True, slots=True)
class Request:
    """One line of the server's log."""

    method: str
    path: str
    range: str | None
    """The Range header."""
    status: int
    headers: dict[str, str]
    seconds: float
    """Monotonic, when it was answered."""


class LoopbackServer:
    """The running server; made by `serve`."""

    def __init__(self, resources: dict[str, Resource], host: str) -> None:
        self.host = host
        self.resources = resources
        self.requests: list[Request] = []
        self.endless_bytes = 0
        """Sent of endless bodies."""
        self.closing = threading.Event()
        self._http = _HttpServer(self)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def url(self, path: str) -> str:
        """Return the full URL of a path."""
        return f"http://{self.host}:{self._http.server_address[1]}{path}"

    def close(self) -> None:
        """Let stalled connections go and stop."""
        self.closing.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@contextlib.contextmanager
def serve(resources: dict[str, Resource], *, host: str = "127.0.0.1") -> Iterator[LoopbackServer]:
    """Serve the resources by path until the block ends."""
    server = LoopbackServer(resources, host)
    try:
        yield server
    finally:
        server.close()


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, owner: LoopbackServer) -> None:
        super().__init__((owner.host, 0), _Handler)
        self.owner = owner


class _Handler(BaseHTTPRequestHandler):
    server: _HttpServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        self.close_connection = True
        resource = self.server.owner.resources.get(self.path)
        if resource is None:
            self._fail(404)
        elif resource.failing_statuses:
            self._fail(resource.failing_statuses.pop(0), resource.retry_after)
        else:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self._send(resource)

    def _fail(self, status: int, retry_after: str | None = None) -> None:
        self._log(status)
        self.send_response(status)
        if retry_after is not None:
            self.send_header("Retry-After", retry_after)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, resource: Resource) -> None:
        total = len(resource.body)
        asked = self._asked_range(resource)
        start, end = asked or (0, total)
        if start >= total > 0:
            self._fail(416)
            return
        body = resource.body[start:end]
        status = 302 if resource.location else 206 if asked else 200
        headers = {"Content-Type": resource.content_type, "Connection": "close"}
        if asked:
            headers["Content-Range"] = f"bytes {start}-{start + len(body) - 1}/{total}"
        if resource.states_length and (self.command == "HEAD" or not resource.is_endless):
            headers["Content-Length"] = str(len(body))
        stated = {
            "ETag": resource.etag,
            "Last-Modified": resource.last_modified,
            "Location": resource.location,
        }
        headers |= {name: value for name, value in stated.items() if value is not None}
        self._log(status)
        self.send_response(status)
        for name, value in {**headers, **resource.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self._send_body(body, resource)

    def _send_body(self, body: bytes, resource: Resource) -> None:
        if resource.is_endless:
            block = (body * (_ENDLESS_BLOCK // len(body) + 1))[:_ENDLESS_BLOCK]
            for _ in range(2**30 // _ENDLESS_BLOCK):
                self.wfile.write(block)
                self.server.owner.endless_bytes += len(block)
            return
        if resource.trickle_seconds is not None:
            for index in range(len(body)):
                self.wfile.write(body[index : index + 1])
                if self.server.owner.closing.wait(resource.trickle_seconds):
                    return
        for offset in range(0, len(body), _BLOCK):
            block = body[offset : offset + _BLOCK]
            for limit in (resource.drop_after_bytes, resource.stall_after_bytes):
                if limit is not None and offset + len(block) > limit:
                    self.wfile.write(block[: max(0, limit - offset)])
                    if limit == resource.stall_after_bytes:
                        self.server.owner.closing.wait()
                    return
            time.sleep(resource.pause_seconds)
            self.wfile.write(block)

    def _asked_range(self, resource: Resource) -> tuple[int, int] | None:
        """Return the half-open range that is asked for, None for the whole body."""
        asked = self.headers.get("Range")
        if asked is None or not resource.accepts_ranges:
            return None
        first, _, last = asked.removeprefix("bytes=").partition("-")
        return int(first), int(last) + 1 if last else len(resource.body)

    def _log(self, status: int) -> None:
        asked = self.headers.get("Range")
        request = Request(
            self.command, self.path, asked, status, dict(self.headers), time.monotonic()
        )
        self.server.owner.requests.append(request)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test output quiet."""
