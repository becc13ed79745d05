"""What damage costs is said by every stage, in the same numbers, and above a share refused."""

from pathlib import Path

import pytest

from tests.support.analyze_cases import add_video
from tests.support.own_walk import add_one
from tests.support.sharded_videos import publish_video
from tests.support.video_clips import remux, write_clip
from wtours.acquire.options import FetchOptions
from wtours.analyze.pipeline import analyze_videos
from wtours.analyze.schema import load_summary
from wtours.errors import DownloadError
from wtours.media.probe import probe_video
from wtours.media.reader import open_video
from wtours.sharding.build import build_shards, finalize_shards
from wtours.shards.params import ShardParams
from wtours.workspace.layout import Layout

pytestmark = pytest.mark.medium  # whole stages: left out of the inner loop

SMALL = ShardParams(frames_per_second="native", shard_seconds=2, short_side=48)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    return write_clip(
        folder / "a.mp4", source="mandelbrot=size=160x120:rate=30", t=6, g=15, crf=18, bf=2
    )


def zeroed(source: Path, path: Path, start: float, end: float) -> Path:
    """Copy a file with this part of its bytes zero."""
    remux(source, path)
    data = bytearray(path.read_bytes())
    first, last = int(start * len(data)), int(end * len(data))
    data[first:last] = bytes(last - first)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".avi"])
def test_a_third_of_zero_bytes_is_refused_when_the_file_is_added(suffix, clip, tmp_path):
    bad, layout = zeroed(clip, tmp_path / f"bad{suffix}", 1 / 3, 2 / 3), Layout(tmp_path / "root")
    with pytest.raises(DownloadError, match=r"of it is lost .*--max-loss|cut or damaged"):
        add_one(bad, "walk", tmp_path / "w.toml", layout)


def test_a_loss_that_is_accepted_is_said_and_counted_alike_by_every_stage(clip, tmp_path, caplog):
    bad, layout = zeroed(clip, tmp_path / "bad.mp4", 1 / 3, 2 / 3), Layout(tmp_path / "root")
    options = FetchOptions(max_loss=0.6)
    manifest = tmp_path / "w.toml"
    add_one(bad, "walk", manifest, layout, options=options)
    assert "of it is lost" in caplog.text

    refused = analyze_videos(layout, ["walk"])
    assert "--max-loss" in refused.failed["walk"]
    assert not (layout.analysis_dir("walk") / "summary.json").exists()
    refused_shards = build_shards(layout, ["walk"], params=SMALL)
    assert "--max-loss" in refused_shards.failed["walk"]
    assert refused_shards.dataset is None

    assert analyze_videos(layout, ["walk"], max_loss=0.6, segment_seconds=1).done == ["walk"]
    report = finalize_shards(layout, "default", max_loss=0.6)
    assert report.failed == {}
    assert report.dataset is not None
    video, summary = report.dataset.videos[0], load_summary(layout, "walk")
    assert summary.undecodable_frames == video.undecodable_frames > 30
    assert summary.corrupt_frames == video.corrupt_frames
    assert summary.frames + video.undecodable_frames == 180


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_what_does_not_decode_does_not_depend_on_the_length_of_segments(suffix, clip, tmp_path):
    bad = zeroed(clip, tmp_path / f"bad{suffix}", 0.4, 0.55)
    with open_video(bad, threads=1) as video:
        shown = len(list(video.frames()))
        whole = video.undecoded_pts_us(0, 10**9)
        for length_us in (250_000, 1_000_000, 2_500_000):
            counts, lost = 0, []
            for start_us in range(0, video.last_pts_us() + 1, length_us):
                counts += sum(1 for _ in video.frames(start_us, start_us + length_us))
                lost += video.undecoded_pts_us(start_us, start_us + length_us)
            assert (counts, lost) == (shown, whole)


def test_frames_before_the_first_that_decodes_are_counted(clip, tmp_path):
    bad = zeroed(clip, tmp_path / "bad.mp4", 0.0005, 0.12)
    data = bytearray(bad.read_bytes())
    with open_video(clip) as video:
        total = len(list(video.frames()))
    data[:48] = clip.read_bytes()[:48]  # ftyp and the beginning of mdat
    bad.write_bytes(data)
    with open_video(bad, threads=1) as video:
        shown = len(list(video.frames()))
        lost = video.undecoded_pts_us(0, 10**9)
    assert shown + len(lost) == total
    assert min(lost) < 0


def test_a_whole_video_has_lost_nothing(clip, tmp_path):
    assert probe_video(clip).lost_share == 0
    layout = Layout(tmp_path)
    add_video(layout, "walk", clip)
    publish_video(layout, "walk", clip)
    assert analyze_videos(layout, ["walk"], max_loss=0).done == ["walk"]
    assert load_summary(layout, "walk").undecodable_frames == 0
    assert build_shards(layout, ["walk"], params=SMALL, max_loss=0).failed == {}
