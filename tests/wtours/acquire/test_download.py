"""The download stage against a web server on this machine, with yt-dlp itself."""

import hashlib
import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from imageio_ffmpeg import get_ffmpeg_exe

from tests.support.http_server import Resource, serve
from tests.support.own_walk import add_one
from tests.support.video_clips import remux, write_clip
from wtours.acquire import download
from wtours.acquire.add_video import Claims
from wtours.acquire.download import DownloadReport
from wtours.acquire.options import FetchOptions
from wtours.errors import DownloadError, ManifestError, WtoursError
from wtours.media.file_types import Codec
from wtours.storage.receipts import read_receipt
from wtours.workspace.layout import Layout
from wtours.workspace.manifest import VideoEntry
from wtours.workspace.videos import downloaded_video

pytestmark = pytest.mark.medium  # whole stages: left out of the inner loop

WEB_PAGE = b"<!DOCTYPE html><html><body>503 busy, please come back later</body></html>"


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    # Noise makes the file large enough (about 1 MB) to be cut in the middle.
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", filters="noise=alls=40:allf=t")


@pytest.fixture
def layout(tmp_path) -> Layout:
    return Layout(tmp_path / "root")


def entry(*sources: str, id: str = "walk", **more) -> VideoEntry:
    return VideoEntry(id=id, title="A walk", sources=sources, license_claimed="CC-BY", **more)


def download_videos(entries, layout, **more) -> DownloadReport:
    """Download from a server that states no license, which is allowed here."""
    options = FetchOptions(allow_unknown_license=True, jobs=2)
    return download.download_videos(entries, layout, options=options, **more)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def published(layout: Layout, video_id: str = "walk") -> set[str]:
    return {path.name for path in layout.video_dir(video_id).iterdir()}


def test_a_direct_url_becomes_a_video_with_its_facts(clip, layout):
    seen = []
    with serve({"/x.mp4": Resource(clip.read_bytes())}) as server:
        report = download_videos(
            [entry(server.url("/x.mp4"))],
            layout,
            on_progress=lambda item, done, total: seen.append((item, done, total)),
        )
        source = server.url("/x.mp4")
    assert report.done == ["walk"]
    video = downloaded_video(layout, "walk")
    assert video.path == layout.video_dir("walk") / "walk.mp4"
    assert video.sha256 == sha256(clip.read_bytes()) == sha256(video.path.read_bytes())
    assert set(video.receipt.versions) == {"wtours", "av", "yt-dlp"}
    facts = video.receipt.facts
    assert facts.pop("license_observed_at").endswith("+00:00")
    expected = {
        "source": source,
        "license_claimed": "CC-BY",
        "license_observed": None,
        "title": "x",
        "channel": None,
        "format_id": "mp4",
        "codec": "h264",
        "container": "mov,mp4,m4a,3gp,3g2,mj2",
        "width": 160,
        "height": 120,
        "frame_rate": "30/1",
        "first_pts_us": 0,
        "last_pts_us": 3_966_667,
        "duration_us": 4_000_000,
    }
    assert {name: facts[name] for name in expected} == expected
    assert published(layout) == {"walk.mp4", "info.json", "receipt.json"}
    size = clip.stat().st_size
    assert seen[-1] == ("walk", size, size)


def test_info_json_holds_no_url_header_or_cookie(clip, layout):
    with serve({"/x.mp4?signature=secret": Resource(clip.read_bytes())}) as server:
        download_videos([entry(server.url("/x.mp4?signature=secret"))], layout)
    text = (layout.video_dir("walk") / "info.json").read_text()
    assert json.loads(text)["id"] == "x"
    for word in ("signature", "127.0.0.1", "header", "cookie", "User-Agent"):
        assert word not in text


def test_the_second_run_asks_the_server_nothing(clip, layout):
    with serve({"/x.mp4": Resource(clip.read_bytes())}) as server:
        download_videos([entry(server.url("/x.mp4"))], layout)
        before = len(server.requests)
        report = download_videos([entry(server.url("/x.mp4"))], layout)
        assert len(server.requests) == before > 0
    assert report.skipped == ["walk"]
    assert report.done == []


def test_a_video_whose_file_is_gone_is_fetched_again(clip, layout):
    with serve({"/x.mp4": Resource(clip.read_bytes())}) as server:
        download_videos([entry(server.url("/x.mp4"))], layout)
        downloaded_video(layout, "walk").path.unlink()
        report = download_videos([entry(server.url("/x.mp4"))], layout)
    assert report.done == ["walk"]


