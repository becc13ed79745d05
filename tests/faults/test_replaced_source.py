"""A video is replaced by one of the same size: before a stage begins, or while it runs."""

import json
from pathlib import Path

import pytest

from tests.support.sharded_videos import publish_stream, publish_video
from tests.support.video_clips import write_clip, write_two_streams
from wtours.analyze.pipeline import analyze_videos
from wtours.analyze.schema import load_summary
from wtours.execution.executor import SerialExecutor
from wtours.report.data import load_measured
from wtours.sharding.build import build_shards
from wtours.sharding.delete_sources import delete_sources
from wtours.sharding.repair import repair_shards
from wtours.shards.params import ShardParams
from wtours.workspace.layout import Layout

pytestmark = pytest.mark.medium  # whole stages: left out of the inner loop

PARAMS = ShardParams(frames_per_second="2", shard_seconds=1, short_side=32)


@pytest.fixture
def workspace(tmp_path) -> tuple[Layout, Path, bytes]:
    """A workspace with the videos "walk" and "other", the walk's file, and what replaces it."""
    first = write_clip(tmp_path / "first.mp4", source="testsrc2=size=64x48:rate=10:duration=4")
    second = write_clip(tmp_path / "second.mp4", source="testsrc=size=64x48:rate=10:duration=4")
    size = max(first.stat().st_size, second.stat().st_size) + 8
    for path in (first, second):
        free = size - path.stat().st_size
        path.write_bytes(
            path.read_bytes() + free.to_bytes(4, "big") + b"free".ljust(free - 4, b"\0")
        )
    layout = Layout(tmp_path / "root")
    publish_video(layout, "walk", first)
    publish_video(layout, "other", first)
    return layout, layout.video_dir("walk") / "walk.mp4", second.read_bytes()


class ReplacingExecutor(SerialExecutor):
    """Replaces the walk's file when its second segment is about to be done."""

    def __init__(self, path: Path, body: bytes) -> None:
        self._path, self._body, self._seen = path, body, 0

    def map(self, function, tasks):
        def watched(task):
            self._seen += task.video_id == "walk"
            if self._seen == 2:
                self._path.write_bytes(self._body)
            return function(task)

        yield from super().map(watched, tasks)


@pytest.mark.parametrize("when", ["before", "while it runs"])
def test_shard_refuses_a_replaced_video_and_the_others_go_on(when, workspace):
    layout, path, body = workspace
    executor = ReplacingExecutor(path, body) if when != "before" else SerialExecutor()
    if when == "before":
        path.write_bytes(body)
    report = build_shards(layout, ["walk", "other"], params=PARAMS, executor=executor)
    assert list(report.failed) == ["walk"]
    assert ("is not the file" if when == "before" else "was replaced") in report.failed["walk"]
    dataset = json.loads((report.directory / "dataset.json").read_text())
    assert [video["video_id"] for video in dataset["videos"]] == ["other"]


@pytest.mark.parametrize("when", ["before", "while it runs"])
def test_analyze_refuses_a_replaced_video_and_the_others_go_on(when, workspace):
    layout, path, body = workspace
    executor = ReplacingExecutor(path, body) if when != "before" else SerialExecutor()
    if when == "before":
        path.write_bytes(body)
    report = analyze_videos(layout, ["walk", "other"], executor=executor, segment_seconds=1)
    assert report.done == ["other"]
    assert ("is not the file" if when == "before" else "was replaced") in report.failed["walk"]
    assert not layout.analysis_receipt("walk").exists()


@pytest.fixture
def two_streams(tmp_path) -> Path:
    return write_two_streams(tmp_path / "two.mov")


def test_another_stream_of_the_same_file_is_measured_and_sharded_anew(two_streams, tmp_path):
    layout, lightness = Layout(tmp_path / "root"), []
    for stream in (0, 1):
        publish_stream(layout, "walk", two_streams, stream)
        assert analyze_videos(layout, ["walk"]).done == ["walk"]
        report = build_shards(layout, ["walk"], params=PARAMS)
        assert (report.failed, report.num_segments_written) == ({}, 3)
        lightness.append(load_summary(layout, "walk").lightness.mean)
        assert analyze_videos(layout, ["walk"]).skipped == ["walk"]
        assert build_shards(layout, ["walk"], params=PARAMS).num_segments_kept == 3
    assert lightness[0] > 10 * lightness[1]


def test_a_shard_is_not_rebuilt_from_another_stream_of_the_same_file(two_streams, tmp_path):
    layout = Layout(tmp_path / "root")
    publish_stream(layout, "walk", two_streams, 0)
    tar = build_shards(layout, ["walk"], params=PARAMS).directory / "walk-00001.tar"
    tar.unlink()
    publish_stream(layout, "walk", two_streams, 1)
    report = repair_shards(layout, "default")
    assert not tar.exists()
    assert "the shards were made from stream 0" in report.problems[-1].message
    publish_stream(layout, "walk", two_streams, 0)
    assert repair_shards(layout, "default").repaired == (tar.name,)


def test_a_file_is_not_deleted_for_a_set_of_another_stream_of_it(two_streams, tmp_path):
    layout = Layout(tmp_path / "root")
    publish_stream(layout, "walk", two_streams, 0)
    build_shards(layout, ["walk"], params=PARAMS)
    publish_stream(layout, "walk", two_streams, 1)
    assert delete_sources(layout, "default", ["walk"]) == []
    publish_stream(layout, "walk", two_streams, 0)
    assert [path.name for path in delete_sources(layout, "default", ["walk"])] == ["walk.mov"]


def test_the_quality_of_another_stream_is_not_that_of_an_analysis(two_streams, tmp_path):
    layout = Layout(tmp_path / "root")
    publish_stream(layout, "walk", two_streams, 0)
    analyze_videos(layout, ["walk"], frame_quality=True)
    assert load_measured(layout, "walk", 0.5).quality is not None
    publish_stream(layout, "walk", two_streams, 1)
    analyze_videos(layout, ["walk"])
    assert load_measured(layout, "walk", 0.5).quality is None
