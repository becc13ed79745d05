"""Time is what the container lists, and a damaged frame is a hole: it never shifts another."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.support.sharded_videos import (
    decoded_pts_us,
    destroy_packets,
    drop_packets,
    expected_ticks,
    listed_pts_us,
    publish_video,
    rotate,
    shown_pts_us,
)
from tests.support.video_clips import remux, write_clip
from wtours.media.reader import open_video
from wtours.sharding.build import ShardReport, build_shards
from wtours.shards.params import ShardParams
from wtours.workspace.layout import Layout

pytestmark = pytest.mark.medium  # whole stages: left out of the inner loop

NATIVE = ShardParams(frames_per_second="native", shard_seconds=1, short_side=48)
TICKS = ShardParams(frames_per_second="30", shard_seconds=1, short_side=48)


def shard(tmp_path: Path, path: Path, params: ShardParams, name: str = "default") -> ShardReport:
    layout = Layout(tmp_path / f"root_{name}")
    publish_video(layout, "walk", path)
    report = build_shards(layout, ["walk"], name=name, params=params)
    assert report.failed == {}
    return report


def rows_of(report: ShardReport) -> dict[int, int]:
    """Return {frame_index: pts_us}."""
    index = pq.read_table(report.directory / "index.parquet").to_pydict()
    return dict(zip(index["frame_index"], index["pts_us"], strict=True))


def left_out(report: ShardReport, fact: str) -> list[int]:
    """Return a count per segment, from the receipts."""
    receipts = sorted((report.directory / "receipts").glob("walk-*.json"))
    return [json.loads(path.read_text())["facts"][fact] for path in receipts]


def per_segment(pts_us: list[int], segments: int) -> list[int]:
    return [sum(pts // 1_000_000 == segment for pts in pts_us) for segment in range(segments)]


# What the index says against other programs' listings.


def fps_30(path: Path) -> Path:
    return write_clip(path / "a.mp4", source="testsrc2=size=64x48:rate=30:duration=2", bf=2)


def fps_60(path: Path) -> Path:
    return write_clip(path / "a.mp4", source="testsrc2=size=64x48:rate=60000/1001:duration=2")


def variable_rate(path: Path) -> Path:
    return write_clip(
        path / "a.mkv",
        source="testsrc2=size=64x48:rate=30:duration=3",
        filters="select='lt(n,20)+not(mod(n,7))'",
        fps_mode="vfr",
    )


def rotated(path: Path) -> Path:
    return rotate(fps_60(path), path / "rotated.mp4", 90)


def late_first_pts(path: Path) -> Path:
    return remux(fps_30(path), path / "late.ts", output_ts_offset=3.21)


def cut_between_keyframes(path: Path) -> Path:
    """Its edit list hides the frames before the cut."""
    return remux(fps_30(path), path / "cut.mp4", ss=0.4)


SOURCES = [fps_30, fps_60, variable_rate, rotated, late_first_pts, cut_between_keyframes]


@pytest.mark.parametrize("listing", [shown_pts_us, decoded_pts_us])
@pytest.mark.parametrize("source", SOURCES)
def test_the_times_are_those_that_ffmpeg_shows_and_pyav_decodes(tmp_path, source, listing):
    path = source(tmp_path)
    listed = listing(path)
    assert list(rows_of(shard(tmp_path, path, NATIVE, "native")).values()) == listed
    ticks = rows_of(shard(tmp_path, path, TICKS, "ticks"))
    assert ticks == expected_ticks(listed, Fraction(30))


def test_a_rotated_video_is_stored_upright(tmp_path):
    report = shard(tmp_path, rotated(tmp_path), NATIVE)
    assert report.dataset is not None
    assert (report.dataset.videos[0].width, report.dataset.videos[0].height) == (48, 64)


# Damage: packets that do not decode, frames that decode with errors, packets that are not there.


def good_clip(path: Path, suffix: str) -> Path:
    clip = write_clip(
        path / "good.mp4", source="mandelbrot=size=160x120:rate=30", t=3, g=15, crf=18, bf=2
    )
    return clip if suffix == ".mp4" else remux(clip, path / f"good{suffix}")


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("params", [NATIVE, TICKS], ids=["native", "30"])
def test_packets_that_do_not_decode_are_holes_counted_in_their_segment(tmp_path, suffix, params):
    good, bad = good_clip(tmp_path, suffix), tmp_path / f"bad{suffix}"
    lost = destroy_packets(good, bad, [17, 20, 47, 50, 53, 88])  # none of them is referred to
    whole, damaged = shard(tmp_path, good, params, "good"), shard(tmp_path, bad, params, "bad")
    expected = {number: pts for number, pts in rows_of(whole).items() if pts not in lost}
    assert rows_of(damaged) == expected
    assert len(expected) == 84
    assert left_out(damaged, "undecodable_frames") == per_segment(lost, 3)
    assert sum(left_out(damaged, "corrupt_frames")) == 0
    assert sum(left_out(whole, "undecodable_frames")) == 0
    assert damaged.dataset is not None
    assert damaged.dataset.videos[0].undecodable_frames == 6
    assert damaged.dataset.videos[0].holes == 5  # the sixth is after the last frame


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_flipped_bytes_cost_only_the_frames_that_are_counted(tmp_path, suffix):
    good, bad = good_clip(tmp_path, suffix), tmp_path / f"bad{suffix}"
    data = bytearray(good.read_bytes())
    for place in np.random.default_rng(1).integers(len(data) // 3, len(data) // 2, 20):
        data[place] ^= 0xFF
    bad.write_bytes(data)
    listed = listed_pts_us(bad)
    report = shard(tmp_path, bad, NATIVE)
    rows = rows_of(report)
    assert rows.items() <= dict(enumerate(listed)).items()
    kept = per_segment(list(rows.values()), 3)
    losses = zip(
        left_out(report, "corrupt_frames"), left_out(report, "undecodable_frames"), strict=True
    )
    assert [a + b for a, b in zip(kept, map(sum, losses), strict=True)] == per_segment(listed, 3)
    assert 0 < len(rows) < len(listed)


def test_the_counts_do_not_depend_on_where_segments_begin(tmp_path):
    bad = tmp_path / "bad.mp4"
    lost = destroy_packets(good_clip(tmp_path, ".mp4"), bad, [14, 31, 46, 88, 89])
    counts: list[Any] = []
    for seconds in (1, 2, 60):
        params = ShardParams(frames_per_second="native", shard_seconds=seconds, short_side=48)
        report = shard(tmp_path, bad, params, f"s{seconds}")
        assert report.dataset is not None
        record = report.dataset.videos[0]
        counts.append((record.corrupt_frames, record.undecodable_frames, rows_of(report)))
    assert counts[0] == counts[1] == counts[2]
    assert counts[0][1] == len(lost)


def test_good_frames_after_a_damaged_packet_at_the_end_are_kept(tmp_path):
    bad = tmp_path / "bad.mp4"
    clip = write_clip(tmp_path / "a.mp4", source="mandelbrot=size=160x120:rate=30", t=2, g=1, bf=0)
    lost = destroy_packets(clip, bad, [56, 58])
    for threads in (0, 1, 2, 8):
        with open_video(bad, threads=threads) as video:
            shown = [frame.pts_us for frame in video.frames()]
            assert video.undecoded_pts_us(0, 10_000_000) == lost
        assert shown == [pts for pts in listed_pts_us(clip) if pts not in lost]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_packet_that_is_not_there_shifts_no_other(tmp_path, suffix):
    good, bad = good_clip(tmp_path, suffix), tmp_path / f"bad{suffix}"
    drop_packets(good, bad, [17, 50, 51])
    listed = listed_pts_us(bad)
    assert len(listed) == 87
    whole, damaged = shard(tmp_path, good, TICKS, "good"), shard(tmp_path, bad, TICKS, "bad")
    rows = rows_of(damaged)
    assert rows.items() < rows_of(whole).items()
    gone = sum(left_out(damaged, "corrupt_frames")) + sum(left_out(damaged, "undecodable_frames"))
    assert len(rows) == 87 - gone
