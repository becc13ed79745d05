"""Proving a file whole, and finding what is downloaded."""

import json
import os
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import imageio_ffmpeg
import pytest

from tests.support.video_clips import remux, write_clip
from wtours.acquire.download import download_videos
from wtours.errors import VideoError
from wtours.media.probe import probe_video
from wtours.workspace.layout import Layout
from wtours.workspace.manifest import VideoEntry
from wtours.workspace.videos import (
    DownloadedVideo,
    FileIdentity,
    checked_identity,
    downloaded_video,
    require_same_file,
)

pytestmark = pytest.mark.medium  # whole stages: left out of the inner loop


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return write_clip(
        tmp_path_factory.mktemp("clip") / "clip.mp4",
        source="testsrc2=size=160x120:rate=30000/1001:duration=8",
        filters="noise=alls=20:allf=t",
        movflags="faststart",
    )


def cut(source: Path, path: Path, share: float) -> Path:
    path.write_bytes(source.read_bytes()[: int(source.stat().st_size * share)])
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".mov"])
def test_a_whole_video_passes_in_every_container(suffix, clip, tmp_path):
    facts = probe_video(remux(clip, tmp_path / f"x{suffix}"))
    assert facts.codec == "h264"
    assert (facts.width, facts.height) == (160, 120)
    assert facts.frame_rate == Fraction(30000, 1001)
    assert facts.duration_us == pytest.approx(240 * 1001 / 30000 * 1e6, abs=40_000)


