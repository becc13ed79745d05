"""`wtours shards info` and `wtours shards sample`."""

import json
from pathlib import Path

import av
import numpy as np
import pytest

from tests.support.command_line import run_here
from tests.support.shard_set import write_shard_set
from tests.support.sharded_videos import publish_video
from tests.support.video_clips import write_clip
from wtours.errors import ShardError, UsageError
from wtours.sharding.build import build_shards
from wtours.shards.contact_sheet import sample_grid
from wtours.shards.params import ShardParams
from wtours.shards.statistics import shards_info
from wtours.workspace.layout import Layout


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A red video of 9 s and a blue one of 10 s, at 10 frames a second."""
    folder = tmp_path_factory.mktemp("look")
    layout = Layout(folder / "root")
    for video_id, seconds in (("red", 9), ("blue", 10)):
        source = f"color={video_id}:size=96x64:rate=10"
        clip = write_clip(folder / f"{video_id}.mp4", source=source, t=seconds)
        publish_video(layout, video_id, clip)
    params = ShardParams(frames_per_second="10", shard_seconds=5)
    build_shards(layout, ["blue", "red"], params=params)
    return layout.root


CAPTION = 20 + 20 + 2  # the video, the times, gap
ROW = CAPTION + 120 + 2  # frames, gap


def pixels_of(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")


def test_info_counts_what_the_set_has(root):
    info = shards_info(Layout(root).shards_dir("default"))
    assert (info.frames, info.shards, info.clips) == (190, 4, 30 + 20)
    assert info.hours == pytest.approx((9.9 + 8.9) / 3600)
    assert info.bytes == sum(p.stat().st_size for p in Path(info.directory).glob("*.tar"))
    assert [(v.video_id, v.frames, v.clips, v.shots) for v in info.videos] == [
        ("blue", 100, 30, None),
        ("red", 90, 20, None),
    ]
    assert not info.shots_known
    assert info.licenses == ("CC-BY",)
    assert shards_info(info.directory, clip_length=99).clips == 0


@pytest.mark.medium
def test_info_prints_a_table_and_the_same_as_json(root):
    text = run_here("shards", "info", "--root", root).stdout
    assert "190 frames" in text
    assert "CC-BY (not observed)" in text
    assert "run `wtours analyze`" in text
    printed = json.loads(run_here("shards", "info", "default", "--json", "--root", root).stdout)
    info = shards_info(Layout(root).shards_dir("default"))
    assert printed["clips"] == info.clips
    assert printed["licenses"] == ["CC-BY"]
    assert printed["videos"][0]["video_id"] == "blue"


def test_a_grid_has_a_row_of_frames_for_each_clip(root, tmp_path):
    directory = Layout(root).shards_dir("default")
    clips = sample_grid(directory, tmp_path / "grid.png", num_clips=6)
    pixels = pixels_of(tmp_path / "grid.png")
    assert pixels.shape == (6 * ROW, 8 * 182, 3)
    for row, clip in enumerate(clips):
        cell = pixels[row * ROW + 52 : row * ROW + 152, 7 * 182 + 10 : 7 * 182 + 170]
        strongest = int(cell.mean(axis=(0, 1)).argmax())
        assert strongest == {"red": 0, "blue": 2}[clip.video_id]
    assert {clip.video_id for clip in clips} == {"red", "blue"}
    assert len(sample_grid(directory, tmp_path / "all.png", num_clips=99)) == 50
    assert sample_grid(directory, tmp_path / "b.png", num_clips=6, seed=1) != clips


def test_a_row_is_headed_by_its_video_and_the_time_of_each_frame(root, tmp_path):
    directory = Layout(root).shards_dir("default")
    first, other = sample_grid(directory, tmp_path / "grid.png", num_clips=2)
    pixels = pixels_of(tmp_path / "grid.png").astype(int)
    captions = [pixels[row * ROW : row * ROW + CAPTION] for row in (0, 1)]
    for caption in captions:
        times = [caption[20:, 182 * cell : 182 * cell + 180].max() for cell in range(8)]
        assert min(times) > 200
        names = [caption[:20, 182 * cell : 182 * cell + 180].max() for cell in range(8)]
        assert names[0] > 200
        assert max(names[1:]) == 0
    # Another clip, other words.
    assert (first.video_id, first.pts_us) != (other.video_id, other.pts_us)
    assert np.abs(captions[0] - captions[1]).max() > 200


def test_a_long_name_takes_no_time_from_the_frames_beside_it(tmp_path):
    name = "a_walk_whose_name_is_longer_than_a_frame_is_wide"
    clip = write_clip(tmp_path / "clip.mp4", source="color=red:size=96x64:rate=10", t=9)
    layout = Layout(tmp_path / "root")
    publish_video(layout, name, clip)
    build_shards(layout, [name], params=ShardParams(frames_per_second="10", shard_seconds=5))
    sample_grid(layout.shards_dir("default"), tmp_path / "grid.png", num_clips=1)
    times = pixels_of(tmp_path / "grid.png")[20:CAPTION]
    assert min(times[:, 182 * cell : 182 * cell + 180].max() for cell in range(8)) > 200


def test_a_grid_that_cannot_be_is_refused(root, tmp_path):
    directory = Layout(root).shards_dir("default")
    with pytest.raises(UsageError, match=r"grid\.jpg must end in \.png"):
        sample_grid(directory, tmp_path / "grid.jpg")
    with pytest.raises(ShardError, match="no clip of 99 frames"):
        sample_grid(directory, tmp_path / "grid.png", clip_length=99)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.medium
def test_the_command_draws_a_grid_and_says_what_is_in_it(root, tmp_path):
    out = tmp_path / "grid.png"
    result = run_here("shards", "sample", "default", "--out", out, "--clips", "2", "--root", root)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("row ") == 2
    assert pixels_of(out).shape[0] == 2 * ROW
    assert run_here("shards", "info", "absent", "--root", root).returncode == 1


def test_the_hours_of_a_set_with_a_condition_are_those_of_its_seconds(tmp_path):
    folder = write_shard_set(tmp_path / "set", num_frames=24, interval_us=500_000)
    assert shards_info(folder).hours == 23 / 3600  # to the last frame of the source
    document = json.loads((folder / "dataset.json").read_text())
    document["params"]["where"] = {"expression": "not frozen", "seconds_sha256": "0" * 64}
    (folder / "dataset.json").write_text(json.dumps(document))
    assert shards_info(folder).hours == 12 / 3600