def test_one_bad_video_does_not_stop_the_others(clip, layout):
    with serve({"/good.mp4": Resource(clip.read_bytes())}) as server:
        report = download_videos(
            [
                entry(server.url("/gone.mp4"), id="gone"),
                entry(server.url("/good.mp4"), id="good"),
            ],
            layout,
        )
    assert report.done == ["good"]
    assert list(report.failed) == ["gone"]
    assert "HTTP Error 404" in report.failed["gone"]
    assert "use another source" in report.failed["gone"]
    receipt = read_receipt(layout.video_receipt("gone"))
    assert receipt is not None
    assert receipt.status == "failed_permanent"


def test_sources_are_tried_in_order_and_the_receipt_names_the_one_that_served(clip, layout):
    with serve({"/mirror.mp4": Resource(clip.read_bytes())}) as server:
        report = download_videos(
            [entry(server.url("/gone.mp4"), server.url("/mirror.mp4"))], layout
        )
        mirror = server.url("/mirror.mp4")
    assert report.done == ["walk"]
    assert downloaded_video(layout, "walk").receipt.facts["source"] == mirror


def test_when_every_source_fails_the_message_has_each_reason(layout):
    with serve({"/page.mp4": Resource(WEB_PAGE)}) as server:
        report = download_videos([entry(server.url("/gone.mp4"), server.url("/page.mp4"))], layout)
    message = report.failed["walk"]
    assert "source 1: " in message
    assert "404" in message
    assert "source 2: " in message
    assert "web page" in message
    assert "\n" not in message


def test_a_server_that_is_busy_at_first_is_asked_again(clip, layout):
    resource = Resource(clip.read_bytes(), failing_statuses=[503])
    with serve({"/x.mp4": resource}) as server:
        report = download_videos([entry(server.url("/x.mp4"))], layout)
        assert [request.status for request in server.requests[:2]] == [503, 200]
    assert report.done == ["walk"]


