"""Odd files that people report to video tools, each with its right value, through every stage.

The files are described in `cases/README.md` of WTOURS_TEST_DATA.
"""

import json
import tarfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import simplejpeg

from tests.support.own_walk import add_one
from wtours.acquire.add_video import Claims
from wtours.acquire.download import download_videos
from wtours.analyze.pipeline import analyze_videos
from wtours.analyze.schema import load_summary
from wtours.errors import DownloadError
from wtours.media.probe import probe_video
from wtours.media.reader import open_video
from wtours.sharding.build import build_shards
from wtours.shards.params import ShardParams
from wtours.workspace.layout import Layout
from wtours.workspace.manifest import load_manifest
from wtours.workspace.videos import download_receipt

pytestmark = pytest.mark.medium  # whole stages: left out of the inner loop

RIGHT = {  # frames, seconds, rate
    "concat_restart.ts": (175, 7.0, 25),
    "raw_in_mp4.mp4": (98, 3.92, 25),
    "hflip.mp4": (20, 2.0, 10),
    "held_last.mp4": (118, 9.9, 12),
    "mkv_audio_longer.mkv": (100, 4.0, 25),
    "elst_tail.mp4": (75, 3.0, 25),
    "preview_first.mov": (150, 6.0, 25),
    "paff.mkv": (40, 1.6, 25),
    "sar43.mp4": (50, 2.0, 25),
    "mediarecorder.webm": (180, 12.0, 15),
    "epoch.mkv": (150, 6.0, 25),
}
REPAIRED = {"concat_restart.ts", "raw_in_mp4.mp4", "held_last.mp4", "epoch.mkv"}


@pytest.mark.parametrize("name", RIGHT)
def test_every_stage_sees_the_right_frames(name, data_dir, tmp_path):
    layout = Layout(tmp_path / "root")
    frames, seconds, rate = RIGHT[name]
    add_one(data_dir / "cases" / name, "walk", tmp_path / "w.toml", layout)
    receipt = download_receipt(layout, "walk")
    assert receipt is not None
    assert receipt.facts["duration_us"] == pytest.approx(seconds * 1e6, rel=0.01)
    assert float(Fraction(receipt.facts["frame_rate"])) == pytest.approx(rate, rel=0.01)
    assert receipt.facts["repaired_times"] is (name in REPAIRED)

    assert analyze_videos(layout, ["walk"], segment_seconds=1).failed == {}
    summary = load_summary(layout, "walk")
    assert summary.frames == frames
    assert summary.seconds == receipt.facts["duration_us"] / 1e6
    table = pq.read_table(layout.analysis_dir("walk") / "frames.parquet")
    pts_us = table["pts_us"].to_numpy()
    assert (np.diff(pts_us) > 0).all()

    params = ShardParams(frames_per_second="native", shard_seconds=1, short_side=48)
    report = build_shards(layout, ["walk"], params=params)
    assert report.failed == {}
    index = pq.read_table(report.directory / "index.parquet")
    assert index["frame_index"].to_pylist() == list(range(frames))
    assert index["pts_us"].to_numpy().tolist() == pts_us.tolist()
    assert report.dataset is not None
    video = report.dataset.videos[0]
    assert (video.holes, video.undecodable_frames, video.corrupt_frames) == (0, 0, 0)
    assert (video.width, video.height) == (summary.width, summary.height)


@pytest.mark.parametrize("name", sorted(set(RIGHT) - {"mediarecorder.webm", "held_last.mp4"}))
def test_frames_of_a_constant_rate_are_a_period_apart(name, data_dir):
    frames, _, rate = RIGHT[name]
    with open_video(data_dir / "cases" / name) as video:
        found = [frame.pts_us for frame in video.frames()]
    assert found == [round(i * 1_000_000 / rate) for i in range(frames)]


def test_a_held_last_picture_is_held(data_dir):
    with open_video(data_dir / "cases/held_last.mp4") as video:
        found = [frame.pts_us for frame in video.frames()]
        assert found == [round(i * 1e6 / 30) for i in range(118)]
        assert video.metadata.last_duration_us == 6_000_000


