import bisect
import json
import re
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import simplejpeg

from tests.support.sharded_videos import (
    expected_ticks,
    files_of,
    listed_pts_us,
    publish_video,
    workspace,
)
from tests.support.video_clips import remux, write_clip
from wtours.errors import ShardError, UsageError
from wtours.execution.processes import ProcessExecutor
from wtours.media.reader import open_video
from wtours.sharding.build import ShardReport, build_shards
from wtours.sharding.estimate import estimate
from wtours.sharding.plan import VideoPlan, VideoWork
from wtours.shards.params import OPTIONS, BlurParams, ShardParams
from wtours.storage.receipts import Receipt, record_file, write_receipt
from wtours.workspace.layout import Layout

SECOND = ShardParams(shard_seconds=1, short_side=48)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return write_clip(path, source="testsrc2=size=96x64:rate=30:duration=3")


@pytest.fixture
def layout(tmp_path) -> Layout:
    return Layout(tmp_path / "root")


def index_of(report: ShardReport) -> dict[str, list[Any]]:
    index: dict[str, list[Any]] = pq.read_table(report.directory / "index.parquet").to_pydict()
    return index


def pixels_of(report: ShardReport, row: int) -> np.ndarray:
    index = index_of(report)
    data = (report.directory / f"{index['shard'][row]}.tar").read_bytes()
    offset, size = index["offset"][row], index["size"][row]
    pixels: np.ndarray = simplejpeg.decode_jpeg(data[offset : offset + size])
    return pixels


def variable_rate(path: Path) -> Path:
    return write_clip(
        path / "vfr.mp4",
        source="testsrc2=size=64x48:rate=30:duration=3",
        filters="select='lt(n,20)+not(mod(n,5))'",
        fps_mode="vfr",
    )


def rate_25(path: Path) -> Path:
    return write_clip(path / "a.mp4", source="testsrc2=size=64x48:rate=25:duration=2")


def rate_60(path: Path) -> Path:
    return write_clip(path / "a.mp4", source="testsrc2=size=64x48:rate=60000/1001:duration=2", bf=2)


def late_start(path: Path) -> Path:
    clip = write_clip(path / "a.mp4", source="testsrc2=size=64x48:rate=30:duration=2")
    return remux(clip, path / "late.ts", output_ts_offset=7.5)


def matroska(path: Path) -> Path:
    return remux(rate_25(path), path / "a.mkv")


SOURCES = [variable_rate, rate_25, rate_60, late_start, matroska]


@pytest.mark.parametrize("source", SOURCES)
def test_native_keeps_every_frame_at_the_time_that_the_container_lists(tmp_path, layout, source):
    path = source(tmp_path)
    publish_video(layout, "walk", path)
    params = ShardParams(frames_per_second="native", shard_seconds=1)
    index = index_of(build_shards(layout, ["walk"], params=params))
    listed = listed_pts_us(path)
    assert index["pts_us"] == listed
    assert index["frame_index"] == list(range(len(listed)))
    assert index["shard"] == [f"walk-{pts // 1_000_000:05d}" for pts in listed]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("rate", ["30", "12.5", "30000/1001"])
def test_each_tick_keeps_the_nearest_listed_frame(tmp_path, layout, source, rate):
    path = source(tmp_path)
    publish_video(layout, "walk", path)
    params = ShardParams(frames_per_second=rate, shard_seconds=1)
    report = build_shards(layout, ["walk"], params=params)
    index = index_of(report)
    expected = expected_ticks(listed_pts_us(path), Fraction(rate))
    assert dict(zip(index["frame_index"], index["pts_us"], strict=True)) == expected
    assert report.dataset is not None
    assert report.dataset.videos[0].holes == max(expected) + 1 - len(expected)


