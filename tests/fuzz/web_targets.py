"""What is fuzzed of the web: raw HTTP answers, as shards are streamed and videos are downloaded."""

import shutil
import socket
import threading
from collections.abc import Iterable
from functools import cache, partial
from pathlib import Path

from tests.fuzz.targets import Step, Target
from tests.support.hls import write_hls
from tests.support.report_workspace import entry
from tests.support.shard_set import write_shard_set
from tests.support.video_clips import write_clip
from wtours.acquire.download import download_videos
from wtours.acquire.options import FetchOptions
from wtours.acquire.ytdlp import session
from wtours.errors import DownloadError
from wtours.shards import FetchPolicy, stream_clips
from wtours.workspace.layout import Layout


class _Server:
    """Sends a file as it is, status line and headers too, for each request; then hangs up."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.folder = Path()
        threading.Thread(target=self._serve, daemon=True).start()

    def url(self, folder: Path) -> str:
        """Return the address of a folder, which is served from now on."""
        self.folder = folder
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def _serve(self) -> None:
        while True:
            threading.Thread(
                target=self._answer, args=self._socket.accept()[:1], daemon=True
            ).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            asked = connection.recv(65_536).split(b" ")
            name = asked[1].decode().partition("?")[0].lstrip("/") if len(asked) > 1 else ""
            path = self.folder / f"{name}.{asked[0].decode()}.http"
            try:
                connection.sendall(path.read_bytes() if path.is_file() else _NOT_FOUND)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65_536):  # else what was sent could be thrown away
                    pass
            except OSError:
                pass


_NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@cache
def _server() -> _Server:
    return _Server()


def _write_answers(path: Path, folder: Path, *, ranges: bool) -> None:
    """Write the answers to HEAD and GET for a file."""
    data = path.read_bytes()
    head = f"Content-Length: {len(data)}\r\nAccept-Ranges: bytes\r\nConnection: close\r\n\r\n"
    status = "HTTP/1.1 200 OK\r\n"
    (folder / f"{path.name}.HEAD.http").write_bytes((status + head).encode())
    if ranges:
        whole = f"bytes 0-{len(data) - 1}/{len(data)}"
        status = f"HTTP/1.1 206 Partial Content\r\nContent-Range: {whole}\r\n"
    (folder / f"{path.name}.GET.http").write_bytes((status + head).encode() + data)


def _make_answers(folder: Path) -> None:
    files = folder / "files"
    write_shard_set(files / "set", num_frames=4, size=(16, 24), videos=("one",))
    for path in sorted((files / "set").iterdir()):
        _write_answers(path, folder, ranges=True)
    shutil.rmtree(files)


def _answer_steps(folder: Path) -> Iterable[Step]:
    url = _server().url(folder)
    policy = FetchPolicy(attempts=1, timeout_seconds=10)

    def read(source: str | list[str]) -> None:
        for _ in stream_clips(source, clip_length=2, policy=policy):
            pass

    for source in (url, [f"{url}/one-00000.tar"]):
        yield partial(read, source)


def _make_downloads(folder: Path) -> None:
    files = folder / "files"
    files.mkdir()
    write_clip(files / "walk.mp4", source="testsrc2=size=64x48:rate=10:duration=2")
    write_hls(files)
    for path in sorted(files.iterdir()):
        _write_answers(path, folder, ranges=False)
    shutil.rmtree(files)


def _download_steps(folder: Path) -> Iterable[Step]:
    session._retry_wait = lambda n: 0.0
    url = _server().url(folder)
    options = FetchOptions(
        allow_unknown_license=True, socket_seconds=2, stall_seconds=3, retry_waits_seconds=(0.0,)
    )

    def download(name: str) -> None:
        walk = entry("walk", sources=(f"{url}/{name}",))
        report = download_videos([walk], Layout(folder / "root"), options=options)
        if report.failed:
            raise DownloadError(report.failed["walk"])

    for name in ("walk.mp4", "walk.m3u8"):
        yield partial(download, name)
        shutil.rmtree(folder / "root", ignore_errors=True)


WEB = {
    "answers": Target(_make_answers, ("*.http",), _answer_steps),
    "downloads": Target(_make_downloads, ("*.http",), _download_steps),
}
