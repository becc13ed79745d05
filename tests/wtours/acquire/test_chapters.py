"""Chapters of one recording: known by their names, joined packet by packet, and read back."""

import hashlib
import subprocess
from pathlib import Path

import imageio_ffmpeg
import pytest

from tests.support.own_walk import add_one
from tests.support.video_clips import remux, write_clip
from wtours.acquire.add_video import Claims, add_walk
from wtours.acquire.chapters import group_chapters, next_chapter
from wtours.acquire.download import download_videos
from wtours.acquire.own_walks import own_walks
from wtours.errors import DownloadError, UsageError
from wtours.media.reader import open_video
from wtours.workspace.layout import Layout
from wtours.workspace.manifest import load_manifest
from wtours.workspace.manifest_edit import pin_videos
from wtours.workspace.videos import downloaded_video


@pytest.fixture(scope="module")
def card(tmp_path_factory) -> Path:
    """Return a folder with three chapters of one recording: upright, with reordered frames."""
    folder: Path = tmp_path_factory.mktemp("card")
    source = "testsrc2=size=160x120:rate=30000/1001:duration=6"
    whole = write_clip(folder / "whole.mp4", source=source, g=30, bf=2)
    turned = folder / "turned.mp4"
    program = imageio_ffmpeg.get_ffmpeg_exe()
    words: list[str | Path] = ["-display_rotation", "90", "-i", whole, "-c", "copy", turned]
    subprocess.run([program, "-v", "error", *words], check=True)
    remux(turned, folder / "%d.mp4", f="segment", segment_time=2, reset_timestamps=1)
    for chapter in range(3):
        (folder / f"{chapter}.mp4").rename(folder / f"GX{chapter + 1:02d}0042.MP4")
    turned.unlink()
    whole.unlink()
    return folder


def chapters(folder: Path) -> list[Path]:
    return sorted(folder.glob("GX*.MP4"))


def frames(path: Path) -> list[tuple[int, str]]:
    with open_video(path, threads=1) as video:
        return [
            (frame.pts_us, hashlib.sha256(frame.to_rgb().tobytes()).hexdigest())
            for frame in video.frames()
        ]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["GX020042.MP4", "GX010042.MP4"], [["GX010042.MP4", "GX020042.MP4"]]),
        (["GX010042.MP4", "GX010043.MP4"], [["GX010042.MP4"], ["GX010043.MP4"]]),
        (["GH010042.MP4", "GX020042.MP4"], [["GH010042.MP4"], ["GX020042.MP4"]]),
        (["GOPR0042.mp4", "GP010042.mp4"], [["GOPR0042.mp4", "GP010042.mp4"]]),
        (["GHAA0001.MP4", "GHAA0002.MP4"], [["GHAA0001.MP4"], ["GHAA0002.MP4"]]),  # a loop
        (["DJI_0001.MP4", "DJI_0002.MP4"], [["DJI_0001.MP4"], ["DJI_0002.MP4"]]),
        (["GX020042.MP4"], [["GX020042.MP4"]]),
    ],
)
def test_a_gopros_chapters_are_known_by_their_names(names, expected):
    groups = group_chapters(Path("card", name) for name in names)
    assert [[path.name for path in group] for group in groups] == expected


@pytest.mark.parametrize(
    "names", [["GX010042.MP4", "GX030042.MP4"], ["GX020042.MP4", "GX030042.MP4"]]
)
def test_a_recording_with_a_chapter_missing_is_not_joined(names):
    with pytest.raises(UsageError, match=r"chapter [12] of its recording is not among the files"):
        group_chapters(Path(name) for name in names)


def test_chapters_become_one_walk_with_every_frame_at_its_time(card, tmp_path):
    manifest, layout = tmp_path / "wtours.toml", Layout(tmp_path / "root")
    entry = add_one(card, None, manifest, layout)
    assert (entry.id, len(entry.chapters), entry.sha256) == ("gx010042", 2, None)
    video = downloaded_video(layout, "gx010042")
    period_us = 1_001_000 / 30
    expected: list[tuple[int, str]] = []
    for chapter in chapters(card):
        offset = round(len(expected) * period_us)
        expected += [(offset + pts_us, picture) for pts_us, picture in frames(chapter)]
    joined = frames(video.path)
    assert [picture for _, picture in joined] == [picture for _, picture in expected]
    times = zip((us for us, _ in joined), (us for us, _ in expected), strict=True)
    assert max(abs(ours - theirs) for ours, theirs in times) <= 2
    assert (video.receipt.facts["rotation"], video.receipt.facts["height"]) == (90, 160)

    # The same again changes nothing; another machine joins them from the manifest.
    before = manifest.read_bytes()
    (walk,) = own_walks([str(card)], layout)
    assert add_walk(walk, None, manifest, layout, claims=Claims())[1] is False
    assert manifest.read_bytes() == before
    pin_videos(manifest, {"gx010042": video.sha256})
    (loaded,) = load_manifest(manifest).videos
    elsewhere = Layout(tmp_path / "elsewhere")
    assert download_videos([loaded], elsewhere, from_dir=card).done == ["gx010042"]


def test_files_of_another_recording_are_not_joined_and_leave_nothing(card, tmp_path):
    first = chapters(card)[0]
    other = write_clip(tmp_path / "GX020042.MP4", source="testsrc2=size=64x48:rate=30:duration=1")
    (tmp_path / first.name).write_bytes(first.read_bytes())
    layout, manifest = Layout(tmp_path / "root"), tmp_path / "wtours.toml"
    with pytest.raises(DownloadError, match=r"GX020042.MP4 is no chapter .* another size \(64x48"):
        add_one(tmp_path, None, manifest, layout)
    assert not manifest.exists()
    assert [path.name for path in layout.video_dir("gx010042").iterdir()] == ["receipt.json"]
    assert other.is_file()


def test_a_trimmed_file_and_another_container_are_not_joined(card, tmp_path):
    paths = [str(path) for path in chapters(card)[:1]]
    trimmed = tmp_path / "trimmed.mp4"
    program = imageio_ffmpeg.get_ffmpeg_exe()
    words = ["-ss", "0.5", "-i", paths[0], "-c", "copy", trimmed]
    subprocess.run([program, "-v", "error", *words], check=True)
    other = remux(Path(paths[0]), tmp_path / "other.mkv")
    for file, problem in ((trimmed, "was trimmed without"), (other, "is no MP4")):
        (walk,) = own_walks([*paths, str(file)], Layout(tmp_path), join=True)
        with pytest.raises(DownloadError, match=problem):
            add_walk(walk, "x", tmp_path / "m.toml", Layout(tmp_path / "root"), claims=Claims())


def test_a_chapter_left_behind_is_found(card):
    first, second, last = chapters(card)
    assert next_chapter(first) == second
    assert next_chapter(last) is None