@pytest.mark.parametrize(
    "name",
    ["camvid_0016E5_1_1hz.mp4", "torchcodec_var_fps_video.mp4", "decord_flipping_a_pancake.mkv"],
)
@pytest.mark.medium
def test_real_videos_keep_the_times_that_the_container_lists(data_dir, layout, name):
    path = data_dir / "videos" / name
    publish_video(layout, "walk", path)
    params = ShardParams(short_side=64)
    index = index_of(build_shards(layout, ["walk"], params=params))
    expected = expected_ticks(listed_pts_us(path), Fraction(30))
    assert dict(zip(index["frame_index"], index["pts_us"], strict=True)) == expected


def test_a_stored_frame_is_the_frame_of_the_video(clip, layout):
    publish_video(layout, "walk", clip)
    report = build_shards(layout, ["walk"], params=SECOND)
    with open_video(clip) as video:
        frames = [frame.to_rgb(48) for frame in video.frames()]
    for row in (0, 29, 30, 89):
        stored = pixels_of(report, row)
        assert stored.shape == (48, 72, 3)
        distances = [np.abs(stored.astype(int) - frame).mean() for frame in frames]
        assert int(np.argmin(distances)) == row


def test_frames_do_not_depend_on_where_segments_begin(tmp_path, layout):
    publish_video(layout, "walk", rate_60(tmp_path))
    tables = []
    for seconds in (1, 60):
        params = ShardParams(frames_per_second="24", shard_seconds=seconds)
        report = build_shards(layout, ["walk"], name=f"s{seconds}", params=params)
        index = index_of(report)
        pixels = [pixels_of(report, row).tobytes() for row in range(len(index["pts_us"]))]
        tables.append((index["frame_index"], index["pts_us"], index["size"], pixels))
    assert tables[0] == tables[1]


@pytest.mark.parametrize("bf", [0, 2])
def test_a_segment_that_begins_with_a_keyframe_keeps_the_same_frames(tmp_path, layout, bf):
    source = "testsrc2=size=64x48:rate=60:duration=3"
    path = write_clip(tmp_path / "a.mp4", source=source, g=60, bf=bf)
    with open_video(path) as video:
        assert [f.pts_us for f in video.frames() if f.picture.key_frame] == [0, 10**6, 2 * 10**6]
        begun = [f.pts_us for f in video.frames(10**6, 1_040_000, lead_us=20_000)]
        led = [f.pts_us for f in video.frames(10**6 - 10, 1_040_000, lead_us=20_000)]
    assert begun == [1_000_000, 1_016_667, 1_033_333]
    assert led == [983_333, *begun]
    publish_video(layout, "walk", path)
    indices = [
        index_of(build_shards(layout, ["walk"], name=f"s{seconds}", params=params))
        for seconds, params in ((1, SECOND), (60, ShardParams(short_side=48)))
    ]
    for column in ("frame_index", "pts_us", "size"):
        assert indices[0][column] == indices[1][column]


@pytest.mark.medium
def test_the_bytes_do_not_depend_on_the_number_of_jobs(clip, tmp_path):
    published = []
    for jobs in (1, 2):
        layout = workspace(clip, tmp_path / str(jobs))
        with ProcessExecutor(jobs) as executor:
            report = build_shards(layout, ["one", "two"], params=SECOND, executor=executor)
        published.append(files_of(report.directory))
    assert published[0] == published[1]
    assert len([name for name in published[0] if name.endswith(".tar")]) == 6


def test_running_again_does_nothing_over(clip, layout):
    publish_video(layout, "walk", clip)
    first = build_shards(layout, ["walk"], params=SECOND)
    times = {path: path.stat().st_mtime_ns for path in first.directory.glob("*.tar")}
    told = []
    again = build_shards(
        layout, ["walk"], params=SECOND, on_progress=lambda *step: told.append(step)
    )
    assert (first.num_segments_written, first.num_segments_kept) == (3, 0)
    assert (again.num_segments_written, again.num_segments_kept) == (0, 3)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert again.dataset == first.dataset
    assert told == [("walk", 3, 3)]


