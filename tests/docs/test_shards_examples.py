"""The example files in docs/ run on a shard set, and what they train learns something."""

import runpy
from pathlib import Path

import pytest

from tests.support.sharded_videos import publish_video
from tests.support.video_clips import write_clip
from wtours.sharding.build import build_shards
from wtours.shards import ShardIndex
from wtours.shards.params import ShardParams
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
        ("timm_which_walk", {"steps": 16, "num_workers": 0}),
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


@pytest.mark.medium
@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set:UserWarning")  # Trainer's default
def test_the_trainer_of_hugging_face_learns(shards, tmp_path, monkeypatch):
    pytest.importorskip("accelerate")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    example = runpy.run_path(str(EXAMPLES / "huggingface_mae.py"))
    losses = example["train"](shards, tmp_path, steps=30, num_workers=0)
    assert len(losses) == 30
    assert sum(losses[-5:]) < 0.85 * sum(losses[:5])
    assert (tmp_path / "model.safetensors").is_file()


def test_images_for_lightly_train_are_the_bytes_of_the_shards(shards, tmp_path):
    example = runpy.run_path(str(EXAMPLES / "lightly_train_frames.py"))
    assert example["write_images"](shards, tmp_path) == 20
    index = ShardIndex.open(shards)
    for video in index.videos:
        files = sorted((tmp_path / video.video_id).glob("*.jpg"))
        rows = range(video.start, video.stop, 10)  # of ten frames a second
        assert [int(file.stem) for file in files] == index.pts_us[list(rows)].tolist()
        assert [file.read_bytes() for file in files] == list(index.read_jpegs(rows))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # LightlyTrain and Lightning have their own
def test_lightly_train_runs(shards, tmp_path, monkeypatch):
    pytest.importorskip("lightly_train")
    monkeypatch.setenv("LIGHTLY_TRAIN_EVENTS_DISABLED", "1")
    example = runpy.run_path(str(EXAMPLES / "lightly_train_frames.py"))
    settings = {"model": "torchvision/resnet18", "method": "simclr", "epochs": 1, "batch_size": 8}
    small = {"transform_args": {"image_size": (64, 64)}, "num_workers": 0, "accelerator": "cpu"}
    trained = example["train"](shards, tmp_path / "images", tmp_path / "out", **settings, **small)
    assert trained.is_file()