def test_dropped_connections_are_taken_up_where_they_broke(clip, layout):
    body = clip.read_bytes()
    resource = Resource(body, drop_after_bytes=len(body) * 2 // 3)
    with serve({"/x.mp4": resource}) as server:
        report = download_videos([entry(server.url("/x.mp4"))], layout)
        ranges = [request.range for request in server.requests if request.status == 206]
    assert report.done == ["walk"]
    assert ranges
    assert all(asked and int(asked[6:-1]) > 0 for asked in ranges)
    assert downloaded_video(layout, "walk").sha256 == sha256(body)


@pytest.mark.parametrize("content_type", ["video/mp4", "text/html; charset=utf-8"])
def test_a_web_page_named_mp4_is_not_a_video(content_type, layout):
    with serve({"/x.mp4": Resource(WEB_PAGE, content_type=content_type)}) as server:
        report = download_videos([entry(server.url("/x.mp4"))], layout)
    (message,) = report.failed.values()
    assert "web page" in message or "there is no video at this URL" in message
    assert "\n" not in message
    assert published(layout) == {"receipt.json"}


def test_a_body_that_ends_early_without_a_length_is_not_taken(clip, layout):
    body = clip.read_bytes()
    resource = Resource(body, states_length=False, drop_after_bytes=len(body) // 2)
    with serve({"/x.mp4": resource}) as server:
        report = download_videos([entry(server.url("/x.mp4"))], layout)
    assert "cut or damaged" in report.failed["walk"] or "cannot be opened" in report.failed["walk"]
    assert published(layout) == {"receipt.json"}


def test_a_given_folder_is_searched_by_id_and_by_youtube_id(clip, tmp_path, layout):
    given = tmp_path / "given"
    given.mkdir()
    (given / "venice.MP4").write_bytes(clip.read_bytes())
    remux(clip, given / "Zurich, a walk [_NmYvuEILw4].mkv")
    entries = [
        entry("https://www.youtube.com/watch?v=fGX0Te6pFvk", id="venice"),
        entry("https://www.youtube.com/watch?v=_NmYvuEILw4", id="zurich"),
        entry("https://www.youtube.com/watch?v=E07rTPgIvn0", id="amsterdam"),
    ]
    report = download_videos(entries, layout, from_dir=given)
    assert report.done == ["venice", "zurich"]
    assert downloaded_video(layout, "venice").path.name == "venice.mp4"
    assert downloaded_video(layout, "zurich").path.name == "zurich.mkv"
    facts = downloaded_video(layout, "zurich").receipt.facts
    assert facts["source"] == "file:Zurich, a walk [_NmYvuEILw4].mkv"
    assert facts["license_observed_at"] is None
    assert "no file for it in" in report.failed["amsterdam"]


def test_a_given_file_of_another_codec_than_was_insisted_on_is_refused(clip, tmp_path, layout):
    (tmp_path / "walk.mp4").write_bytes(clip.read_bytes())
    walk = entry("https://example.org/x")
    for codec, done in ((Codec.AV1, []), (Codec.H264, ["walk"])):
        options = FetchOptions(codec=codec)
        report = download.download_videos([walk], layout, from_dir=tmp_path, options=options)
        assert report.done == done
        if not done:
            assert report.failed["walk"].endswith(
                "walk.mp4: it is h264, and --codec av1 was asked for; drop --codec, or give a file "
                "of av1"
            )
            assert not list(layout.video_dir("walk").glob("*.mp4"))


def test_two_files_that_both_fit_are_refused(clip, tmp_path, layout):
    for name in ("walk.mp4", "walk.mkv"):
        (tmp_path / name).write_bytes(clip.read_bytes())
    report = download_videos([entry("https://example.org/x")], layout, from_dir=tmp_path)
    assert "several files" in report.failed["walk"]
    assert "walk.mkv, walk.mp4" in report.failed["walk"]


def test_a_file_source_is_copied_from_the_manifests_folder(clip, tmp_path, layout):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a walk.mp4").write_bytes(clip.read_bytes())
    report = download_videos([entry("file:sub/a walk.mp4")], layout, files_dir=tmp_path)
    assert report.done == ["walk"]
    assert downloaded_video(layout, "walk").sha256 == sha256(clip.read_bytes())
    assert published(layout) == {"walk.mp4", "info.json", "receipt.json"}


def test_a_file_source_cannot_leave_its_folder(clip, tmp_path, layout):
    outside, inside = tmp_path / "secret.mp4", tmp_path / "inside"
    outside.write_bytes(clip.read_bytes())
    inside.mkdir()
    (inside / "link.mp4").symlink_to(outside)
    (inside / "folder").symlink_to(tmp_path, target_is_directory=True)
    for name in ("link.mp4", "folder/secret.mp4"):
        report = download_videos([entry(f"file:{name}")], layout, files_dir=inside)
        assert "leads outside" in report.failed["walk"]
        assert published(layout) == {"receipt.json"}


def test_the_file_must_have_the_sha256_and_the_length_that_the_manifest_demands(
    clip, tmp_path, layout
):
    (tmp_path / "x.mp4").write_bytes(clip.read_bytes())
    right = sha256(clip.read_bytes())
    for demand, message in (
        ({"sha256": "0" * 64}, f"its sha256 is {right}, and 0000"),
        ({"duration_seconds": 7.0}, "it lasts 4.0 s, the manifest expects 7.0 s"),
    ):
        report = download_videos([entry("file:x.mp4", **demand)], layout, files_dir=tmp_path)
        assert message in report.failed["walk"]
        assert published(layout) == {"receipt.json"}
    good = entry("file:x.mp4", sha256=right, duration_seconds=4.5)
    assert download_videos([good], layout, files_dir=tmp_path).done == ["walk"]


def test_a_changed_sha256_in_the_manifest_fetches_again(clip, tmp_path, layout):
    (tmp_path / "x.mp4").write_bytes(clip.read_bytes())
    download_videos([entry("file:x.mp4")], layout, files_dir=tmp_path)
    other = remux(clip, tmp_path / "other.mkv")
    demanded = entry("file:other.mkv", sha256=sha256(other.read_bytes()))
    (layout.video_dir("walk") / "walk.gpx").write_text("the user's")
    assert download_videos([demanded], layout, files_dir=tmp_path).done == ["walk"]
    assert published(layout) == {"walk.mkv", "walk.gpx", "info.json", "receipt.json"}


def test_a_sha256_that_nobody_serves_does_not_cost_the_file_that_is_there(clip, tmp_path, layout):
    (tmp_path / "x.mp4").write_bytes(clip.read_bytes())
    download_videos([entry("file:x.mp4")], layout, files_dir=tmp_path)
    mistaken = entry("file:x.mp4", sha256="0" * 64)
    assert "0000" in download_videos([mistaken], layout, files_dir=tmp_path).failed["walk"]
    (tmp_path / "x.mp4").unlink()
    assert download_videos([entry("file:x.mp4")], layout, files_dir=tmp_path).skipped == ["walk"]


def test_a_run_after_one_that_was_killed_writes_the_attribution(clip, tmp_path, layout):
    (tmp_path / "x.mp4").write_bytes(clip.read_bytes())
    download_videos([entry("file:x.mp4")], layout, files_dir=tmp_path)
    attribution = layout.videos_dir / "ATTRIBUTION.md"
    text = attribution.read_bytes()
    attribution.unlink()
    assert download_videos([entry("file:x.mp4")], layout, files_dir=tmp_path).skipped == ["walk"]
    assert attribution.read_bytes() == text


@pytest.mark.parametrize("kind", ["text", "empty", "cut mp4", "cut mkv"])
def test_what_is_no_whole_video_gets_no_final_name(kind, clip, tmp_path, layout):
    whole = remux(clip, tmp_path / "whole.mkv") if kind == "cut mkv" else clip
    body = {"text": b"this is a text\n" * 1000, "empty": b""}.get(
        kind, whole.read_bytes()[: whole.stat().st_size // 2]
    )
    name = f"x{whole.suffix}"
    (tmp_path / name).write_bytes(body)
    report = download_videos([entry(f"file:{name}")], layout, files_dir=tmp_path)
    message = report.failed["walk"]
    assert re.match(rf"{name}[: ]", message)
    assert message.count(name) == 1
    assert "\n" not in message
    assert published(layout) == {"receipt.json"}


@pytest.mark.parametrize("kind", ["sound alone", "a picture"])
def test_a_file_without_a_film_gets_no_final_name(kind, tmp_path, layout):
    path = tmp_path / "x.mp4"
    if kind == "a picture":
        gray = np.full((48, 64, 3), 128, np.uint8)
        path.write_bytes(simplejpeg.encode_jpeg(gray))
    else:
        tone = ["-f", "lavfi", "-i", "sine=duration=3", "-c:a", "aac", "-y", str(path)]
        subprocess.run([get_ffmpeg_exe(), *tone], check=True, capture_output=True)
    report = download_videos([entry("file:x.mp4")], layout, files_dir=tmp_path)
    assert "\n" not in report.failed["walk"]
    assert report.failed["walk"].startswith("x.mp4 ")
    assert published(layout) == {"receipt.json"}


def test_what_a_killed_run_left_is_swept(clip, tmp_path, layout):
    (tmp_path / "x.mp4").write_bytes(clip.read_bytes())
    folder = layout.video_dir("walk")
    folder.mkdir(parents=True)
    (folder / ".tmp-1-walk.mp4").write_bytes(b"half")
    (folder / ".partial-0-0").mkdir()
    download_videos([entry("file:x.mp4")], layout, files_dir=tmp_path)
    assert published(layout) == {"walk.mp4", "info.json", "receipt.json"}


def test_a_manifest_cannot_name_a_path_outside(tmp_path):
    from wtours.workspace.manifest import load_manifest

    path = tmp_path / "m.toml"
    path.write_text(
        'format = 1\nname = "m"\n[[video]]\nid = "a"\ntitle = "A"\nsources = ["file:../x.mp4"]\n'
    )
    with pytest.raises(ManifestError, match="inside the given folder"):
        load_manifest(path)


def test_a_root_that_is_in_use_names_the_process(layout):
    from wtours.storage.locks import lock

    with (
        lock(layout.lock("download"), what="x"),
        pytest.raises(WtoursError, match=f"is in use by process {os.getpid()}"),
    ):
        download_videos([entry("file:x.mp4")], layout)


def test_a_folder_that_cannot_be_made_and_a_name_that_is_no_text_cost_one_video_each(
    clip, tmp_path, layout
):
    given = tmp_path / "given"
    given.mkdir()
    (given / "good.mp4").write_bytes(clip.read_bytes())
    name = os.fsdecode(b"\xff [fGX0Te6pFvk].mp4")
    (given / name).write_bytes(clip.read_bytes())
    layout.videos_dir.mkdir(parents=True)
    layout.video_dir("file").write_bytes(b"")
    entries = [
        entry("file:good.mp4", id="file"),
        entry("https://www.youtube.com/watch?v=fGX0Te6pFvk", id="name"),
        entry("file:good.mp4", id="good"),
    ]
    report = download_videos(entries, layout, from_dir=given)
    assert report.done == ["good"]
    assert "file: a file where a folder should be" in report.failed["file"]
    assert "is not UTF-8; rename the file" in report.failed["name"]
    for reason in report.failed.values():
        reason.encode()


def test_an_added_url_shows_its_secrets_nowhere_but_to_the_server(clip, tmp_path, layout):
    with serve({"/x.mp4?token=t0psecret": Resource(clip.read_bytes())}) as server:
        url = server.url("/x.mp4?token=t0psecret")
        options = FetchOptions(allow_unknown_license=True)
        add_one(url, "x", tmp_path / "w.toml", layout, options=options)
    text = (tmp_path / "w.toml").read_text()
    assert "?token=REDACTED" in text
    assert "t0psecret" not in text


def test_a_url_that_differs_in_what_is_hidden_is_not_taken_for_the_video_that_is_there(
    clip, tmp_path, layout
):
    other = write_clip(tmp_path / "other.mp4", source="testsrc=size=96x64:rate=10:duration=2")
    manifest, options = tmp_path / "w.toml", FetchOptions(allow_unknown_license=True)
    ids = ("1" * 33, "2" * 33)  # as long as Google Drive's, and taken for secrets
    bodies = (clip.read_bytes(), other.read_bytes())
    paths = [f"/uc?export=download&id={number}" for number in ids]
    with serve({path: Resource(body) for path, body in zip(paths, bodies, strict=True)}) as server:
        one, two = map(server.url, paths)
        first = add_one(one, None, manifest, layout, options=options)
        for place in (manifest, tmp_path / "empty.toml"):  # the root may have other manifests
            with pytest.raises(DownloadError, match="cannot be told from uc, which is there") as e:
                add_one(two, None, place, layout, options=options)
            assert "222" not in str(e.value)
        second = add_one(two, "second", manifest, layout, options=options)
        assert (first.id, second.id) == ("uc", "second")
        assert second.sha256 == sha256(bodies[1])
        # Given all of it, or an id, one can tell.
        assert add_one(one, "uc", manifest, layout, options=options) == first
        manifest.write_text(manifest.read_text().replace("id=REDACTED", f"id={ids[0]}", 1))
        assert add_one(one, None, manifest, layout, options=options).id == "uc"


@pytest.fixture
def two_streams(tmp_path) -> Path:
    """Return a file with two videos, as cameras with two lenses write."""
    path: Path = tmp_path / "two.mov"
    sources = [
        ("-f", "lavfi", "-i", f"testsrc=size={size}:rate=10:duration=2")
        for size in ("160x120", "96x64")
    ]
    inputs = [word for source in sources for word in source]
    command = [get_ffmpeg_exe(), "-v", "error", *inputs, "-map", "0", "-map", "1", str(path)]
    subprocess.run(command, check=True)
    return path


def test_another_stream_of_a_file_that_is_there_is_another_video(two_streams, tmp_path, layout):
    manifest = tmp_path / "w.toml"
    first = add_one(two_streams, None, manifest, layout)
    second = add_one(two_streams, None, manifest, layout, claims=Claims(stream=1))
    assert [first.resolution, second.resolution] == [(160, 120), (96, 64)]
    assert (first.id, second.id) == ("two", "two_2")
    for stream, known in ((None, first), (0, first), (1, second)):
        again = add_one(two_streams, None, manifest, layout, claims=Claims(stream=stream))
        assert again == known
    with pytest.raises(ManifestError, match="choose another --id"):
        add_one(two_streams, "two", manifest, layout, claims=Claims(stream=1))


def test_a_video_that_is_there_with_another_stream_is_not_taken_for_the_one_asked_for(
    two_streams, tmp_path, layout
):
    def download(stream):
        wanted = entry(f"file:{two_streams.name}", stream=stream)
        return download_videos([wanted], layout, files_dir=tmp_path)

    assert download(None).done == ["walk"]
    assert download(0).skipped == ["walk"]
    assert (
        "with stream 0 of its file, and the manifest asks for stream 1"
        in (download(1).failed["walk"])
    )
    assert download(None).skipped == ["walk"]