def test_a_shard_that_is_gone_is_made_again_to_the_same_bytes(clip, layout):
    publish_video(layout, "walk", clip)
    directory = build_shards(layout, ["walk"], params=SECOND).directory
    before = files_of(directory)
    (directory / "walk-00001.tar").unlink()
    assert build_shards(layout, ["walk"], params=SECOND).num_segments_written == 1
    assert files_of(directory) == before


def test_a_segment_without_a_frame_has_a_receipt_and_no_shard(tmp_path, layout):
    gap = write_clip(
        tmp_path / "gap.mp4",
        source="testsrc2=size=64x48:rate=10:duration=4",
        filters="select='lt(n,10)+gte(n,30)'",
        fps_mode="vfr",
    )
    publish_video(layout, "walk", gap)
    report = build_shards(layout, ["walk"], params=SECOND)
    assert report.dataset is not None
    assert [shard.segment for shard in report.dataset.shards] == [0, 3]
    assert report.dataset.videos[0].segments == 4
    assert sorted(path.name for path in report.directory.glob("*.tar")) == [
        "walk-00000.tar",
        "walk-00003.tar",
    ]
    assert build_shards(layout, ["walk"], params=SECOND).num_segments_written == 0


def test_corrupt_frames_leave_holes_and_shift_nothing(tmp_path, layout):
    good = write_clip(
        tmp_path / "good.mp4", source="mandelbrot=size=160x120:rate=30", t=3, g=15, crf=18, bf=0
    )
    data = bytearray(good.read_bytes())
    for place in np.random.default_rng(0).integers(len(data) // 3, len(data) // 2, 20):
        data[place] ^= 0xFF
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(data)
    publish_video(layout, "good", good)
    publish_video(layout, "bad", bad)
    params = ShardParams(frames_per_second="native", shard_seconds=1)
    report = build_shards(layout, ["good", "bad"], params=params)
    assert report.failed == {}
    assert report.dataset is not None
    record = report.dataset.videos[0]
    index = index_of(report)
    rows: dict[str, dict[int, int]] = {"good": {}, "bad": {}}
    for video_id, number, pts in zip(
        index["video_id"], index["frame_index"], index["pts_us"], strict=True
    ):
        rows[video_id][number] = pts
    assert record.corrupt_frames > 0
    assert rows["bad"].items() < rows["good"].items()
    assert record.holes == len(rows["good"]) - len(rows["bad"])


def test_one_bad_video_does_not_stop_the_others(clip, tmp_path, layout):
    publish_video(layout, "good", clip)
    text = tmp_path / "text.mp4"
    text.write_text("this is no video")
    size = {"frame_rate": "30/1", "width": 96, "height": 64}
    facts = {"duration_us": 2_033_333, "last_pts_us": 2_000_000, **size}
    publish_video(layout, "bad", text, facts=facts)
    report = build_shards(layout, ["bad", "absent", "good"], params=SECOND)
    assert report.dataset is not None
    assert [video.video_id for video in report.dataset.videos] == ["good"]
    assert report.failed["bad"].endswith("expected mp4, mov, mkv, webm, ts or avi")
    assert "wtours download --video absent" in report.failed["absent"]
    assert [path.name for path in report.directory.glob("bad*")] == []


@pytest.mark.parametrize("moment", ["before the run", "after the first segment"])
def test_a_file_that_takes_the_name_of_another_is_not_mixed_with_it(clip, tmp_path, layout, moment):
    publish_video(layout, "walk", clip)
    build_shards(layout, ["walk"], name="first", params=SECOND)  # has noted which file it is
    data = bytearray(clip.read_bytes())
    data[-1] ^= 1
    other = tmp_path / "other.mp4"
    other.write_bytes(data)
    video = layout.video_dir("walk") / "walk.mp4"

    def replace(item, done, total):
        if other.exists() and done == 1:
            other.replace(video)

    if moment == "before the run":
        other.replace(video)
    report = build_shards(layout, ["walk"], params=SECOND, on_progress=replace)
    assert report.dataset is None
    assert "was replaced or changed" in report.failed["walk"] or (
        "is not the file that was downloaded" in report.failed["walk"]
    )
    written = len(list(report.directory.glob("*.tar")))
    assert written == (0 if moment == "before the run" else 1)
    assert list(build_shards(layout, ["walk"], params=SECOND).failed) == ["walk"]
    publish_video(layout, "walk", clip)
    report = build_shards(layout, ["walk"], params=SECOND)
    assert (report.failed, report.num_segments_kept) == ({}, written)


def test_what_the_file_system_refuses_of_one_video_does_not_stop_the_others(clip, layout):
    for video_id in ("good", "strange"):
        publish_video(layout, video_id, clip)
    layout.video_dir("file").write_text("where a folder should be")
    layout.analysis_dir("strange").parent.mkdir()
    layout.analysis_dir("strange").write_text("here, too")
    report = build_shards(layout, ["file", "good", "strange"], params=SECOND)
    assert {id: "where a folder should be" in why for id, why in report.failed.items()} == {
        "file": True,
        "strange": True,
    }
    assert report.dataset is not None
    assert [video.video_id for video in report.dataset.videos] == ["good"]


def test_without_a_good_video_there_is_no_set(layout):
    report = build_shards(layout, ["absent"], params=SECOND)
    assert report.dataset is None
    assert list(report.failed) == ["absent"]
    assert not (report.directory / "dataset.json").exists()


def test_a_set_grows_by_the_videos_of_later_runs(clip, layout):
    publish_video(layout, "one", clip)
    publish_video(layout, "two", clip)
    build_shards(layout, ["two"], params=SECOND)
    shutil.rmtree(layout.video_dir("two"))  # its shards stay, the index is made from receipts
    report = build_shards(layout, ["one"], params=SECOND)
    assert report.dataset is not None
    assert [video.video_id for video in report.dataset.videos] == ["one", "two"]
    assert index_of(report)["video_id"] == ["one"] * 90 + ["two"] * 90


def test_another_file_of_a_video_replaces_its_shards(clip, tmp_path, layout):
    publish_video(layout, "walk", clip)
    build_shards(layout, ["walk"], params=SECOND)
    short = write_clip(tmp_path / "short.mp4", source="testsrc2=size=64x48:rate=30:duration=1.5")
    sha256 = publish_video(layout, "walk", short)
    report = build_shards(layout, ["walk"], params=SECOND)
    assert report.dataset is not None
    assert report.dataset.videos[0].source_sha256 == sha256
    assert report.dataset.frames == 45
    assert len(list(report.directory.glob("*.tar"))) == 2


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (ShardParams(shard_seconds=1, short_side=64), "--short-side 48, not 64"),
        (ShardParams(shard_seconds=2, short_side=48), "--shard-seconds 1, not 2"),
        (
            ShardParams(shard_seconds=1, short_side=48, frames_per_second="15"),
            "--fps 30, not 15",
        ),
    ],
)
def test_other_parameters_for_a_name_are_refused_by_name(clip, layout, other, message):
    publish_video(layout, "walk", clip)
    build_shards(layout, ["walk"], params=SECOND)
    with pytest.raises(ShardError, match=f"{message}; choose another name by --shards"):
        build_shards(layout, ["walk"], params=other)
    build_shards(layout, ["walk"], name="other", params=other)


