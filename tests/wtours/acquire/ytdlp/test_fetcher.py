"""What yt-dlp's own code does with a site's formats and license, by a stand-in for YouTube."""

import dataclasses
import re

import pytest

from tests.support.fake_youtube import CREATIVE_COMMONS, known_site, page, video_format
from tests.support.hls import PLAYLIST, write_hls
from tests.support.http_server import Resource, serve
from tests.support.video_clips import write_clip
from wtours.acquire.download import download_videos
from wtours.acquire.options import FetchOptions
from wtours.acquire.ytdlp.fetcher import YtDlpFetcher
from wtours.errors import DownloadError, UsageError
from wtours.media.file_types import Codec
from wtours.storage.atomic import read_json
from wtours.storage.receipts import read_receipt
from wtours.workspace.layout import Layout
from wtours.workspace.manifest import VideoEntry
from wtours.workspace.videos import downloaded_video

pytestmark = pytest.mark.medium  # whole stages: left out of the inner loop


@pytest.fixture(autouse=True)
def _site_is_known():
    with known_site():
        yield


@pytest.fixture(scope="module")
def body(tmp_path_factory) -> bytes:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4").read_bytes()


def entry(server, id: str = "walk", path: str = "/watch") -> VideoEntry:
    return VideoEntry(id=id, title="A walk", sources=(server.url(path),))


def test_720p_h264_without_sound_is_chosen_and_said(body, tmp_path):
    layout = Layout(tmp_path)
    chosen = []
    with serve({"/298": Resource(body)}) as server:
        server.resources["/watch"] = page(server)
        report = download_videos(
            [entry(server)], layout, on_selected=lambda *choice: chosen.append(choice)
        )
        assert {request.path for request in server.requests} == {"/watch", "/298"}
    assert report.done == ["walk"]
    ((video_id, choice),) = chosen
    assert video_id == "walk"
    assert choice.describe() == "1280x720, 60 fps, avc1.4d4020, format 298"
    assert choice.bytes == len(body)
    assert not choice.is_estimate
    facts = downloaded_video(layout, "walk").receipt.facts
    assert facts["format_id"] == "298"
    assert facts["channel"] == "Walker"
    info = read_json(layout.video_dir("walk") / "info.json")
    assert info["vcodec"] == "avc1.4d4020"
    assert "formats" not in info


@pytest.mark.parametrize(
    ("max_height", "codec", "format_id"),
    [
        (720, None, "298"),
        (719, None, None),
        (1080, None, "299"),
        (2160, None, "315"),  # H.264 ends at 1080 lines; never HDR
        (4320, None, "315"),
        (720, Codec.VP9, "302"),
        (2160, Codec.AV1, "401"),
        (2160, Codec.H264, "299"),
        (720, Codec.AV1, None),
    ],
)
def test_the_largest_picture_within_the_limits_is_chosen(max_height, codec, format_id, tmp_path):
    options = FetchOptions(max_height=max_height, codec=codec)
    with serve({}) as server:
        server.resources["/watch"] = page(server)
        fetcher = YtDlpFetcher(options)
        if format_id is None:
            with pytest.raises(DownloadError, match="no format is within --max-height and of --co"):
                fetcher.choose(server.url("/watch"), tmp_path)
        else:
            assert fetcher.choose(server.url("/watch"), tmp_path).format_id == format_id


@pytest.mark.parametrize(
    ("license", "allow_unknown"),
    [(CREATIVE_COMMONS, False), (CREATIVE_COMMONS, True), (None, True)],
)
def test_an_open_or_allowed_license_passes_and_is_recorded_with_its_time(
    license, allow_unknown, body, tmp_path
):
    layout = Layout(tmp_path)
    options = FetchOptions(allow_unknown_license=allow_unknown)
    with serve({"/298": Resource(body)}) as server:
        server.resources["/watch"] = page(server, license=license)
        report = download_videos([entry(server)], layout, options=options)
    assert report.done == ["walk"]
    facts = downloaded_video(layout, "walk").receipt.facts
    assert facts["license_observed"] == license
    assert facts["license_observed_at"].startswith("20")
    text = (tmp_path / "videos" / "ATTRIBUTION.md").read_text()
    assert "- Channel: Walker" in text
    shown = r"Creative Commons Attribution license \(reuse allowed\) \(on 20"
    assert ("License observed: " + (shown if license else "not observed")) in text


