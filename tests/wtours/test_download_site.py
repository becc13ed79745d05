"""What yt-dlp's own code does with a site's formats and licence, by a stand-in for YouTube."""

import json
import re
from typing import Any

import pytest
import yt_dlp.extractor  # fills the table that the stand-in enters
import yt_dlp.globals
from yt_dlp.extractor.common import InfoExtractor

from tests.loopback import Resource, serve
from tests.wtours.clips import write_clip
from wtours.download import download_videos
from wtours.errors import DownloadError
from wtours.fetch_options import FetchOptions
from wtours.fsio import read_json
from wtours.layout import Layout
from wtours.manifest import VideoEntry
from wtours.videos import downloaded_video
from wtours.ytdlp import YtDlpFetcher

CREATIVE_COMMONS = "Creative Commons Attribution license (reuse allowed)"


class WalkSiteIE(InfoExtractor):  # type: ignore[misc]
    """A site at http://127.0.0.1:PORT/watch whose page is the video's info in JSON."""

    IE_NAME = "walksite"
    _VALID_URL = r"http://127\.0\.0\.1:\d+/watch$"

    def _real_extract(self, url):
        return self._download_json(url, "walk")


@pytest.fixture(autouse=True)
def _site_is_known(monkeypatch):
    yt_dlp.extractor.gen_extractor_classes()
    known = {"WalkSiteIE": WalkSiteIE, **yt_dlp.globals.extractors.value}
    monkeypatch.setattr(yt_dlp.globals.extractors, "value", known)


@pytest.fixture(scope="module")
def body(tmp_path_factory) -> bytes:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4").read_bytes()


def page(server, *, license=CREATIVE_COMMONS, **info) -> Resource:
    """Return the info of a walk in five formats; only /298 and /136 lead to a file."""
    formats: list[dict[str, Any]] = [
        {"format_id": "140", "vcodec": "none", "acodec": "mp4a", "ext": "m4a"},
        {
            "format_id": "136",
            "vcodec": "avc1.4d401f",
            "acodec": "none",
            "ext": "mp4",
            "height": 720,
        },
        {
            "format_id": "298",
            "vcodec": "avc1.4d4020",
            "acodec": "none",
            "ext": "mp4",
            "height": 720,
        },
        {"format_id": "315", "vcodec": "vp9", "acodec": "none", "ext": "webm", "height": 2160},
        {"format_id": "22", "vcodec": "avc1.64001F", "acodec": "mp4a", "ext": "mp4", "height": 720},
    ]
    for row in formats:
        row["url"] = server.url(f"/{row['format_id']}")
    walk = {
        "id": "walk",
        "title": "Walk",
        "channel": "Walker",
        "license": license,
        "formats": formats,
        **info,
    }
    return Resource(json.dumps(walk).encode(), content_type="application/json")


def entry(server) -> VideoEntry:
    return VideoEntry(id="walk", title="A walk", sources=(server.url("/watch"),))


def test_720p_h264_without_sound_is_chosen_and_said(body, tmp_path):
    layout = Layout(tmp_path)
    with serve({"/298": Resource(body), "/136": Resource(body)}) as server:
        server.resources["/watch"] = page(server, license=CREATIVE_COMMONS)
        report = download_videos([entry(server)], layout)
        assert {request.path for request in server.requests} == {"/watch", "/298"}
    assert report.done == ["walk"]
    facts = downloaded_video(layout, "walk").receipt.facts
    assert facts["format_id"] == "298"
    assert facts["channel"] == "Walker"
    info = read_json(layout.video_dir("walk") / "info.json")
    assert info["vcodec"] == "avc1.4d4020"
    assert "formats" not in info


@pytest.mark.parametrize(
    ("license", "allow_unknown"),
    [(CREATIVE_COMMONS, False), (CREATIVE_COMMONS, True), (None, True)],
)
def test_an_open_or_allowed_licence_passes_and_is_recorded_with_its_time(
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
    shown = "Creative Commons Attribution license \\(reuse allowed\\) \\(on 20"
    assert ("Licence observed: " + (shown if license else "not observed")) in text


@pytest.mark.parametrize(
    ("license", "allow_unknown", "reason"),
    [
        (None, False, "it states no licence .*--allow-unknown-license"),
        ("All rights reserved", False, "'All rights reserved', not Creative Commons"),
        ("All rights reserved", True, "'All rights reserved', not Creative Commons"),
    ],
)
def test_another_licence_is_refused_before_a_byte_of_the_video(
    license, allow_unknown, reason, body, tmp_path
):
    layout = Layout(tmp_path)
    options = FetchOptions(allow_unknown_license=allow_unknown)
    with serve({"/298": Resource(body)}) as server:
        server.resources["/watch"] = page(server, license=license)
        report = download_videos([entry(server)], layout, options=options)
        assert [request.path for request in server.requests] == ["/watch"]
    assert re.search(reason, report.failed["walk"])
    assert not (tmp_path / "videos" / "ATTRIBUTION.md").exists()


def test_a_live_stream_is_left_for_later(tmp_path):
    with serve({}) as server:
        server.resources["/watch"] = page(server, is_live=True)
        with pytest.raises(DownloadError, match="is live now"):
            YtDlpFetcher()(server.url("/watch"), tmp_path, lambda done, total: None)
        assert [request.path for request in server.requests] == ["/watch"]


def test_a_file_shorter_than_the_site_says_is_not_taken(body, tmp_path):
    layout = Layout(tmp_path)
    resource = Resource(body, states_length=False)
    with serve({"/298": resource}) as server:
        site = page(server)
        site.body = site.body.replace(b'"298",', b'"298", "filesize": %d,' % (len(body) + 1))
        server.resources["/watch"] = site
        report = download_videos([entry(server)], layout)
    assert f"got {len(body)} bytes of a file of {len(body) + 1}" in report.failed["walk"]
    assert {p.name for p in layout.video_dir("walk").iterdir()} == {"receipt.json"}
