"""Servers that misbehave, and what lies on the disk after; with yt-dlp itself.

Drops, 503, web pages and cut bodies are in tests/wtours/acquire/test_download.py; kills, changed
content, two processes and full disks in test_download_killed.py.
"""

import dataclasses
import hashlib
import time
from pathlib import Path

import pytest

from tests.support.http_server import Resource, serve
from tests.support.video_clips import write_clip
from wtours.acquire import rate_limit as hosts
from wtours.acquire.download import download_videos
from wtours.acquire.options import FetchOptions
from wtours.acquire.ytdlp.fetcher import YtDlpFetcher
from wtours.errors import DownloadError
from wtours.workspace.layout import Layout
from wtours.workspace.manifest import VideoEntry
from wtours.workspace.videos import downloaded_video

pytestmark = pytest.mark.medium  # whole stages: left out of the inner loop

OPTIONS = FetchOptions(
    allow_unknown_license=True,
    jobs=2,
    retry_waits_seconds=(0.05,),
)


@pytest.fixture(scope="module")
def body(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return write_clip(path, filters="noise=alls=40:allf=t").read_bytes()


@pytest.fixture
def layout(tmp_path) -> Layout:
    return Layout(tmp_path / "root")


def entry(source: str, id: str = "walk") -> VideoEntry:
    return VideoEntry(id=id, title="A walk", sources=(source,))


def left(layout: Layout, video_id: str = "walk") -> set[str]:
    return {path.name for path in layout.video_dir(video_id).iterdir()}


@pytest.mark.medium
@pytest.mark.parametrize("jobs", [1, 3])
def test_a_host_that_asks_to_wait_gets_no_request_before_its_time(jobs, body, layout):
    options = dataclasses.replace(OPTIONS, jobs=jobs)
    busy = Resource(body, failing_statuses=[429], retry_after="2")
    with serve({"/a.mp4": busy, "/b.mp4": Resource(body)}) as asking, serve({}) as other:
        other.resources["/c.mp4"] = Resource(body)
        entries = [
            entry(asking.url("/a.mp4"), "a"),
            entry(asking.url("/b.mp4"), "b"),
            entry(other.url("/c.mp4"), "c"),
        ]
        report = download_videos(entries, layout, options=options)
        log, other_log = asking.requests, other.requests
    assert report.done == ["a", "b", "c"]
    refused = next(request for request in log if request.status == 429)
    later = [request for request in log if request.seconds > refused.seconds]
    # What was under way when the answer came may end; with one job nothing was.
    first = next(request for request in later if request.path == "/a.mp4" or jobs == 1)
    assert first.seconds - refused.seconds >= 2
    assert other_log[-1].seconds < first.seconds  # the other host's video did not wait


def test_a_host_that_asks_too_long_is_left_for_the_next_run(body, layout):
    busy = Resource(body, failing_statuses=[429], retry_after="7200")
    with serve({"/a.mp4": busy, "/b.mp4": Resource(body)}) as server, serve({}) as other:
        other.resources["/c.mp4"] = Resource(body)
        entries = [
            entry(server.url("/a.mp4"), "a"),
            entry(server.url("/b.mp4"), "b"),
            entry(other.url("/c.mp4"), "c"),
        ]
        options = dataclasses.replace(OPTIONS, jobs=1)
        report = download_videos(entries, layout, options=options)
        assert len(server.requests) == 1
    assert report.done == ["c"]
    for video_id in "ab":
        assert "fewer requests (HTTP Error 429), for the next 7" in report.failed[video_id]
        assert "permanent" not in report.failed[video_id]


def test_a_host_may_ask_to_wait_only_so_often(body, layout):
    busy = Resource(body, failing_statuses=[429] * 99, retry_after="0")
    with serve({"/a.mp4": busy}) as server:
        report = download_videos([entry(server.url("/a.mp4"))], layout, options=OPTIONS)
        assert len(server.requests) == hosts.MAX_REFUSALS
    assert "fewer requests" in report.failed["walk"]


def test_without_a_retry_after_the_waits_grow():
    limits = hosts.HostLimits()
    waits = []
    for _ in range(3):
        limits.refused("https://walks.example/x", None)
        with pytest.raises(hosts.HostBusyError) as error:
            limits.check("https://walks.example/y")
        waits.append(error.value.wait_seconds)
    assert waits[0] < waits[1] < waits[2] < 4 * hosts.FIRST_WAIT_SECONDS
    limits.check("https://other.example/")


def test_a_host_that_asks_too_long_stays_closed_whatever_it_answers_to_another_thread():
    limits = hosts.HostLimits()
    limits.refused("https://walks.example/x", "7200")
    limits.refused("https://walks.example/y", "5")
    with pytest.raises(DownloadError, match="for the next 7200 s; run the command again") as error:
        limits.check("https://walks.example/x")
    assert not isinstance(error.value, hosts.HostBusyError)  # else it is waited for, two hours


def test_a_retry_after_may_be_a_date():
    limits = hosts.HostLimits()
    when = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 100))
    limits.refused("https://walks.example/x", when)
    with pytest.raises(hosts.HostBusyError) as error:
        limits.before_request("https://walks.example/x")
    assert 90 < error.value.wait_seconds <= 100