@pytest.mark.parametrize(
    ("license", "allow_unknown", "reason"),
    [
        (None, False, "it states no license .*--allow-unknown-license"),
        ("All rights reserved", False, "'All rights reserved', not Creative Commons"),
        ("All rights reserved", True, "'All rights reserved', not Creative Commons"),
    ],
)
def test_another_license_is_refused_before_a_byte_of_the_video(
    license, allow_unknown, reason, body, tmp_path
):
    options = FetchOptions(allow_unknown_license=allow_unknown)
    with serve({"/298": Resource(body)}) as server:
        server.resources["/watch"] = page(server, license=license)
        report = download_videos([entry(server)], Layout(tmp_path), options=options)
        assert [request.path for request in server.requests] == ["/watch"]
    assert re.search(reason, report.failed["walk"])
    assert not (tmp_path / "videos" / "ATTRIBUTION.md").exists()


def test_a_hostile_title_does_no_harm_in_the_attribution(body, tmp_path):
    hostile = "\x1b[2J<script>alert(1)</script>\n# [x](javascript:y)\u202e"
    with serve({"/298": Resource(body)}) as server:
        server.resources["/watch"] = page(server, title=hostile, channel=hostile)
        assert download_videos([entry(server)], Layout(tmp_path)).done == ["walk"]
    text = (tmp_path / "videos" / "ATTRIBUTION.md").read_text()
    assert text.replace("\n", "").isprintable()
    assert "<script" not in text.replace("\\<", "")
    assert len(re.findall("^#", text, re.MULTILINE)) == 2


@pytest.mark.parametrize(
    ("says", "status", "remedy"),
    [
        ("Private video. Sign in if you've been granted access", "failed_permanent", "is gone"),
        ("Video unavailable. This video has been removed", "failed_permanent", "is gone"),
        ("Sign in to confirm your age", "failed_transient", "--cookies-from-browser"),
        ("Sign in to confirm you're not a bot", "failed_transient", "--cookies-from-browser"),
        ("This live event will begin in 3 hours", "failed_transient", "is not there yet"),
    ],
)
def test_what_the_site_refuses_is_told_with_a_remedy_and_the_others_go_on(
    says, status, remedy, body, tmp_path
):
    layout = Layout(tmp_path)
    with serve({"/298": Resource(body)}) as server:
        server.resources["/watch/bad"] = page(server, says=says)
        server.resources["/watch/good"] = page(server)
        entries = [entry(server, "bad", "/watch/bad"), entry(server, "good", "/watch/good")]
        report = download_videos(entries, layout)
    assert report.done == ["good"]
    assert remedy in report.failed["bad"]
    receipt = read_receipt(layout.video_receipt("bad"))
    assert receipt is not None
    assert receipt.status == status


def test_a_live_stream_is_left_for_later(tmp_path):
    with serve({}) as server:
        server.resources["/watch"] = page(server, is_live=True)
        with pytest.raises(DownloadError, match="is live now"):
            YtDlpFetcher()(server.url("/watch"), tmp_path, lambda done, total: None)
        assert [request.path for request in server.requests] == ["/watch"]


def test_a_file_shorter_than_the_site_says_is_not_taken(body, tmp_path):
    layout = Layout(tmp_path)
    with serve({"/298": Resource(body, states_length=False)}) as server:
        form = video_format("298", "avc1", 720, url=server.url("/298"), filesize=len(body) + 1)
        server.resources["/watch"] = page(server, formats=[form])
        report = download_videos([entry(server)], layout)
    assert f"got {len(body)} bytes of a file of {len(body) + 1}" in report.failed["walk"]
    assert {p.name for p in layout.video_dir("walk").iterdir()} == {"receipt.json"}


def test_a_video_of_another_length_than_the_site_says_is_not_taken(body, tmp_path):
    with serve({"/298": Resource(body)}) as server:
        server.resources["/watch"] = page(server, duration=600)
        report = download_videos([entry(server)], Layout(tmp_path))
    assert "it lasts 4.0 s, the source says 600.0 s" in report.failed["walk"]


def test_an_address_that_has_run_out_is_looked_up_once_more(body, tmp_path):
    gone_once = Resource(body, failing_statuses=[403, 403])  # to HEAD and GET
    with serve({"/298": gone_once}) as server:
        server.resources["/watch"] = page(server)
        report = download_videos([entry(server)], Layout(tmp_path))
        paths = [request.path for request in server.requests if request.method == "GET"]
    assert report.done == ["walk"]
    assert paths == ["/watch", "/298", "/watch", "/298"]


def test_an_address_that_stays_refused_is_looked_up_only_twice(body, tmp_path):
    with serve({"/298": Resource(body, failing_statuses=[403] * 99)}) as server:
        server.resources["/watch"] = page(server)
        report = download_videos([entry(server)], Layout(tmp_path))
        assert [request.path for request in server.requests].count("/watch") == 2
    assert "HTTP Error 403" in report.failed["walk"]
    assert "permanent" not in report.failed["walk"]