@pytest.mark.parametrize(
    "values",
    [
        {"frames_per_second": "fast"},
        {"frames_per_second": "0"},
        {"frames_per_second": "1/0"},
        {"frames_per_second": "nan"},
        {"quality": 0},
        {"quality": 101},
        {"short_side": 8},
        {"shard_seconds": 0},
    ],
)
def test_a_parameter_out_of_range_is_refused_by_name(values):
    ((name, value),) = values.items()
    with pytest.raises(UsageError, match=rf"{OPTIONS[name]} \({value}\) must be"):
        ShardParams(**values)


def test_the_recorded_parameters_stay_so_that_older_sets_go_on():
    assert ShardParams().recorded() == {
        "format": 1,
        "subsampling": "420",
        "pixels": "reduced as YUV by swscale's bilinear, then recoloured",
        "frames_per_second": "30",
        "short_side": 512,
        "quality": 90,
        "shard_seconds": 60,
    }
    assert BlurParams().method == "box mean over half the region, twice, of Y, Cb and Cr"


def test_the_same_rate_written_in_two_ways_is_the_same():
    assert ShardParams(frames_per_second="30.0") == ShardParams(frames_per_second="60/2")
    assert ShardParams().frames_per_second == "30"


def write_analysis(layout: Layout, video_id: str, source_sha256: str, **tables: pa.Table) -> None:
    folder = layout.analysis_dir(video_id)
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        pq.write_table(table, folder / f"{name}.parquet")
    files = tuple(record_file(path, relative_to=folder) for path in folder.glob("*.parquet"))
    receipt = Receipt(stage="analyze", key=video_id, inputs={"video": source_sha256}, files=files)
    write_receipt(layout.analysis_receipt(video_id), receipt)


