"""The example files in docs/ run on a shard set, and what they train learns something."""

import runpy
from pathlib import Path

import pytest

from tests.support.sharded_videos import publish_video
from tests.support.video_clips import write_clip
from wtours.sharding.build import build_shards
from wtours.shards.schema import ShardParams
from wtours.workspace.layout import Layout

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    layout = Layout(folder / "root")
    for video_id, pattern in (("one", "testsrc2"), ("two", "mandelbrot")):
        source = f"{pattern}=size=96x64:rate=10"
        publish_video(layout, video_id, write_clip(folder / f"{video_id}.mp4", source=source, t=10))
    params = ShardParams(frames_per_second="10", shard_seconds=5)
    return build_shards(layout, ["one", "two"], params=params).directory


@pytest.mark.medium
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("frame_pairs", {"steps": 30, "num_workers": 0}),
        ("ordered_sequences", {"steps": 12, "num_workers": 0}),
        ("single_frames", {"steps": 60}),
    ],
)
@pytest.mark.filterwarnings(
    "ignore:unclosed file:ResourceWarning"  # webdataset opens local tars and leaves them to the GC
)
def test_an_example_learns(shards, name, options):
    pytest.importorskip("torch")
    example = runpy.run_path(str(EXAMPLES / f"{name}.py"))
    source = str(shards) if name == "ordered_sequences" else shards
    losses = example["train"](source, **options)
    assert len(losses) == options["steps"]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