def test_every_request_of_a_playlist_has_the_headers_that_the_site_wants(tmp_path):
    (tmp_path / "hls").mkdir()
    with serve(write_hls(tmp_path / "hls")) as server:
        wanted = {"Referer": server.url("/watch")}
        form = video_format("1", "avc1", 720, url=server.url(PLAYLIST), protocol="m3u8_native")
        server.resources["/watch"] = page(server, formats=[form | {"http_headers": wanted}])
        report = download_videos([entry(server)], Layout(tmp_path / "root"))
        asked = [request for request in server.requests if request.path != "/watch"]
    assert report.done == ["walk"], report
    assert {request.headers.get("Referer") for request in asked} == {*wanted.values()}


@pytest.mark.parametrize("protocol", ["rtmp", "mms", "rtsp"])
def test_protocols_for_which_ytdlp_starts_programs_are_refused(protocol, tmp_path):
    with serve({}) as server:
        url = f"{protocol}://127.0.0.1/x"
        form = video_format("1", "avc1", 720, url=url, protocol=protocol)
        server.resources["/watch"] = page(server, formats=[form])
        report = download_videos([entry(server)], Layout(tmp_path))
    assert f"is served by {protocol}; only http and https" in report.failed["walk"]


def test_the_same_host_is_asked_with_the_pause_between_requests(body, tmp_path):
    options = FetchOptions(sleep_seconds=0.3, jobs=2)
    with serve({"/298": Resource(body)}) as server:
        server.resources["/watch/a"] = server.resources["/watch/b"] = page(server)
        entries = [entry(server, id, f"/watch/{id}") for id in "ab"]
        assert download_videos(entries, Layout(tmp_path), options=options).done == ["a", "b"]
        times = [request.seconds for request in server.requests]
    assert len(times) == 6
    # A request is logged a little after it is sent, one perhaps later than the next.
    assert times[-1] - times[0] > 0.8 * 5 * options.sleep_seconds


def test_cookies_are_sent_and_the_users_file_stays_as_it_is(body, tmp_path):
    cookies = tmp_path / "cookies.txt"
    cookies.write_text(
        "# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t4102444800\tsession\tmine\n"
    )
    before = cookies.read_bytes()
    options = dataclasses.replace(FetchOptions(), cookies_file=cookies)
    layout = Layout(tmp_path / "root")
    with serve({"/298": Resource(body)}) as server:
        server.resources["/watch"] = page(server)
        assert download_videos([entry(server)], layout, options=options).done == ["walk"]
        assert {request.headers.get("Cookie") for request in server.requests} == {"session=mine"}
    assert cookies.read_bytes() == before
    for path in layout.video_dir("walk").glob("*.json"):
        assert "mine" not in path.read_text()


def test_cookies_of_another_format_are_refused_by_the_name_of_their_file(body, tmp_path):
    cookies, row = tmp_path / "cookies.json", "127.0.0.1\tFALSE\t/\tFALSE\t0\tsession\tmine\n"
    options = FetchOptions(cookies_file=cookies)
    with serve({"/298": Resource(body)}) as server:
        server.resources["/watch"] = page(server)
        for text in ('[{"name": "session", "value": "mine"}]', row):
            cookies.write_text(text)
            with pytest.raises(
                UsageError, match=r"cookies\.json is no file of cookies in Netscape"
            ):
                download_videos([entry(server)], Layout(tmp_path), options=options)
        # As Windows writes it.
        cookies.write_text(f"# Netscape HTTP Cookie File\n{row}", encoding="utf-8-sig")
        assert download_videos([entry(server)], Layout(tmp_path), options=options).done == ["walk"]
        assert {request.headers.get("Cookie") for request in server.requests} == {"session=mine"}


@pytest.mark.parametrize("how", ["option", "option without a scheme", "environment"])
def test_a_proxy_is_asked_for_everything(how, body, tmp_path, monkeypatch):
    url = "http://walks.invalid/x.mp4"
    with serve({url: Resource(body)}) as proxy:
        named = proxy.url("") if how == "option" else proxy.url("").removeprefix("http://")
        if how == "environment":
            monkeypatch.setenv("http_proxy", named)
        given = None if how == "environment" else named
        options = FetchOptions(proxy=given, allow_unknown_license=True)
        walk = VideoEntry(id="walk", title="A walk", sources=(url,))
        report = download_videos([walk], Layout(tmp_path), options=options)
        assert report.done == ["walk"], report
        assert {request.path for request in proxy.requests} == {url}