def shots_table(starts: list[int], end: int) -> pa.Table:
    adaptive = [
        {"detector": "adaptive", "shot": number, "start_us": start, "end_us": stop}
        for number, (start, stop) in enumerate(zip(starts, [*starts[1:], end], strict=True))
    ]
    content = [{"detector": "content27", "shot": 0, "start_us": 0, "end_us": end}]
    return pa.Table.from_pylist(content + adaptive)


def test_an_analysis_fills_shot_and_lightness_without_touching_a_shard(clip, layout):
    sha256 = publish_video(layout, "walk", clip)
    report = build_shards(layout, ["walk"], params=SECOND)
    assert index_of(report)["shot"] == index_of(report)["lightness"] == [None] * 90
    tars = {path: path.stat().st_mtime_ns for path in report.directory.glob("*.tar")}

    pts_us = listed_pts_us(clip)
    frames = pa.table({"pts_us": pts_us[:-1], "lightness": np.arange(89, dtype=np.float32)})
    cut = pts_us[40]
    write_analysis(layout, "walk", sha256, shots=shots_table([0, cut], pts_us[88]), frames=frames)
    index = index_of(build_shards(layout, ["walk"], params=SECOND))
    assert index["shot"] == [0] * 40 + [1] * 48 + [None] * 2  # [start, end)
    assert index["lightness"] == [*range(89), None]
    assert {path: path.stat().st_mtime_ns for path in tars} == tars


def test_an_analysis_of_another_file_of_the_video_is_not_used(clip, layout):
    publish_video(layout, "walk", clip)
    frames = pa.table({"pts_us": [0], "lightness": [50.0]})
    write_analysis(layout, "walk", "0" * 64, shots=shots_table([0], 10**9), frames=frames)
    index = index_of(build_shards(layout, ["walk"], params=SECOND))
    assert index["shot"] == index["lightness"] == [None] * 90


@pytest.mark.parametrize(
    "tables",
    [
        {"shots": pa.table({"cut_us": [1]})},
        {"shots": pa.table({"detector": [1.5], "shot": ["x"], "start_us": ["y"], "end_us": [1]})},
        {"frames": pa.table({"pts_us": [0], "lightness": ["bright"]})},
    ],
)
def test_an_analysis_without_the_columns_is_named(clip, layout, tables):
    sha256 = publish_video(layout, "walk", clip)
    write_analysis(layout, "walk", sha256, **tables)
    report = build_shards(layout, ["walk"], params=SECOND)
    assert report.dataset is None
    (reason,) = report.failed.values()
    assert re.search(r"\.parquet does not have the columns .*; remove it", reason)
    assert "\n" not in reason


