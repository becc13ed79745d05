"""A download that dies in the middle, two at once, a disk that is full; with yt-dlp itself."""

import dataclasses
import hashlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from tests.support.forks import fork
from tests.support.http_server import Resource, serve
from tests.support.small_disk import resize, small_disk
from tests.support.video_clips import write_clip
from wtours.acquire import download
from wtours.acquire.download import DownloadReport
from wtours.acquire.options import FetchOptions
from wtours.errors import WtoursError
from wtours.text import bytes_text
from wtours.workspace.layout import Layout
from wtours.workspace.manifest import VideoEntry
from wtours.workspace.videos import downloaded_video

WAIT_SECONDS = 600  # for what would never come; a busy machine is slow


@pytest.fixture(scope="module")
def body(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return write_clip(path, filters="noise=alls=60:allf=t", crf=10).read_bytes()


@pytest.fixture
def layout(tmp_path) -> Layout:
    return Layout(tmp_path / "root")


def entry(source: str) -> VideoEntry:
    return VideoEntry(id="walk", title="A walk", sources=(source,))


def download_videos(entries, layout, **more) -> DownloadReport:
    options = FetchOptions(allow_unknown_license=True)
    return download.download_videos(entries, layout, options=options, **more)


def download_in_a_group(source: str, root: Path, done: Path) -> None:
    """Download the walk, in a process group of its own; say by a file that this process did it."""
    os.setpgid(0, 0)
    try:
        report = download_videos([entry(source)], Layout(root))
    except (KeyboardInterrupt, WtoursError):
        sys.exit(1)  # without a traceback on the terminal
    if report.done:
        done.touch()


def start_download(source: str, layout: Layout, done: str = "done") -> ForkServerProcess:
    return fork(download_in_a_group, source, layout.root, layout.root.with_name(done))


def wait_for_part(layout: Layout, at_least_bytes: int) -> Path:
    """Wait until the unfinished file has some content, and return it."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        for part in layout.video_dir("walk").glob(".partial-*/*.part"):
            if part.stat().st_size >= at_least_bytes:
                return part
        time.sleep(0.02)
    raise AssertionError("nothing was written")


def kill(process: ForkServerProcess, signal_number: int = signal.SIGKILL) -> int | None:
    assert process.pid is not None
    os.killpg(process.pid, signal_number)
    process.join(WAIT_SECONDS)
    return process.exitcode


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.medium
@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_killed_download_goes_on_to_the_same_bytes(signal_number, body, layout):
    resource = Resource(body, stall_after_bytes=len(body) // 2)
    with serve({"/x.mp4": resource}) as server:
        process = start_download(server.url("/x.mp4"), layout)
        part = wait_for_part(layout, len(body) // 4)
        assert kill(process, signal_number) not in (0, None)
        assert [p.name for p in layout.video_dir("walk").iterdir()] == [part.parent.name]
        kept = part.stat().st_size

        resource.stall_after_bytes = None
        report = download_videos([entry(server.url("/x.mp4"))], layout)
        ranges = [request.range for request in server.requests if request.range is not None]
    assert report.done == ["walk"]
    assert f"bytes={kept}-" in ranges
    assert None not in ranges
    video = downloaded_video(layout, "walk")
    assert video.sha256 == sha256(body) == sha256(video.path.read_bytes())
    assert {p.name for p in video.path.parent.iterdir()} == {
        "walk.mp4",
        "info.json",
        "receipt.json",
    }


def padded(body: bytes, size: int) -> bytes:
    """Return an mp4 with an empty box at its end, so that it has `size` bytes."""
    box = (size - len(body)).to_bytes(4, "big") + b"free"
    return body + box.ljust(size - len(body), b"\0")


@pytest.mark.medium
@pytest.mark.parametrize("told_by", ["etag", "last_modified", "size"])
def test_content_that_changed_between_two_runs_starts_over(told_by, body, tmp_path, layout):
    other = write_clip(tmp_path / "other.mp4", filters="noise=alls=50:allf=t", crf=10).read_bytes()
    size = max(len(body), len(other)) + 8
    first = Resource(padded(body, size), etag='"1"', last_modified="Mon, 01 Jan 2024 00:00:00 GMT")
    second = dataclasses.replace(first, body=padded(other, size))
    if told_by == "etag":
        second.etag = '"2"'
    elif told_by == "last_modified":
        second.last_modified = "Tue, 02 Jan 2024 00:00:00 GMT"
    else:
        second.body = padded(other, size + 8)
    first.stall_after_bytes = size // 2
    with serve({"/x.mp4": first}) as server:
        process = start_download(server.url("/x.mp4"), layout)
        wait_for_part(layout, size // 4)
        kill(process)

        server.resources["/x.mp4"] = second
        report = download_videos([entry(server.url("/x.mp4"))], layout)
    assert report.done == ["walk"]
    assert downloaded_video(layout, "walk").sha256 == sha256(second.body)


@pytest.mark.medium
def test_the_second_of_two_processes_is_told_who_holds_the_root(body, layout):
    resource = Resource(body, stall_after_bytes=len(body) // 2)
    with serve({"/x.mp4": resource}) as server:
        process = start_download(server.url("/x.mp4"), layout)
        wait_for_part(layout, 1)
        with pytest.raises(WtoursError, match=f"in use by process {process.pid}"):
            download_videos([entry(server.url("/x.mp4"))], layout)
        kill(process)


@pytest.mark.medium
def test_two_processes_at_once_leave_one_right_video(body, layout):
    with serve({"/x.mp4": Resource(body, pause_seconds=0.001)}) as server:
        names = ("first", "second")
        processes = [start_download(server.url("/x.mp4"), layout, name) for name in names]
        for process in processes:
            process.join(WAIT_SECONDS)
    ends = sorted(process.exitcode for process in processes if process.exitcode is not None)
    assert ends in ([0, 0], [0, 1])  # one after the other, or the second was refused
    assert sum(layout.root.with_name(name).exists() for name in names) == 1
    assert downloaded_video(layout, "walk").sha256 == sha256(body)


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "size=1m") as folder:
        yield folder


@pytest.mark.medium
@pytest.mark.parametrize("kind", ["url", "file"])
def test_a_file_without_room_is_refused_first_and_fetched_when_there_is_room(
    kind, body, disk, tmp_path
):
    assert len(body) > 1.5 * 2**20
    layout, size = Layout(disk / "root"), bytes_text(len(body))
    (tmp_path / "x.mp4").write_bytes(body)
    with serve({"/x.mp4": Resource(body)}) as server:
        source = server.url("/x.mp4") if kind == "url" else "file:x.mp4"
        report = download_videos([entry(source)], layout, files_dir=tmp_path)
        assert f"it needs {size}, and" in report.failed["walk"]
        assert "free some space or choose another --root" in report.failed["walk"]
        assert [p.name for p in layout.video_dir("walk").iterdir()] == ["receipt.json"]

        resize(disk, "64m")
        report = download_videos([entry(source)], layout, files_dir=tmp_path)
    assert report.done == ["walk"]
    assert downloaded_video(layout, "walk").sha256 == sha256(body)


@pytest.mark.medium
def test_a_disk_that_fills_on_the_way_ends_the_run_with_one_line(body, disk):
    layout = Layout(disk / "root")
    with serve({"/x.mp4": Resource(body, states_length=False)}) as server:
        with pytest.raises(WtoursError, match=r"disk full while writing .*free some") as error:
            download_videos([entry(server.url("/x.mp4"))], layout)
        assert "\n" not in str(error.value)
        names = {p.name for p in layout.video_dir("walk").iterdir()}
        assert all(name.startswith(".partial-") for name in names)

        resize(disk, "64m")
        report = download_videos([entry(server.url("/x.mp4"))], layout)
    assert report.done == ["walk"]
