"""`--match-duration`: as many seconds of other videos as one walk has."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.support.sharded_videos import files_of, listed_pts_us, publish_video
from tests.support.video_clips import write_clip
from wtours.errors import ShardError, VideoError
from wtours.execution.parts import Part
from wtours.execution.processes import ProcessExecutor
from wtours.sharding.build import ShardReport, build_shards, finalize_shards
from wtours.sharding.duration_match import match_params
from wtours.sharding.repair import repair_shards
from wtours.shards.params import MatchParams, ShardParams
from wtours.shards.statistics import shards_info
from wtours.workspace.layout import Layout

pytestmark = pytest.mark.medium  # whole stages: left out of the inner loop

OTHERS = ["one", "two", "three", "four"]
CLIPS = {"walk": (30, 2.5), "one": (25, 1), "two": (30, 0.8), "three": (30, 2), "four": (30, 1)}
"""Frames a second, and seconds."""
MATCH = MatchParams(video_id="walk", duration_us=2_500_000)


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("clips")
    return {
        name: write_clip(
            folder / f"{name}.mp4",
            source=f"testsrc2=size=64x48:rate={rate}:duration={seconds}",
            bf=2,
        )
        for name, (rate, seconds) in CLIPS.items()
    }


@pytest.fixture
def layout(clips, tmp_path) -> Layout:
    layout = Layout(tmp_path / "root")
    for name, path in clips.items():
        publish_video(layout, name, path)
    return layout


def params_of(fps: str = "30", match: MatchParams | None = MATCH) -> ShardParams:
    return ShardParams(frames_per_second=fps, shard_seconds=1, short_side=32, match=match)


def times_of(report: ShardReport) -> dict[str, list[int]]:
    index = pq.read_table(report.directory / "index.parquet").to_pydict()
    times: dict[str, list[int]] = {}
    for video_id, pts_us in zip(index["video_id"], index["pts_us"], strict=True):
        times.setdefault(video_id, []).append(pts_us)
    return times


def taken_of(report: ShardReport) -> dict[str, Any]:
    dataset = json.loads((report.directory / "dataset.json").read_text())
    return {video["video_id"]: video["taken_us"] for video in dataset["videos"]}


def test_the_first_videos_are_taken_whole_and_the_last_is_cut_at_the_second(layout, clips):
    assert match_params(layout, "walk") == MATCH
    report = build_shards(layout, OTHERS, params=params_of("native"))
    listed = {name: listed_pts_us(path) for name, path in clips.items()}
    before_the_cut = [pts for pts in listed["three"] if pts < 700_000]
    assert len(before_the_cut) == 21  # 2.5 s - 1 s - 0.8 s, at 30 frames a second
    assert times_of(report) == {"one": listed["one"], "two": listed["two"], "three": before_the_cut}
    assert taken_of(report) == {"one": None, "two": None, "three": 700_000}
    dataset = json.loads((report.directory / "dataset.json").read_text())
    assert dataset["params"]["match"] == {"video_id": "walk", "duration_us": 2_500_000}
    assert (report.failed, report.num_segments_written) == ({}, 3)
    assert shards_info(report.directory).hours * 3600 == pytest.approx(2.5, abs=0.1)
    attribution = (report.directory / "ATTRIBUTION.md").read_text()
    assert "the first 0.7 s of three" in attribution


def test_what_is_taken_is_as_in_a_set_of_whole_videos(layout):
    matched = build_shards(layout, OTHERS, params=params_of())
    whole = build_shards(layout, OTHERS, name="whole", params=params_of(match=None))
    tars = {name: data for name, data in files_of(matched.directory).items() if "tar" in name}
    of_whole = files_of(whole.directory)
    assert sorted(tars) == ["one-00000.tar", "three-00000.tar", "two-00000.tar"]
    assert tars["one-00000.tar"] == of_whole["one-00000.tar"]
    sizes = times_of(matched)["three"], times_of(whole)["three"][:21]
    assert sizes[0] == sizes[1]
    end = tars["three-00000.tar"].index(b"three-00000020.jpg")
    assert tars["three-00000.tar"][:end] == of_whole["three-00000.tar"][:end]


def test_parts_runs_again_and_repairs_take_the_same(layout, clips, tmp_path):
    with ProcessExecutor(2) as executor:
        report = build_shards(layout, OTHERS, params=params_of(), executor=executor)
    directory = report.directory
    before = files_of(directory)
    assert build_shards(layout, OTHERS, params=params_of()).num_segments_written == 0
    (directory / "three-00000.tar").unlink()
    assert repair_shards(layout, "default").repaired == ("three-00000.tar",)
    assert finalize_shards(layout, "default").dataset is not None
    assert files_of(directory) == before
    parts = Layout(tmp_path / "parts")
    for name, path in clips.items():
        publish_video(parts, name, path)
    for number in (2, 1):
        build_shards(parts, OTHERS, params=params_of(), part=Part(number, 2))
    assert files_of(parts.shards_dir("default")) == before


def test_a_video_that_is_not_downloaded_is_passed_over_and_named(layout):
    report = build_shards(layout, ["absent", *OTHERS, "beyond"], params=params_of())
    assert list(report.failed) == ["absent"]  # the one beyond the end was not wanted
    assert taken_of(report) == {"one": None, "two": None, "three": 700_000}


def test_a_set_stays_with_the_videos_that_it_was_begun_with(layout, clips):
    directory = build_shards(layout, ["early", *OTHERS], params=params_of()).directory
    before = files_of(directory)
    publish_video(layout, "early", clips["four"])  # downloaded at last
    with pytest.raises(ShardError, match=r"other videos.* choose another name by --shards"):
        build_shards(layout, ["early", *OTHERS], params=params_of())
    with pytest.raises(ShardError, match="begun with --match-duration; choose another"):
        build_shards(layout, OTHERS, params=params_of(match=None))
    assert files_of(directory) == before
    (layout.video_dir("one") / "one.mp4").unlink()  # as --delete-source does
    assert build_shards(layout, OTHERS, params=params_of()).num_segments_kept == 3


def test_too_little_to_take_from_is_refused_with_both_lengths(layout):
    with pytest.raises(ShardError, match=r"walk has 2\.5 s, .* only 1\.8 s"):
        build_shards(layout, ["one", "two"], params=params_of())
    assert not (layout.shards_dir("default") / "dataset.json").exists()
    with pytest.raises(VideoError, match="wtours download --video absent"):
        match_params(layout, "absent")
