"""What is said and checked before the work, and deleting the videos after it."""

import contextlib
import json
import logging
import shutil
from pathlib import Path

import pytest

from tests.support.sharded_videos import files_of, publish_video, workspace
from tests.support.video_clips import write_clip
from wtours.errors import ShardError
from wtours.execution.parts import Part
from wtours.sharding.build import build_shards
from wtours.sharding.delete_sources import delete_sources
from wtours.sharding.estimate import Estimate, require_space
from wtours.shards.params import ShardParams
from wtours.workspace.layout import Layout

SECOND = ShardParams(shard_seconds=1, short_side=32)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return write_clip(path, source="testsrc2=size=64x48:rate=30:duration=2.5")


@pytest.fixture
def layout(clip, tmp_path) -> Layout:
    return workspace(clip, tmp_path / "root")


def video_files(layout: Layout) -> list[str]:
    return sorted(path.name for path in layout.root.glob("videos/*/*.mp4"))


def test_the_estimate_is_of_what_is_left_to_do(layout):
    told: list[Estimate] = []
    both = ["one", "two"]
    build_shards(layout, ["one"], params=SECOND, on_estimate=told.append)
    build_shards(layout, both, params=SECOND, part=Part(1, 3), on_estimate=told.append)
    build_shards(layout, both, params=SECOND, on_estimate=told.append)
    build_shards(layout, both, params=SECOND, on_estimate=told.append)
    assert [expected.frames for expected in told] == [75, 30, 45, 0]
    assert told[-1].bytes == 0
    assert told[0].bytes > told[2].bytes > told[1].bytes


def test_a_set_that_cannot_fit_is_refused_with_numbers_before_the_work(clip, tmp_path):
    layout = Layout(tmp_path / "root")
    hours = {"duration_us": 10**13, "last_pts_us": 10**13, "frame_rate": "1000/1"}
    publish_video(layout, "vast", clip, facts={**hours, "width": 8192, "height": 8192})
    params = ShardParams(frames_per_second="1000", short_side=8192, shard_seconds=3600)
    with pytest.raises(ShardError, match=r"about [\d,]{9,} MB are to be written and [\d,]+ MB are"):
        build_shards(layout, ["vast"], params=params)
    assert not list(layout.shards_dir("default").glob("*.tar"))


def test_what_may_not_fit_is_begun_with_a_warning(tmp_path, caplog):
    free = shutil.disk_usage(tmp_path).free
    with caplog.at_level(logging.WARNING):
        require_space(tmp_path / "shards", Estimate(frames=1, bytes=free // 2, seconds=1))
        assert not caplog.records
        require_space(tmp_path / "shards", Estimate(frames=1, bytes=free * 3 // 2, seconds=1))
    assert caplog.messages[0].endswith("that may not be enough")


def test_several_videos_have_a_bar_for_all_of_them(layout):
    told = []
    build_shards(layout, ["one", "two"], params=SECOND, on_progress=lambda *step: told.append(step))
    assert told[0] == ("one", 0, 3)
    assert told[-1] == ("all videos", 6, 6)
    assert [step for step in told if step[0] == "two"][-1] == ("two", 3, 3)


def test_videos_are_deleted_once_the_set_is_whole(layout):
    report = build_shards(layout, ["one"], params=SECOND)
    before = files_of(report.directory)
    (deleted,) = delete_sources(layout, "default", ["one", "two"])
    assert deleted.name == "one.mp4"
    assert video_files(layout) == ["two.mp4"]  # its shards are not in the set
    assert layout.video_receipt("one").exists()
    assert delete_sources(layout, "default", ["one"]) == []
    again = build_shards(layout, ["one"], params=SECOND)
    assert (again.failed, again.num_segments_kept) == ({}, 3)
    assert files_of(report.directory) == before


def test_no_video_is_deleted_while_anything_is_damaged(layout):
    directory = build_shards(layout, ["one", "two"], params=SECOND).directory
    tar = directory / "two-00001.tar"
    data = bytearray(tar.read_bytes())
    data[2000] ^= 1
    tar.write_bytes(data)
    with pytest.raises(ShardError, match=r"no video is deleted, since two-00001\.tar has another"):
        delete_sources(layout, "default", ["one"])
    assert video_files(layout) == ["one.mp4", "two.mp4"]


def test_another_file_of_a_video_than_the_set_has_is_kept(layout, tmp_path):
    build_shards(layout, ["one"], params=SECOND)
    other = write_clip(tmp_path / "other.mp4", source="testsrc2=size=64x48:rate=30:duration=1")
    publish_video(layout, "one", other)
    assert delete_sources(layout, "default", ["one"]) == []


def test_a_new_file_of_the_same_size_is_kept(layout, caplog):
    build_shards(layout, ["one"], params=SECOND)
    video = layout.video_dir("one") / "one.mp4"
    data = bytearray(video.read_bytes())
    data[-1] ^= 1
    video.write_bytes(data)
    assert delete_sources(layout, "default", ["one"]) == []
    assert video.read_bytes() == data


@pytest.mark.parametrize("where", ["../two/two.mp4", "ABSOLUTE"])
def test_a_receipt_that_names_a_file_elsewhere_deletes_nothing(layout, where):
    build_shards(layout, ["one"], params=SECOND)
    other = layout.video_dir("two") / "two.mp4"
    receipt = json.loads(layout.video_receipt("one").read_text())
    receipt["files"][0]["path"] = str(other.absolute()) if where == "ABSOLUTE" else where
    layout.video_receipt("one").write_text(json.dumps(receipt))
    deleted = []
    with contextlib.suppress(ShardError):
        deleted = delete_sources(layout, "default", ["one"])
    assert deleted == []
    assert other.exists()


def test_a_video_folder_that_is_a_link_to_another_place_keeps_its_file(layout, tmp_path, caplog):
    build_shards(layout, ["one"], params=SECOND)
    elsewhere = tmp_path / "elsewhere"
    layout.video_dir("one").rename(elsewhere)
    layout.video_dir("one").symlink_to(elsewhere)
    assert delete_sources(layout, "default", ["one"]) == []
    assert (elsewhere / "one.mp4").exists()
    assert "one.mp4 is kept" in caplog.text
