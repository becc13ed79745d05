"""The user's own walk and the user's own manifest: add, pin, phone video."""

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_youtube import known_site, page
from tests.support.http_server import Resource, serve
from tests.support.own_walk import add_one
from tests.support.video_clips import write_clip
from wtours.acquire.add_video import Claims
from wtours.acquire.download import download_videos
from wtours.errors import DownloadError, ManifestError, UsageError
from wtours.workspace.layout import Layout
from wtours.workspace.manifest import VideoEntry, load_manifest
from wtours.workspace.manifest_edit import add_video, pin_videos
from wtours.workspace.videos import downloaded_video

COMMENTED = """\
# Mine.
format = 1
name = "mine"

[[video]]   # the first
id = "one"
title = "One"  # not two
sources = ["file:one.mp4"]

[[video]]
title = 'id = "one"'
id = "two"
sha256 = "{old}"
sources = ["file:two.mp4"]

[selections]
both = ["one", "two"]
"""


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "My walk.mp4")


@pytest.fixture
def layout(tmp_path) -> Layout:
    return Layout(tmp_path / "root")


def add(source: Path | str, layout: Layout, manifest: Path, id: str = "my_walk", **claims: Any):
    return add_one(source, id, manifest, layout, claims=Claims(**claims))


def test_an_own_file_enters_a_new_manifest_with_its_facts_measured(clip, tmp_path, layout):
    manifest = tmp_path / "walks.toml"
    add(clip, layout, manifest, license_claimed="my own")
    (entry,) = load_manifest(manifest).videos
    assert entry.model_dump(exclude_defaults=True) == {
        "id": "my_walk",
        "title": "My walk",
        "sources": ("file:My walk.mp4",),
        "license_claimed": "my own",
        "sha256": hashlib.sha256(clip.read_bytes()).hexdigest(),
        "duration_seconds": 4.0,
        "frame_rate": "30/1",
        "resolution": (160, 120),
    }
    assert downloaded_video(layout, "my_walk").receipt.facts["license_observed"] is None
    assert download_videos([entry], layout).skipped == ["my_walk"]


def test_an_added_file_can_be_fetched_again_from_its_folder(clip, tmp_path, layout):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "x.mp4").write_bytes(clip.read_bytes())
    manifest = tmp_path / "walks.toml"
    add(tmp_path / "sub" / "x.mp4", layout, manifest)
    loaded = load_manifest(manifest)
    assert loaded.videos[0].sources == ("file:sub/x.mp4",)
    elsewhere = Layout(tmp_path / "elsewhere")
    report = download_videos(loaded.videos, elsewhere, files_dir=manifest.parent)
    assert report.done == ["my_walk"]


def test_a_second_walk_is_appended_and_a_taken_id_is_refused(clip, tmp_path, layout):
    manifest = tmp_path / "walks.toml"
    add(clip, layout, manifest)
    other = write_clip(tmp_path / "other.mp4", source="testsrc=size=64x48:rate=10:duration=2")
    before = manifest.read_text()
    with pytest.raises(ManifestError, match="has a video 'my_walk' already"):
        add(other, layout, manifest)
    with pytest.raises(UsageError, match="holds another video 'my_walk'"):
        add(other, layout, tmp_path / "another.toml")
    add(other, layout, manifest, id="second", title='A "quoted" \\ walk')
    assert manifest.read_text().startswith(before)
    first, second = load_manifest(manifest).videos
    assert (first.id, second.id) == ("my_walk", "second")
    assert second.title == 'A "quoted" \\ walk'


def test_a_url_is_added_with_the_sites_title(clip, tmp_path, layout):
    with known_site(), serve({"/298": Resource(clip.read_bytes())}) as server:
        server.resources["/watch"] = page(server, title="A\x1b[31m site's walk")
        entry = add(server.url("/watch"), layout, tmp_path / "walks.toml")
        assert entry.sources == (server.url("/watch"),)
    assert entry.title == "A site's walk"


@pytest.mark.parametrize(
    ("id", "source", "problem"),
    [
        ("My-walk", None, "id: 'My-walk' is no id: use 1 to 64 of a-z, 0-9 and _"),
        ("my_walk", "nowhere.mp4", "is no file or folder, and no http"),
        ("my_walk", "ftp://walks.example/x.mp4", "is no file or folder, and no http"),
    ],
)
def test_what_cannot_be_added_is_refused_in_one_line(id, source, problem, clip, tmp_path, layout):
    manifest = tmp_path / "walks.toml"
    with pytest.raises(UsageError, match=problem):
        add(source or clip, layout, manifest, id=id)
    assert not manifest.exists()
    assert not layout.root.exists()


def test_a_builtin_manifest_takes_nothing(clip, layout):
    with pytest.raises(ManifestError, match="comes with wtours"):
        add(clip, layout, Path("demo"))
    with pytest.raises(ManifestError, match="comes with wtours"):
        pin_videos(load_manifest().path, {"venice": "0" * 64})


def test_a_phone_video_turned_by_its_flag_is_upright(tmp_path, layout):
    flat = write_clip(tmp_path / "flat.mp4")
    turned = tmp_path / "turned.mov"
    rotate(flat, turned)
    entry = add(turned, layout, tmp_path / "walks.toml")
    assert entry.resolution == (120, 160)


