"""A stand-in for YouTube, for yt-dlp's own code: a page that is the video's info in JSON.

`known_site` must be active; then http://127.0.0.1:PORT/watch (or /watch/NAME) is such a page.
"""

import contextlib
import json
from collections.abc import Iterator
from typing import Any
from unittest import mock

import yt_dlp.extractor  # fills the table that the stand-in enters
import yt_dlp.globals
from yt_dlp.extractor.common import InfoExtractor
from yt_dlp.utils import ExtractorError

from tests.support.http_server import LoopbackServer, Resource

CREATIVE_COMMONS = "Creative Commons Attribution license (reuse allowed)"


class WalkSiteIE(InfoExtractor):  # type: ignore[misc]
    """Takes the page as info; its "says" is raised as an error, as YouTube's refusals are."""

    IE_NAME = "walksite"
    _VALID_URL = r"http://127\.0\.0\.1:\d+/watch(?:/\w+)?$"

    def _real_extract(self, url: str) -> Any:
        info = self._download_json(url, "walk")
        if "says" in info:
            raise ExtractorError(info["says"], expected=True)
        return info


@contextlib.contextmanager
def known_site() -> Iterator[None]:
    """Let yt-dlp know the site until the block ends."""
    yt_dlp.extractor.gen_extractor_classes()
    known = {"WalkSiteIE": WalkSiteIE, **yt_dlp.globals.extractors.value}
    with mock.patch.object(yt_dlp.globals.extractors, "value", known):
        yield


def video_format(format_id: str, vcodec: str, height: int, **more: Any) -> dict[str, Any]:
    """Return one of a page's formats, without sound."""
    form = {"format_id": format_id, "vcodec": vcodec, "acodec": "none", "height": height}
    return {**form, "width": height * 16 // 9, "ext": "mp4", "fps": 60, **more}


FORMATS = (
    {"format_id": "140", "vcodec": "none", "acodec": "mp4a", "ext": "m4a"},
    video_format("136", "avc1.4d401f", 720, fps=30),
    video_format("298", "avc1.4d4020", 720),
    video_format("302", "vp9", 720, ext="webm"),
    video_format("299", "avc1.64002a", 1080),
    video_format("315", "vp9", 2160, ext="webm"),
    video_format("401", "av01.0.13M.08", 2160),
    video_format("337", "vp9.2", 2160, ext="webm", dynamic_range="HDR10"),
    {"format_id": "22", "vcodec": "avc1.64001F", "acodec": "mp4a", "ext": "mp4", "height": 720},
)
"""As YouTube has them for a walk at 60 frames a second."""


def page(server: LoopbackServer, **info: Any) -> Resource:
    """Return the page of a walk; each format's file is at /FORMAT_ID."""
    formats = [{**row, "url": server.url(f"/{row['format_id']}")} for row in FORMATS]
    walk = {"id": "walk", "title": "Walk", "channel": "Walker", "license": CREATIVE_COMMONS}
    body = json.dumps({**walk, "formats": formats, **info}).encode()
    return Resource(body, content_type="application/json")
