"""What is seen of a run while it trains, and that looking changes nothing."""

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)

from tests.support.shard_set import TINY, write_shard_set
from tests.support.two_ranks import on_two_ranks
from training.config.presets import resolve_config
from training.data.clips import open_source
from training.distributed.world import World
from training.engine.metrics import read_metrics
from training.engine.setup import build_state
from training.evaluation.knn import evaluate_knn
from training.monitors.attention_overlay import AttentionOverlay
from training.pretrain import pretrain
from training.weights.backbones import open_backbone
from wtours.errors import ImageDataError, UsageError

WORLD = World(0, 1, 0, torch.device("cpu"))
pytestmark = pytest.mark.medium


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shard_set(tmp_path_factory.mktemp("watching") / "shards")


def train(shards, run_dir, *overrides):
    config = resolve_config("official", None, [*TINY, "optim.steps=4", *overrides])
    pretrain(config, shards_dir=shards, run_dir=run_dir, world=WORLD)
    return read_metrics(run_dir / "metrics.jsonl")


def write_images(folder, seed, count):
    rng = np.random.default_rng(seed)
    for name, color in (("red", (200, 40, 40)), ("blue", (40, 40, 200)), ("gray", (90, 90, 90))):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            noise = rng.normal(0, 60, (40, 40, 3))
            pixels = np.clip(noise + color, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return str(folder)


def test_overlays_and_knn_come_at_their_steps_and_change_nothing(shards, tmp_path):
    images = write_images(tmp_path / "train", 0, 4), write_images(tmp_path / "val", 1, 3)
    run = tmp_path / "watched"
    watched = train(
        shards, run, "watch.overlay_every_steps=2", "watch.overlay_clips=1",
        f"watch.knn_train={images[0]}", f"watch.knn_val={images[1]}",
        "watch.knn_every_steps=4", "watch.knn_k=5",
    )  # fmt: skip
    assert ["knn_top1_percent" in line for line in watched] == [False, False, False, True]
    alone = evaluate_knn(open_backbone(str(run), Path), *images, ks=[5])
    (score,) = alone.content["results"]["teacher"]
    assert watched[3]["knn_top1_percent"] == score["top1_percent"]

    figures = sorted(path.name for path in (run / "figures").iterdir())
    assert figures == ["step-00000002-street-00010000ms.png", "step-00000004-street-00010000ms.png"]
    first, second = (np.asarray(Image.open(run / "figures" / name)) for name in figures)
    assert first.shape == second.shape
    assert (first != second).any()  # the teacher has moved
    board = EventAccumulator(str(run / "tensorboard")).Reload()
    assert [e.step for e in board.Images("attention/street-00010000ms")] == [2, 4]

    plain = train(shards, tmp_path / "plain")
    for line, other in zip(watched, plain, strict=True):
        line.pop("knn_top1_percent", None)
        assert line | {"time": 0} == other | {"time": 0}


def test_an_overlay_is_of_the_whole_network_where_the_student_is_drawn(shards, tmp_path):
    deep = ("model.depth=4", "model.drop_path_rate=0.9", "data.clip_length=2")
    watch = ("watch.overlay_every_steps=1", "watch.overlay_clips=1")
    fixed = {"data.local_crops", "data.global_crops"}  # of the preset
    tiny = [pair for pair in TINY if pair.partition("=")[0] not in fixed]
    config = resolve_config("simclr", None, [*tiny, *deep, *watch])
    state = build_state(config, WORLD)
    state.step = 1
    clips = open_source(shards, config.data, "clips")
    overlay = AttentionOverlay(config, tmp_path, clips, lambda: None)
    once, again = (
        [np.asarray(image) for image in overlay.after_step(state, {}).values()] for _ in range(2)
    )
    assert np.array_equal(once, again)  # stochastic depth would draw anew
    assert state.method.student.backbone.training

    def stop() -> None:
        raise InterruptedError

    stopped = AttentionOverlay(config, tmp_path, clips, stop)
    with pytest.raises(InterruptedError):
        stopped.after_step(state, {})
    assert state.method.student.backbone.training


def test_a_clip_whose_interval_is_drawn_has_its_overlay_at_the_mean_one(shards, tmp_path):
    overrides = ("watch.overlay_every_steps=4", "watch.overlay_clips=1")
    train(shards, tmp_path, *overrides, "data.frame_interval_seconds={min: 1.0, max: 2.0}")
    (figure,) = (tmp_path / "figures").iterdir()
    assert figure.stat().st_size > 0


def _on_a_rank(shards, run_dir, overrides, rank):
    config = resolve_config("official", None, [*TINY, "optim.steps=2", *overrides])
    world = World(rank, 2, rank, torch.device("cpu"))
    pretrain(config, shards_dir=Path(shards), run_dir=Path(run_dir), world=world)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_two_ranks_share_the_images_of_a_knn_and_find_what_one_finds(shards, tmp_path, parallel):
    # 129 images: one rank has two batches of them, the other one.
    images = write_images(tmp_path / "train", 0, 43), write_images(tmp_path / "val", 1, 3)
    run, knn = tmp_path / "run", (f"watch.knn_train={images[0]}", f"watch.knn_val={images[1]}")
    overrides = (*knn, "watch.knn_every_steps=2", "watch.knn_k=4", f"optim.parallel={parallel}")
    (tmp_path / "ranks").mkdir()
    on_two_ranks(
        functools.partial(_on_a_rank, str(shards), str(run), overrides), tmp_path / "ranks"
    )
    alone = evaluate_knn(open_backbone(str(run), Path), *images, ks=[4])
    (score,) = alone.content["results"]["teacher"]
    lines = read_metrics(run / "metrics.jsonl")
    assert lines[1]["knn_top1_percent"] == pytest.approx(score["top1_percent"])


def test_images_that_are_not_there_are_said_before_the_first_step(shards, tmp_path):
    missing = str(tmp_path / "none")
    with pytest.raises(ImageDataError, match="none"):
        train(shards, tmp_path / "run", f"watch.knn_train={missing}", f"watch.knn_val={missing}")
    with pytest.raises(UsageError, match=r"watch.knn_train and watch.knn_val go together"):
        train(shards, tmp_path / "run", f"watch.knn_train={missing}")