def rotate(source: Path, path: Path) -> None:
    """Copy a video with the flag of a phone held upright."""
    import imageio_ffmpeg

    program = imageio_ffmpeg.get_ffmpeg_exe()
    command = [program, "-display_rotation", "90", "-i", source, "-c", "copy", path]
    subprocess.run(command, check=True, capture_output=True)


def test_a_phone_video_of_variable_frame_rate_is_taken(tmp_path, layout):
    path = write_clip(
        tmp_path / "vfr.mp4", filters="select='lt(n,60)+not(mod(n,5))'", fps_mode="vfr"
    )
    entry = add(path, layout, tmp_path / "walks.toml")
    assert entry.duration_seconds == pytest.approx(4.0, abs=0.2)


def test_a_phone_video_in_hdr_is_refused_with_the_command_that_converts_it(tmp_path, layout):
    hlg = "setparams=color_trc=arib-std-b67:color_primaries=bt2020:colorspace=bt2020nc"
    path = write_clip(tmp_path / "hdr.mp4", filters=hlg, pix_fmt="yuv420p10le")
    with pytest.raises(DownloadError, match=r"is HDR \(HLG\); convert it .*ffmpeg -i IN .*tonemap"):
        add(path, layout, tmp_path / "walks.toml")
    assert not (tmp_path / "walks.toml").exists()


def test_pinning_changes_the_sha256_and_nothing_else(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(COMMENTED.format(old="1" * 64))
    assert pin_videos(path, {"one": "a" * 64, "two": "b" * 64}) == ["one", "two"]
    pinned = COMMENTED.format(old="b" * 64)
    last = 'sources = ["file:one.mp4"]\n'
    pinned = pinned.replace(last, f'{last}sha256 = "{"a" * 64}"\n')
    assert path.read_text() == pinned
    assert pin_videos(path, {"one": "a" * 64}) == []


def test_an_inline_list_of_videos_is_edited_too(tmp_path):
    path = tmp_path / "mine.toml"
    inline = '{id = "a", title = "A", sources = ["file:a.mp4"]}'
    path.write_text(f'format = 1\nname = "m"\nvideo = [{inline}]  # mine\n')
    add_video(path, VideoEntry(id="b", title="B", sources=("file:b.mp4",)))
    assert pin_videos(path, {"a": "a" * 64}) == ["a"]
    first, second = load_manifest(path).videos
    assert (first.sha256, second.id, second.sha256) == ("a" * 64, "b", None)
    assert "# mine" in path.read_text()


def test_a_byte_order_mark_and_windows_line_ends_stay(tmp_path):
    path = tmp_path / "mine.toml"
    text = COMMENTED.format(old="1" * 64)
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    add_video(path, VideoEntry(id="three", title="Three", sources=("file:3.mp4",)))
    pin_videos(path, {"two": "b" * 64})
    written = path.read_bytes()
    assert written.startswith(b"\xef\xbb\xbf# Mine.\r\n")
    assert written.count(b"\n") == written.count(b"\r\n") > text.count("\n")
    assert load_manifest(path).by_id["two"].sha256 == "b" * 64
    assert load_manifest(path).by_id["three"].title == "Three"


def test_a_manifest_without_a_last_line_end_takes_a_video(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(COMMENTED.format(old="1" * 64).rstrip())
    add_video(path, VideoEntry(id="three", title="Three", sources=("file:3.mp4",)))
    assert list(load_manifest(path).by_id) == ["one", "two", "three"]


def test_a_link_to_a_manifest_stays_a_link(tmp_path):
    (tmp_path / "kept").mkdir()
    real, link = tmp_path / "kept" / "real.toml", tmp_path / "mine.toml"
    real.write_text(COMMENTED.format(old="1" * 64))
    link.symlink_to(real)
    pin_videos(link, {"two": "b" * 64})
    assert link.is_symlink()
    assert "b" * 64 in real.read_text()


def test_no_message_has_a_temporary_name(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(COMMENTED.format(old="1" * 64))
    entry = VideoEntry(id="both", title="A selection has that name", sources=("file:a.mp4",))
    with pytest.raises(ManifestError, match="selection both has the name") as error:
        add_video(path, entry)
    assert str(error.value).startswith(f"{path}: ")
    assert ".tmp-" not in str(error.value)
    assert path.read_text() == COMMENTED.format(old="1" * 64)


@pytest.mark.medium
def test_many_adds_at_once_lose_no_entry(tmp_path):
    path = tmp_path / "mine.toml"
    code = (
        "import sys; from pathlib import Path\n"
        "from wtours.workspace.manifest import VideoEntry\n"
        "from wtours.workspace.manifest_edit import add_video\n"
        "for n in range(5):\n"
        "    id = f'{sys.argv[1]}_{n}'\n"
        "    entry = VideoEntry(id=id, title=id, sources=('file:x.mp4',))\n"
        f"    add_video(Path({str(path)!r}), entry)\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, f"p{n}"]) for n in range(4)]
    assert [process.wait(timeout=600) for process in processes] == [0] * 4
    assert set(load_manifest(path).by_id) == {f"p{p}_{n}" for p in range(4) for n in range(5)}