def transcoded(source: Path, path: Path) -> Path:
    """Return `source` in a codec without reordered frames, which AVI cannot time."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", str(source)]
    subprocess.run([*command, "-c:v", "mpeg4", str(path)], check=True)
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
@pytest.mark.parametrize("share", [0.3, 0.8])
def test_a_cut_video_is_found_by_its_length(suffix, share, clip, tmp_path):
    whole = clip if suffix == ".mp4" else transcoded(clip, tmp_path / f"x{suffix}")
    assert probe_video(whole).duration_us == pytest.approx(8_008_000, abs=1000)
    with pytest.raises(VideoError, match=r"cut or damaged|cannot be opened|no frame"):
        probe_video(cut(whole, tmp_path / f"cut{suffix}", share))


def test_sound_that_outlasts_the_pictures_is_no_damage(clip, tmp_path):
    path = tmp_path / "x.mp4"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", str(clip)]
    command += ["-f", "lavfi", "-t", "12", "-i", "sine", "-map", "0:v", "-map", "1:a"]
    subprocess.run([*command, "-c:v", "copy", "-c:a", "aac", str(path)], check=True)
    assert probe_video(path).duration_us == pytest.approx(8_008_000, abs=1000)


def test_a_video_of_one_frame_a_second_is_whole(tmp_path):
    path = write_clip(tmp_path / "x.mp4", source="testsrc2=size=64x64:rate=1/2:duration=10")
    facts = probe_video(path)
    assert facts.last_pts_us == 8_000_000
    assert facts.duration_us == 10_000_000


def test_real_videos_are_whole(data_dir):
    for path in sorted((data_dir / "videos").iterdir()):
        if path.suffix != ".json":
            assert probe_video(path).duration_us > 5_000_000


def test_a_downloaded_video_has_the_bytes_of_the_file(clip, tmp_path):
    layout = Layout(tmp_path / "root")
    entry = VideoEntry(id="a", title="a", sources=(f"file:{clip.name}",))
    download_videos([entry], layout, files_dir=clip.parent)
    assert downloaded_video(layout, "a").path.read_bytes() == clip.read_bytes()


def test_what_is_not_downloaded_is_told_with_the_command(tmp_path):
    layout = Layout(tmp_path)
    with pytest.raises(VideoError, match="run `wtours download --video venice`"):
        downloaded_video(layout, "venice")
    entry = VideoEntry(id="venice", title="Venice", sources=("file:x.mp4",))
    download_videos([entry], layout, files_dir=tmp_path)
    reason = r"venice is not downloaded \(there is no file .*x.mp4; --from-dir DIR says"
    with pytest.raises(VideoError, match=reason):
        downloaded_video(layout, "venice")


def test_a_file_that_has_shrunk_is_not_downloaded(clip, tmp_path):
    layout = Layout(tmp_path / "root")
    entry = VideoEntry(id="a", title="a", sources=(f"file:{clip.name}",))
    download_videos([entry], layout, files_dir=clip.parent)
    cut(clip, downloaded_video(layout, "a").path, 0.9)
    with pytest.raises(VideoError, match="a is not downloaded"):
        downloaded_video(layout, "a")


@pytest.fixture
def walk(clip, tmp_path) -> tuple[Layout, DownloadedVideo]:
    layout = Layout(tmp_path / "root")
    entry = VideoEntry(id="a", title="a", sources=(f"file:{clip.name}",))
    download_videos([entry], layout, files_dir=clip.parent)
    return layout, downloaded_video(layout, "a")


@pytest.mark.parametrize("keeps", ["date", "inode"])
def test_another_file_of_the_same_size_is_told_when_a_stage_begins(keeps, walk):
    layout, video = walk
    identity = checked_identity(layout, video)
    other = bytearray(video.path.read_bytes())
    other[-1] ^= 1
    if keeps == "date":
        video.path.unlink()
    video.path.write_bytes(bytes(other))
    if keeps == "date":
        os.utime(video.path, ns=(identity.mtime_ns, identity.mtime_ns))
    assert downloaded_video(layout, "a").sha256 == video.sha256  # its size is right
    with pytest.raises(VideoError, match=r"is not the file that was downloaded.*download it again"):
        checked_identity(layout, video)
    with pytest.raises(VideoError, match=r"a\.mp4 was replaced or changed while it was read"):
        require_same_file(video.path, identity)


def test_a_copied_workspace_is_measured_once_and_then_known(walk, tmp_path):
    layout, video = walk
    copy = Layout(tmp_path / "copy")
    shutil.copytree(layout.root, copy.root)
    copied = downloaded_video(copy, "a")
    identity = checked_identity(copy, copied)
    assert identity.inode != FileIdentity.of(video.path).inode
    noted = copy.identity("a").read_bytes()
    assert checked_identity(copy, copied) == identity
    assert copy.identity("a").read_bytes() == noted
    copy.identity("a").write_bytes(b"[" * 100_000)  # a rotten note is none
    assert checked_identity(copy, copied) == identity


def test_before_a_deletion_the_bytes_are_measured_whatever_the_note_says(walk):
    layout, video = walk
    checked_identity(layout, video)
    with video.path.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"?")
    note = json.loads(layout.identity("a").read_bytes())
    found = video.path.stat()
    note |= {"mtime_ns": found.st_mtime_ns, "ctime_ns": found.st_ctime_ns}
    layout.identity("a").write_text(json.dumps(note))
    checked_identity(layout, video)  # the forged note is believed
    with pytest.raises(VideoError, match="is not the file that was downloaded"):
        checked_identity(layout, video, deep=True)


@pytest.mark.parametrize(
    "change",
    [
        {"key": "b"},
        {"facts": {"duration_us": "long"}},
        {"facts": {"frame_rate": "1/0"}},
        {"files": []},
        {"files": [{"path": n, "bytes": 1, "sha256": "0"} for n in ("a.mp4", "b.mp4")]},
        {"files": [{"path": "../a.mp4", "bytes": 1, "sha256": "0"}]},
    ],
)
def test_a_receipt_that_was_tampered_with_is_none(change, walk):
    layout, _ = walk
    path = layout.video_receipt("a")
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(VideoError, match="a is not downloaded: run"):
        downloaded_video(layout, "a")