@pytest.mark.medium
def test_a_server_that_sends_byte_by_byte_is_given_up_and_the_others_go_on(body, layout):
    drip = Resource(body, trickle_seconds=0.05)
    # On a busy machine the good server, too, may send nothing for a while.
    options = dataclasses.replace(OPTIONS, stall_seconds=2)
    with serve({"/slow.mp4": drip, "/good.mp4": Resource(body)}) as server:
        entries = [entry(server.url(f"/{id}.mp4"), id) for id in ("slow", "good")]
        report = download_videos(entries, layout, options=options)
    assert report.done == ["good"]
    assert "the server sent " in report.failed["slow"]
    assert "bytes in " in report.failed["slow"]
    assert "receipt.json" in left(layout, "slow")
    assert not list(layout.video_dir("slow").glob("slow.*"))


@pytest.mark.parametrize("damage", ["all", "head", "tail", "longer than the file"])
@pytest.mark.parametrize("accepts_ranges", [True, False])
def test_a_part_that_is_not_ours_is_not_gone_on_with(damage, accepts_ranges, body, layout):
    half = body[: len(body) // 2]
    foreign = {
        "all": b"x" * len(half),
        "head": b"x" * 100 + half[100:],
        "tail": half[:-100] + b"x" * 100,
        "longer than the file": body + b"x" * 100,
    }[damage]
    with serve({"/x.mp4": Resource(body, accepts_ranges=accepts_ranges)}) as server:
        make_part(server.url("/x.mp4"), layout).write_bytes(foreign)
        report = download_videos([entry(server.url("/x.mp4"))], layout, options=OPTIONS)
    assert report.done == ["walk"]
    assert downloaded_video(layout, "walk").sha256 == hashlib.sha256(body).hexdigest()
    assert left(layout) == {"walk.mp4", "info.json", "receipt.json"}


def make_part(url: str, layout: Layout) -> Path:
    """Return the unfinished file of a download that is interrupted after its first bytes."""

    def interrupt(done: float, total: float | None) -> None:
        if done > 0:
            raise KeyboardInterrupt

    folder = layout.video_dir("walk")
    folder.mkdir(parents=True)
    with pytest.raises(KeyboardInterrupt):
        YtDlpFetcher(OPTIONS)(url, folder, interrupt)
    (part,) = folder.glob(".partial-*/*.part")
    return part


@pytest.mark.parametrize(
    "playlist",
    [
        b"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile '/etc/passwd'\n",
        b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static">'
        b"<BaseURL>file:///etc/passwd</BaseURL></MPD>",
    ],
    ids=["hls", "ffconcat", "dash"],
)
@pytest.mark.parametrize("by", ["url", "file"])
def test_a_playlist_named_mp4_is_refused(by, playlist, tmp_path, layout):
    (tmp_path / "x.mp4").write_bytes(playlist)
    with serve({"/x.mp4": Resource(playlist)}) as server:
        source = server.url("/x.mp4") if by == "url" else "file:x.mp4"
        report = download_videos([entry(source)], layout, files_dir=tmp_path, options=OPTIONS)
    assert list(report.failed) == ["walk"]
    assert "root:" not in report.failed["walk"]
    assert left(layout) == {"receipt.json"}
