"""Which files are taken as videos, by their names, in every command that looks for them."""

import os
import shutil
from pathlib import Path

import pytest

from tests.support.own_walk import add_one
from tests.support.video_clips import write_clip
from wtours.acquire.local_files import find_given_file
from wtours.analyze.video_folder import folder_videos
from wtours.errors import DownloadError, WtoursError
from wtours.media.file_types import VIDEO_SUFFIXES, is_video_name, name_problem
from wtours.workspace.layout import Layout
from wtours.workspace.manifest import VideoEntry

NOT_UTF8 = os.fsdecode(b"caf\xe9.mp4")


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    source = "testsrc2=size=64x48:rate=5:duration=1"
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", source=source)


@pytest.mark.parametrize("suffix", [".3gp", ".insv", ".360", ".m2t", ".MP4", ".qt"])
def test_cameras_suffixes_are_taken(suffix):
    assert is_video_name(Path(f"walk{suffix}"))
    assert suffix.lower() in VIDEO_SUFFIXES


def test_hidden_files_and_folders_are_no_videos(clip, tmp_path, caplog):
    for name in ("walk.mp4", "._walk.mp4", ".Trash/old.mp4", "day/2.m4v", "day/.3.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(clip, tmp_path / name)
    assert sorted(path.name for path in folder_videos(tmp_path).values()) == ["2.m4v", "walk.mp4"]
    assert caplog.text == ""


def test_what_may_be_a_video_and_cannot_be_taken_is_named_once_and_the_rest_goes_on(
    clip, tmp_path, caplog
):
    for name in ("walk.mp4", "old.WMV", NOT_UTF8, "notes.txt"):
        shutil.copy(clip, tmp_path / name)
    assert [path.name for path in folder_videos(tmp_path).values()] == ["walk.mp4"]
    assert sorted(record.getMessage() for record in caplog.records) == [
        r"caf\xe9.mp4: its name is not UTF-8; rename it",
        "old.WMV: .wmv is not read; convert it: ffmpeg -i IN -crf 14 OUT.mp4",
    ]


def test_the_shadow_of_a_file_on_a_mac_does_not_stand_for_it(clip, tmp_path):
    entry = VideoEntry(id="a", title="A", sources=("https://youtu.be/fGX0Te6pFvk",))
    for name in ("A [fGX0Te6pFvk].mp4", "._A [fGX0Te6pFvk].mp4"):
        shutil.copy(clip, tmp_path / name)
    found = find_given_file(entry, tmp_path)
    assert found is not None
    assert found.name == "A [fGX0Te6pFvk].mp4"


def test_a_given_file_that_cannot_be_taken_is_named(clip, tmp_path):
    shutil.copy(clip, tmp_path / "a.flv")
    entry = VideoEntry(id="a", title="A", sources=("file:a.flv",))
    with pytest.raises(DownloadError, match=r"^a\.flv: \.flv is not read; convert it: ffmpeg"):
        find_given_file(entry, tmp_path)
    shutil.copy(clip, bad := tmp_path / NOT_UTF8)
    with pytest.raises(WtoursError, match="is not UTF-8; rename"):
        add_one(bad, "a", tmp_path / "m.toml", Layout(tmp_path))
    assert name_problem(Path(".hidden.flv")) is None