def rotten(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize("damage", [rotten, Path.unlink])
@pytest.mark.parametrize("part", ["analysis", "rows"])
def test_a_rotten_table_costs_its_video_and_not_the_others(clip, layout, part, damage):
    for video_id in ("other", "walk"):
        sha256 = publish_video(layout, video_id, clip)
        frames = pa.table({"pts_us": [0], "lightness": [50.0]})
        write_analysis(layout, video_id, sha256, frames=frames)
    expected = files_of(build_shards(layout, ["other", "walk"], params=SECOND).directory)
    directory = layout.shards_dir("default")
    tables = {
        "analysis": layout.analysis_dir("walk") / "frames.parquet",
        "rows": directory / "receipts" / "walk-00001.parquet",
    }
    whole = tables[part].read_bytes()
    damage(tables[part])
    report = build_shards(layout, ["other", "walk"], params=SECOND)
    if part == "rows" and damage is Path.unlink:
        assert report.failed == {}  # the segment is not there, so it is made again
    else:
        assert list(report.failed) == ["walk"]
        assert "\n" not in report.failed["walk"]
        assert report.dataset is not None
        assert [video.video_id for video in report.dataset.videos] == ["other"]
        tables[part].write_bytes(whole)
        assert build_shards(layout, ["other", "walk"], params=SECOND).failed == {}
    assert files_of(directory) == expected


def test_attribution_names_each_video_its_licenses_and_the_changes(clip, layout):
    publish_video(layout, "walk", clip)
    receipt = json.loads(layout.video_receipt("walk").read_text())
    receipt["facts"] |= {"title": "A *walk*\n# in <b>Venice</b>", "channel": "Walker"}
    layout.video_receipt("walk").write_text(json.dumps(receipt))
    report = build_shards(layout, ["walk"], params=SECOND)
    text = (report.directory / "ATTRIBUTION.md").read_text()
    assert r"- Title: A \*walk\* \# in \<b\>Venice\</b\>" in text
    assert "- Channel: Walker" in text
    assert "- License claimed: CC-BY" in text
    assert "- License observed: not observed" in text
    assert "short side of at most 48 pixels, encoded as JPEG of quality 90" in text


def test_the_estimate_counts_frames_and_pixels(tmp_path, layout):
    publish_video(layout, "walk", rate_60(tmp_path))
    report = build_shards(layout, ["walk"], params=SECOND)
    assert report.dataset is not None
    facts = report.dataset.videos[0].model_copy(update={"width": 3840, "height": 2160})
    work = [VideoWork(VideoPlan("walk", "", facts), None, (), 0, 3600.0)]
    hour = estimate(work, ShardParams())
    assert hour.frames == 108_000
    assert hour.bytes / hour.frames == pytest.approx(77_000, rel=0.05)  # DESIGN's figure
    assert hour.seconds == pytest.approx(3600 + 200, rel=0.05)  # 60 source frames a second
    assert estimate(work, ShardParams(), jobs=4).seconds == pytest.approx(hour.seconds / 4)
    assert estimate(work, ShardParams(quality=75)).bytes < 0.6 * hour.bytes
    assert estimate(work, ShardParams(frames_per_second="native")).frames == 215_784


def test_index_rows_are_found_by_their_tar(clip, layout):
    publish_video(layout, "walk", clip)
    report = build_shards(layout, ["walk"], params=SECOND)
    index = index_of(report)
    row = bisect.bisect_left(index["pts_us"], 1_500_000)
    data = (report.directory / "walk-00001.tar").read_bytes()
    offset = index["offset"][row]
    name = data[offset - 512 : offset - 412].rstrip(b"\0").decode()
    assert name == f"walk-{index['frame_index'][row]:08d}.jpg"
