"""The video is replaced while it is analyzed: nothing of two files is published."""

import os
import shutil
from pathlib import Path

import pytest

from tests.support.analyze_cases import add_video, write_scenes
from wtours.analyze.pipeline import analyze_videos
from wtours.analyze.schema import NotAnalyzedError, load_summary
from wtours.workspace.layout import Layout

pytestmark = pytest.mark.medium


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("clip") / "a.mp4", seconds=(2, 2), size="96x64")


@pytest.mark.parametrize("how", ["another file", "the same bytes again", "in place"])
@pytest.mark.parametrize("is_downloaded", [True, False])
def test_a_video_that_is_replaced_between_segments_is_refused(tmp_path, clip, how, is_downloaded):
    layout = Layout(tmp_path / "root")
    path = add_video(layout, "walk", clip)
    before = path.stat()

    def replace(video_id: str, done: float, total: float | None) -> None:
        if how == "in place":
            with path.open("r+b") as file:
                file.seek(100)
                file.write(b"\0" * 10)
            return
        data = clip.read_bytes()
        other = path.with_name("other")
        other.write_bytes(data if "same" in how else data[:-1] + b"\xff")  # of the same size
        os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
        other.replace(path)

    videos = ["walk"] if is_downloaded else {"walk": path}
    report = analyze_videos(layout, videos, segment_seconds=1, on_progress=replace)
    assert "was replaced or changed while it was read" in report.failed["walk"]
    with pytest.raises(NotAnalyzedError):
        load_summary(layout, "walk")
    shutil.copyfile(clip, path)
    assert analyze_videos(layout, videos, segment_seconds=1).done == ["walk"]


def test_a_file_that_is_not_the_downloaded_one_is_refused(tmp_path, clip):
    layout = Layout(tmp_path / "root")
    path = add_video(layout, "walk", clip)
    path.write_bytes(clip.read_bytes()[:-1] + b"\xff")  # of the same size
    report = analyze_videos(layout, ["walk"])
    assert "is not the file that was downloaded" in report.failed["walk"]
    assert not layout.analysis_dir("walk").exists()
