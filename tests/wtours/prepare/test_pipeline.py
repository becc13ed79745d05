"""`prepare` publishes the bytes of `analyze` then `shard`, from one decode."""

import json
import shutil
from typing import Any

import pytest

from tests.support.analyze_cases import write_detections
from tests.support.object_stores import FaultyFileSystem, copy_into
from tests.support.prepared import (
    SMALL,
    apart,
    entries,
    prepare_options,
    published,
    store_workspace,
    workspace,
    write_walk,
)
from tests.support.sharded_videos import publish_video
from wtours.acquire.options import FetchOptions
from wtours.analyze.pipeline import analyze_videos
from wtours.errors import UsageError, WtoursError
from wtours.execution.parts import Part
from wtours.media.reader import VideoReader
from wtours.prepare.pipeline import prepare_videos
from wtours.sharding.build import build_shards
from wtours.sharding.missing import unfinished_parts
from wtours.shards.params import ShardParams
from wtours.workspace.layout import Layout


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    return write_walk(tmp_path_factory.mktemp("walk") / "walk.mp4")


@pytest.fixture(scope="module")
def expected(walk, tmp_path_factory):
    return apart(workspace(tmp_path_factory.mktemp("apart"), {"walk": walk}), ["walk"])


def test_it_publishes_what_analyze_then_shard_publish_and_decodes_once(
    walk, expected, tmp_path, monkeypatch
):
    layout = workspace(tmp_path, {"walk": walk})
    passes = []
    frames = VideoReader.frames

    def counted(self, *arguments, **options):
        passes.append(arguments)
        return frames(self, *arguments, **options)

    monkeypatch.setattr(VideoReader, "frames", counted)
    report = prepare_videos(layout, entries("walk"), prepare_options())
    assert (report.num_decoded_once, report.num_decoded_apart) == (3, 0)
    assert len(passes) == 3
    assert report.analysis.done == ["walk"]
    assert report.shards.num_segments_written == 3
    assert published(layout) == expected
    again = prepare_videos(layout, entries("walk"), prepare_options())
    assert (again.analysis.done, again.analysis.skipped) == ([], ["walk"])
    assert (again.shards.num_segments_written, again.shards.num_segments_kept) == (0, 3)
    assert len(passes) == 3
    assert published(layout) == expected


@pytest.mark.parametrize(
    "params",
    [
        ShardParams(frames_per_second="5", shard_seconds=10, short_side=32),
        ShardParams(frames_per_second="native", shard_seconds=25, short_side=32),
        ShardParams(frames_per_second="2", shard_seconds=90, short_side=32),
    ],
    ids=["shorter", "neither divides the other, native", "longer"],
)
def test_segments_of_other_lengths_meet_and_change_no_byte(walk, tmp_path, params):
    ours, theirs = (workspace(tmp_path / name, {"walk": walk}) for name in ("ours", "theirs"))
    wanted = apart(theirs, ["walk"], params)
    report = prepare_videos(ours, entries("walk"), prepare_options(params))
    assert report.num_decoded_apart == 0
    assert published(ours) == wanted


def test_objects_too(walk, tmp_path):
    boxes = [(pts_us, "tree", 0.5, 1.0, 2.0, 30.0, 40.0) for pts_us in range(0, 130_000_000, 10**6)]
    detections = write_detections(tmp_path / "walk.parquet", boxes)
    ours, theirs = (workspace(tmp_path / name, {"walk": walk}) for name in ("ours", "theirs"))
    options: dict[str, Any] = {"detector": f"file:{detections}", "detect_fps": "1"}
    wanted = apart(theirs, ["walk"], **options)
    report = prepare_videos(ours, entries("walk"), prepare_options(**options))
    assert (report.num_decoded_once, report.num_decoded_apart) == (3, 0)
    assert published(ours) == wanted
    assert any(name.endswith("detections.parquet") for name in wanted)


