"""A web server on 127.0.0.1 that gives ranges of a folder's files, and misbehaves as told."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass(slots=True)
class RangeServer:
    """The running server; may be told to misbehave while it runs."""

    url: str
    folder: Path
    failures: dict[str, int] = field(default_factory=dict)
    """By file name: so many GETs are answered 503."""
    head_failures: dict[str, int] = field(default_factory=dict)
    """By file name: so many HEADs are answered 503."""
    stalls: dict[str, int] = field(default_factory=dict)
    """By file name: so many GETs get no answer until the server ends."""
    ignores_ranges: bool = False
    endless: bool = False
    """The body of each GET goes on with zeros until the client leaves."""
    shifted: int = 0
    """Bytes from later on are sent than those that were asked for, and Content-Range says so."""
    sent_bytes: int = 0
    """Of the bodies, as far as they were taken."""
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    """(file name, Range header) of each GET."""
    closing: threading.Event = field(default_factory=threading.Event)


@contextlib.contextmanager
def serve_ranges(folder: Path) -> Iterator[RangeServer]:
    """Serve a folder's files until the block ends."""

    http = _HttpServer(("127.0.0.1", 0), _Handler)
    server = RangeServer(f"http://127.0.0.1:{http.server_address[1]}", folder)
    http.told = server
    thread = threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        http.shutdown()
        thread.join()
        http.server_close()


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    told: RangeServer


class _Handler(BaseHTTPRequestHandler):
    server: "_HttpServer"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        told = self.server.told
        name, asked = self.path.split("?")[0].lstrip("/"), self.headers.get("Range")
        if body:
            told.asked.append((name, asked))
            if told.stalls.get(name, 0) > 0:
                told.stalls[name] -= 1
                told.closing.wait()
                return
        failures = told.failures if body else told.head_failures
        if failures.get(name, 0) > 0:
            failures[name] -= 1
            self.send_error(503)
            return
        path = told.folder / name
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        total, content_range = len(data), None
        if asked is not None and not told.ignores_ranges:
            first, last = (int(end) + told.shifted for end in asked[6:].split("-"))
            data, content_range = data[first : last + 1], f"bytes {first}-{last}/{total}"
        self.send_response(200 if content_range is None else 206)
        if content_range is not None:
            self.send_header("Content-Range", content_range)
        if not (body and told.endless):
            self.send_header("Content-Length", str(len(data)))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            while body:
                self.wfile.write(data)
                told.sent_bytes += len(data)
                body, data = told.endless, bytes(2**16)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test output quiet."""
