"""Servers that leave holes, lie about sizes, send without end or lead elsewhere; with yt-dlp."""

import dataclasses
import gc
import gzip
import json
import logging
import re
from pathlib import Path

import ffmpeg
import imageio_ffmpeg
import pytest

from tests.support.command_line import exit_code_of
from tests.support.fake_youtube import known_site
from tests.support.hls import NUM_FRAGMENTS, PLAYLIST, write_hls
from tests.support.http_server import Resource, serve
from tests.support.video_clips import remux, write_clip
from wtours.acquire import options as limits
from wtours.acquire.download import DownloadReport, download_videos
from wtours.acquire.options import FetchOptions
from wtours.acquire.ytdlp.fetcher import YtDlpFetcher
from wtours.cli.console import LogHandler
from wtours.media.probe import probe_video
from wtours.workspace.layout import Layout
from wtours.workspace.manifest import VideoEntry
from wtours.workspace.videos import downloaded_video

pytestmark = [
    pytest.mark.medium,  # whole stages: left out of the inner loop
    # yt-dlp leaves the joined file open when a fragment fails.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

OPTIONS = FetchOptions(allow_unknown_license=True, jobs=2, retry_waits_seconds=())
FRAGMENTED = "frag_keyframe+empty_moov+default_base_moof+skip_trailer"


@pytest.fixture(autouse=True)
def _no_waits_between_retries(monkeypatch):
    monkeypatch.setattr("wtours.acquire.ytdlp.session._retry_wait", lambda n: 0.0)
    yield
    gc.collect()  # here, where the warning is expected


@pytest.fixture
def layout(tmp_path) -> Layout:
    return Layout(tmp_path / "root")


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return write_clip(
        tmp_path_factory.mktemp("clip") / "clip.mp4",
        source="testsrc2=size=160x120:rate=30:duration=10",
        filters="noise=alls=40:allf=t",
    )


def download(
    urls: dict[str, str], layout: Layout, options: FetchOptions = OPTIONS, **more
) -> DownloadReport:
    entries = [VideoEntry(id=id, title=id, sources=(url,), **more) for id, url in urls.items()]
    return download_videos(entries, layout, options=options)


def require_refused(report: DownloadReport, layout: Layout, reason: str) -> None:
    assert list(report.failed) == ["bad"]
    assert reason in report.failed["bad"]
    assert "\n" not in report.failed["bad"]
    names = {path.name for path in layout.video_dir("bad").iterdir()}
    assert not {name for name in names if name.startswith("bad")}


@pytest.fixture(scope="module", params=["mpegts", "fmp4"])
def stream(request, tmp_path_factory) -> dict[str, Resource]:
    return write_hls(tmp_path_factory.mktemp("hls"), kind=request.param)


def suffix_of(stream: dict[str, Resource]) -> str:
    return "m4s" if "/init.mp4" in stream else "ts"


def test_a_whole_hls_stream_is_taken(stream, layout):
    with serve(dict(stream)) as server:
        report = download({"good": server.url(PLAYLIST)}, layout)
    assert report.done == ["good"]
    path = downloaded_video(layout, "good").path
    assert probe_video(path).duration_us == NUM_FRAGMENTS * 1_000_000


def test_an_hls_stream_of_sound_alone_is_no_video(layout, tmp_path):
    sound = ffmpeg.input(f"sine=duration={NUM_FRAGMENTS}", format="lavfi")
    output = sound.output(str(tmp_path / "walk.m3u8"), f="hls", hls_time=1, hls_list_size=0)
    ffmpeg.run(output, cmd=imageio_ffmpeg.get_ffmpeg_exe(), quiet=True)
    resources = {f"/{p.name}": Resource(p.read_bytes()) for p in tmp_path.glob("walk*")}
    with serve(resources) as server:
        report = download({"bad": server.url(PLAYLIST)}, layout)
    require_refused(report, layout, "/walk.m3u8: the file has no video stream")


HOLES = ("missing", "empty", "web page", "cut", "of another stream", "without a length")


@pytest.mark.parametrize("number", [3, NUM_FRAGMENTS - 1])
@pytest.mark.parametrize("hole", HOLES)
def test_an_hls_stream_with_a_hole_is_refused_and_the_others_go_on(
    hole, number, stream, clip, layout
):
    resources = dict(stream)
    name = f"/walk{number}.{suffix_of(stream)}"
    body = resources.pop(name).body
    if hole != "missing":
        bodies = {
            "empty": b"",
            "web page": b"<html>come back later</html>",
            "cut": body[: len(body) // 2],
            "of another stream": stream[f"/walk0.{suffix_of(stream)}"].body,
            "without a length": body,
        }
        resources[name] = Resource(bodies[hole], states_length=hole != "without a length")
    resources["/good.mp4"] = Resource(clip.read_bytes())
    with serve(resources) as server:
        urls = {"bad": server.url(PLAYLIST), "good": server.url("/good.mp4")}
        report = download(urls, layout)
    assert report.done == ["good"]
    require_refused(report, layout, "/walk.m3u8: ")


def write_ts(clip: Path, path: Path) -> bytes:
    return remux(clip, path).read_bytes()


def write_fragmented(clip: Path, path: Path) -> bytes:
    return remux(clip, path, movflags=FRAGMENTED).read_bytes()


def cut_of(kind: str, clip: Path, folder: Path) -> tuple[str, bytes, bytes]:
    """Return the name, the whole and a half of a container that does not say how long it is."""
    if kind == "ts":
        whole = write_ts(clip, folder / "x.ts")
        return "x.ts", whole, whole[: len(whole) // 2 // 188 * 188]
    whole = write_fragmented(clip, folder / "x.mp4")
    fragments = [found.start() for found in re.finditer(b"moof", whole)]
    return "x.mp4", whole, whole[: fragments[len(fragments) // 2] - 4]


@pytest.mark.parametrize("kind", ["ts", "fragmented mp4"])
@pytest.mark.parametrize("is_whole", [True, False])
def test_what_says_nowhere_how_long_it_is_is_refused(is_whole, kind, clip, tmp_path, layout):
    name, whole, half = cut_of(kind, clip, tmp_path)
    body = whole if is_whole else half
    with serve({f"/{name}": Resource(body, states_length=False)}) as server:
        report = download({"bad": server.url(f"/{name}")}, layout)
        require_refused(report, layout, "neither the server nor the file says how long it is")
        expected = download({"bad": server.url(f"/{name}")}, layout, duration_seconds=10.0)
    assert ("bad" in expected.done) == is_whole


@pytest.mark.parametrize("kind", ["ts", "fragmented mp4"])
def test_the_same_files_are_taken_from_a_server_that_states_their_length(
    kind, clip, tmp_path, layout
):
    name, whole, _ = cut_of(kind, clip, tmp_path)
    with serve({f"/{name}": Resource(whole)}) as server:
        assert download({"good": server.url(f"/{name}")}, layout).done == ["good"]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_a_container_that_states_its_length_needs_none_from_the_server(
    suffix, clip, tmp_path, layout
):
    path = remux(clip, tmp_path / f"x{suffix}") if suffix != ".mp4" else clip
    if suffix == ".avi":
        path = write_clip(tmp_path / "x.avi", vcodec="mpeg4")
    with serve({f"/x{suffix}": Resource(path.read_bytes(), states_length=False)}) as server:
        assert download({"good": server.url(f"/x{suffix}")}, layout).done == ["good"]


def test_a_length_that_is_no_number_and_a_host_that_is_none_cost_one_item_each(
    clip, layout, caplog
):
    caplog.set_level(logging.INFO)
    body = clip.read_bytes()
    lie = Resource(body, headers={"Content-Length": "abc"})
    with serve({"/lie.mp4": lie, "/good.mp4": Resource(body)}) as server:
        urls = {
            "lie": server.url("/lie.mp4"),
            "host": f"http://{'a' * 64}.example/x.mp4",
            "good": server.url("/good.mp4"),
        }
        report = download(urls, layout)
    assert report.done == ["good"]
    assert list(report.failed) == ["lie", "host"]
    for reason in report.failed.values():
        assert "\n" not in reason
    assert "Traceback" not in "".join(report.failed.values())


def test_what_nobody_expected_is_named_with_its_item_and_logged(
    clip, layout, tmp_path, caplog, capsys
):
    (tmp_path / "x.mp4").write_bytes(clip.read_bytes())
    caplog.set_level(logging.INFO)
    entries = [
        VideoEntry.model_construct(id="bad", title="\ud800", sources=("file:x.mp4",)),
        VideoEntry(id="good", title="good", sources=("file:x.mp4",)),
    ]
    report = download_videos(entries, layout, files_dir=tmp_path, options=OPTIONS)
    assert report.done == ["good"]
    assert report.failed["bad"].startswith("unexpected UnicodeEncodeError: ")
    assert "--verbose" in report.failed["bad"]
    (record,) = [r for r in caplog.records if r.exc_info and "bad" in r.getMessage()]
    LogHandler(names=True).emit(record)
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("declared", ["more than allowed", "more than is free"])
def test_a_declared_size_is_held_against_limit_and_disk_first(declared, clip, layout):
    body = clip.read_bytes()
    lie = Resource(body, headers={"Content-Length": str(10**15)})
    options = OPTIONS
    if declared == "more than is free":
        options = dataclasses.replace(options, max_bytes=10**16)
    with serve({"/x.mp4": lie, "/y.mp4": Resource(body)}) as server:
        report = download(
            {"bad": server.url("/x.mp4"), "good": server.url("/y.mp4")}, layout, options
        )
        methods = [request.method for request in server.requests if request.path == "/x.mp4"]
    assert report.done == ["good"]
    reason = "--max-size" if options is OPTIONS else "it needs 1000.0 TB"
    require_refused(report, layout, reason)
    assert methods.count("GET") == 1  # the look whether it is a video


def test_an_endless_body_ends_at_the_limit(clip, layout):
    options = dataclasses.replace(OPTIONS, max_bytes=20 * 2**20)
    endless = Resource(clip.read_bytes(), is_endless=True, states_length=False)
    with serve({"/x.mp4": endless}) as server:
        report = download({"bad": server.url("/x.mp4")}, layout, options)
        assert server.endless_bytes < 100 * 2**20
    require_refused(report, layout, "the server sends more than --max-size")


def test_add_has_the_limit_of_download(clip, layout, tmp_path, monkeypatch, capsys):
    with serve({"/x.mp4": Resource(clip.read_bytes())}) as server:
        words = ["add", server.url("/x.mp4"), "--id", "bad", "--allow-unknown-license"]
        words += ["--manifest", str(tmp_path / "mine.toml"), "--root", str(layout.root)]
        assert exit_code_of(monkeypatch, *words, "--max-size", "1K") == 3
        assert "raise --max-size to allow it" in capsys.readouterr().err
        assert not (tmp_path / "mine.toml").exists()
        assert not exit_code_of(monkeypatch, *words, "--max-size", "1G")


def test_an_answer_to_a_range_without_end_stops_at_the_size_that_was_stated(clip, layout):
    body = clip.read_bytes()
    resource = Resource(body)
    with serve({"/x.mp4": resource}) as server:
        url = server.url("/x.mp4")
        folder = layout.video_dir("bad")
        folder.mkdir(parents=True)
        with pytest.raises(KeyboardInterrupt):
            YtDlpFetcher(OPTIONS)(url, folder, interrupt_after_first_bytes)

        resource.is_endless = True
        report = download({"bad": url}, layout)
        assert server.endless_bytes < 100 * 2**20
    require_refused(report, layout, "more than the")


def interrupt_after_first_bytes(done: float, total: float | None) -> None:
    if done > 0:
        raise KeyboardInterrupt


@pytest.mark.parametrize("kind", ["endless", "gzip bomb"])
def test_a_page_has_a_limit_also_when_it_is_unpacked(kind, layout):
    if kind == "endless":
        resource = Resource(b'{"a": 1, ', content_type="application/json", is_endless=True)
    else:
        bomb = gzip.compress(b" " * (4 * limits.MAX_PAGE_BYTES), compresslevel=1)
        resource = Resource(bomb, headers={"Content-Encoding": "gzip"})
    with known_site(), serve({"/watch": resource}) as server:
        report = download({"bad": server.url("/watch")}, layout)
        assert server.endless_bytes < 4 * limits.MAX_PAGE_BYTES
    require_refused(report, layout, "than a page can have")


@pytest.mark.parametrize("target", ["http://127.0.0.2:{port}/x.mp4", "http://[::1]:{port}/x.mp4"])
def test_a_redirect_to_a_private_host_is_refused_without_a_request(target, clip, layout):
    with serve({"/x.mp4": Resource(clip.read_bytes())}, host="127.0.0.2") as private:
        port = private.url("").rpartition(":")[2]
        location = target.format(port=port)
        with serve({"/x.mp4": Resource(b"", location=location)}) as server:
            report = download({"bad": server.url("/x.mp4")}, layout)
        assert private.requests == []
    require_refused(report, layout, "an address of this machine or of a private network")


def test_a_private_host_that_the_manifest_names_is_asked(clip, layout):
    at_home = {"/x.mp4": Resource(clip.read_bytes())}
    with serve(at_home, host="127.0.0.2") as private, serve({}) as server:
        server.resources["/x.mp4"] = Resource(b"", location=private.url("/x.mp4"))
        entries = [
            VideoEntry(id="bad", title="x", sources=(server.url("/x.mp4"),)),
            VideoEntry(id="nas", title="x", sources=(private.url("/gone.mp4"),)),
        ]
        report = download_videos(entries, layout, options=OPTIONS)
    assert report.done == ["bad"]


def test_fragments_on_a_private_host_are_refused(layout, tmp_path):
    resources = write_hls(tmp_path)
    with serve(dict(resources), host="127.0.0.2") as private:
        playlist = resources[PLAYLIST]
        text = playlist.body.decode().replace("walk", private.url("/walk"))
        with serve({PLAYLIST: dataclasses.replace(playlist, body=text.encode())}) as server:
            report = download({"bad": server.url(PLAYLIST)}, layout)
        assert private.requests == []
    require_refused(report, layout, "an address of this machine or of a private network")


SECRETS = ("hunter2secret", "t0ken-Abc", "s1gnature")


@pytest.mark.parametrize("ends", ["done", "gone", "no video"])
def test_secrets_of_a_url_are_sent_and_shown_nowhere(ends, clip, layout, caplog, capsys):
    caplog.set_level(logging.DEBUG)
    password, token, signature = SECRETS
    path = f"/walk.mp4?token={token}&v=walk&X-Amz-Signature={signature}"
    bodies = {"done": clip.read_bytes(), "gone": b"", "no video": b"<html></html>"}
    resource = Resource(bodies[ends], failing_statuses=[404] * 9 if ends == "gone" else [])
    with serve({path: resource}) as server:
        url = server.url(path).replace("http://", f"http://walker:{password}@")
        report = download({"walk": url}, layout)
        sent = [request.headers.get("Authorization") for request in server.requests]
        assert {request.path for request in server.requests} == {path}
    assert any(sent)
    assert (report.done == ["walk"]) == (ends == "done")
    written = [p.read_text() for p in layout.root.rglob("*") if p.suffix in (".json", ".md")]
    for record in caplog.records:
        LogHandler(names=True).emit(record)
    for text in (
        *written,
        capsys.readouterr().err,
        *report.failed.values(),
        json.dumps(report.failed),
    ):
        for secret in SECRETS:
            assert secret not in text
    if ends == "done":
        source = downloaded_video(layout, "walk").receipt.facts["source"]
        assert source.endswith("?token=REDACTED&v=walk&X-Amz-Signature=REDACTED")
        assert source.startswith("http://REDACTED@127.0.0.1:")