def test_a_mirrored_video_is_read_as_it_is_shown(data_dir):
    with open_video(data_dir / "cases/hflip.mp4") as video:
        frame = next(video.frames())
        rgb = frame.to_rgb()
        assert (video.metadata.rotation, video.metadata.is_mirrored) == (0, True)
    luma, _, _ = frame.to_jpeg_planes()
    corners = [rgb[y, x].astype(int) for y, x in ((5, 5), (5, -5), (-5, 5), (-5, -5))]
    lime, red, black, blue = corners
    assert lime[1] > 200 > 60 > max(lime[0], lime[2])
    assert red[0] > 200 > 60 > max(red[1], red[2])
    assert black.max() < 40
    assert blue[2] > 200 > 60 > max(blue[0], blue[1])
    assert np.array_equal(frame.to_bgr()[..., ::-1], rgb)
    assert luma[5, 5] > luma[5, -5] > luma[-5, 5]  # lime, red, black


def test_the_film_is_taken_and_not_its_preview(data_dir):
    facts = probe_video(data_dir / "cases/preview_first.mov")
    assert (facts.stream, facts.video_streams) == (1, 2)
    assert (facts.width, facts.height) == (160, 120)
    preview = probe_video(data_dir / "cases/preview_first.mov", stream=0)
    assert (preview.width, preview.height, preview.duration_us) == (64, 48, 6_000_000)


def test_another_stream_is_taken_when_asked_for_by_add_and_by_the_manifest(data_dir, tmp_path):
    source, manifest = data_dir / "cases/preview_first.mov", tmp_path / "w.toml"
    claims = Claims(stream=0)
    add_one(source, "walk", manifest, Layout(tmp_path / "root"), claims=claims)
    loaded = load_manifest(manifest)
    assert [entry.stream for entry in loaded.videos] == [0]
    assert loaded.videos[0].resolution == (64, 48)

    layout = Layout(tmp_path / "again")
    report = download_videos(loaded.select(), layout, files_dir=source.parent)
    assert report.done == ["walk"]
    assert analyze_videos(layout, ["walk"]).failed == {}
    assert load_summary(layout, "walk").frames == 6
    params = ShardParams(frames_per_second="native", shard_seconds=60, short_side=48)
    shards = build_shards(layout, ["walk"], params=params)
    assert shards.dataset is not None
    assert shards.dataset.frames == 6


def test_oblong_pixels_become_square_and_are_recorded(data_dir, tmp_path):
    layout = Layout(tmp_path)
    source = data_dir / "cases/sar43.mp4"
    add_one(source, "walk", tmp_path / "w.toml", layout)
    params = ShardParams(frames_per_second="native", shard_seconds=60, short_side=512)
    report = build_shards(layout, ["walk"], params=params)
    with tarfile.open(report.directory / "walk-00000.tar") as tar:
        files = [(Path(member.name).suffix, tar.extractfile(member)) for member in tar]
        parts = {kind: file.read() for kind, file in files if file is not None}
    jpeg, sample = parts[".jpg"], json.loads(parts[".json"])
    assert sample["source_pixel_aspect_ratio"] == "4/3"
    assert simplejpeg.decode_jpeg(jpeg).shape == (120, 213, 3)
    receipt = download_receipt(layout, "walk")
    assert receipt is not None
    assert receipt.facts["pixel_aspect_ratio"] == "4/3"
    assert (receipt.facts["width"], receipt.facts["height"]) == (213, 120)


def test_a_size_that_changes_is_refused_when_the_file_is_added(data_dir, tmp_path):
    source, layout = data_dir / "cases/size_change.ts", Layout(tmp_path)
    with pytest.raises(DownloadError, match=r"changes from 160x120 to 320x240 at 2\.00 s; .*scale"):
        add_one(source, "walk", tmp_path / "w.toml", layout)
    assert json.loads(layout.video_receipt("walk").read_text())["status"] == "failed_permanent"
    assert not Path(tmp_path / "w.toml").exists()