def test_a_damaged_stretch_is_read_apart_and_changes_no_byte(walk, tmp_path):
    data = bytearray(walk.read_bytes())
    for place in range(len(data) // 2, len(data) // 2 + 4000, 7):
        data[place] ^= 0x55
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(data)
    ours, theirs = (workspace(tmp_path / name, {"walk": damaged}) for name in ("ours", "theirs"))
    wanted = apart(theirs, ["walk"], max_loss=1.0)
    report = prepare_videos(ours, entries("walk"), prepare_options())
    assert report.num_decoded_apart >= 1
    assert report.num_decoded_once >= 1
    assert published(ours) == wanted
    summary = json.loads((ours.analysis_dir("walk") / "summary.json").read_text())
    assert summary["corrupt_frames"] + summary["undecodable_frames"] > 0


def test_either_way_is_resumed_by_the_other(walk, expected, tmp_path):
    first = workspace(tmp_path / "first", {"walk": walk})
    analyze_videos(first, ["walk"])
    report = prepare_videos(first, entries("walk"), prepare_options())
    assert (report.analysis.skipped, report.shards.num_segments_written) == (["walk"], 3)
    assert published(first) == expected

    second = workspace(tmp_path / "second", {"walk": walk})
    prepare_videos(second, entries("walk"), prepare_options(), part=Part(1, 2))
    half = published(second)
    assert any("/segments/" in name for name in half)
    assert not any(name.endswith("index.parquet") for name in half)
    analyze_videos(second, ["walk"])
    build = build_shards(second, ["walk"], params=SMALL)
    assert build.num_segments_kept > 0
    assert published(second) == expected


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_parts_in_any_order_publish_the_same(walk, expected, tmp_path, order):
    layout = workspace(tmp_path, {"walk": walk})
    for number in order:
        report = prepare_videos(layout, entries("walk"), prepare_options(), part=Part(number, 3))
        assert (report.shards.dataset is not None) == (number == order[-1])
    assert published(layout) == expected


def test_a_part_downloads_nothing_and_names_what_is_missing(tmp_path, walk):
    layout = workspace(tmp_path, {"walk": walk})
    both = entries("walk", "other")
    report = prepare_videos(layout, both, prepare_options(), part=Part(1, 1))
    assert "wtours download --video other" in report.shards.failed["other"]
    assert report.shards.dataset is not None
    assert [video.video_id for video in report.shards.dataset.videos] == ["walk"]


def test_what_is_missing_is_downloaded_first(walk, expected, tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    shutil.copy(walk, videos / "walk.mp4")
    layout = workspace(tmp_path / "root", {})
    options = prepare_options(from_dir=videos, fetch=FetchOptions(allow_unknown_license=True))
    report = prepare_videos(layout, entries("walk", "absent"), options)
    assert report.downloaded == ("walk",), report.not_downloaded
    assert list(report.not_downloaded) == ["absent"]
    assert report.analysis.done == ["walk"]
    tars = {name: sha256 for name, sha256 in published(layout).items() if name.endswith(".parquet")}
    assert tars.items() <= expected.items()


def test_a_part_on_a_store_leaves_the_segments_of_the_others(walk, tmp_path, monkeypatch):
    FaultyFileSystem.reset()
    url = "faulty://bucket/root"
    store = copy_into(url, workspace(tmp_path / "disk", {"walk": walk}).root)

    def part(layout, number, **options):
        prepare_videos(layout, entries("walk"), prepare_options(**options), part=Part(number, 2))
        return {found.key for found in store.list("analysis/walk/segments")}

    def on_machine(name):
        monkeypatch.setenv("WTOURS_SCRATCH", str(tmp_path / name))
        return store_workspace(url, is_part=True)

    with on_machine("one") as one:
        assert part(one, 1)
    with on_machine("two") as two:  # sees the segments of this earlier job
        with on_machine("one") as one:
            made = part(one, 1, frame_quality=True)
        assert part(two, 2, frame_quality=True) > made


def test_a_video_that_cannot_be_opened_counts_no_segment(tmp_path):
    layout, text = Layout(tmp_path / "root"), tmp_path / "walk.mp4"
    text.write_text("no video")
    publish_video(layout, "walk", text, facts={"last_pts_us": 3_000_000, "duration_us": 3_033_333})
    params = ShardParams(frames_per_second="native", shard_seconds=1, short_side=32)
    report = prepare_videos(layout, entries("walk"), prepare_options(params))
    assert list(report.shards.failed) == list(report.analysis.failed) == ["walk"]
    assert report.shards.num_segments_written == 0


def test_a_bad_option_stops_it_before_anything_is_written(walk, tmp_path):
    layout = workspace(tmp_path, {"walk": walk})
    for options in (prepare_options(detector="sparrow"), prepare_options(detect_fps="often")):
        with pytest.raises(UsageError, match=r"sparrow|often"):
            prepare_videos(layout, entries("walk"), options)
    prepare_videos(layout, entries("walk"), prepare_options())
    other = prepare_options(ShardParams(frames_per_second="3", short_side=32))
    with pytest.raises(WtoursError, match="choose another name by --shards"):
        prepare_videos(layout, entries("walk"), other)


def test_the_missing_parts_of_short_shards_are_those_of_prepare(walk, tmp_path):
    layout = workspace(tmp_path, {"walk": walk})
    params = ShardParams(frames_per_second="1", shard_seconds=10, short_side=32)
    options, directory = prepare_options(params), layout.shards_dir("default")
    prepare_videos(layout, entries("walk"), options, part=Part(1, 2))
    assert 2 in unfinished_parts(directory, 2)
    report = prepare_videos(layout, entries("walk"), options, part=Part(2, 2))
    assert report.shards.dataset is not None
    assert unfinished_parts(directory, 2) == []
