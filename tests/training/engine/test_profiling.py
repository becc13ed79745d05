"""Traces of chosen steps and the model's FLOP/s, of real runs."""

import json

import pytest
import torch

from tests.support.shard_set import TINY, write_shard_set
from training.config.presets import resolve_config
from training.distributed.world import World
from training.engine.metrics import read_metrics
from training.engine.profiling import peak_of, peak_tflops
from training.flops import BackboneShape, clip_tflop
from training.pretrain import pretrain
from wtours.errors import UsageError

WORLD = World(0, 1, 0, torch.device("cpu"))
pytestmark = pytest.mark.medium


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shard_set(tmp_path_factory.mktemp("profiling") / "shards")


def train(shards, run_dir, *overrides, said=None):
    config = resolve_config("official", None, [*TINY, "optim.steps=4", *overrides])
    lines: list[str] = [] if said is None else said
    pretrain(
        config,
        shards_dir=shards,
        run_dir=run_dir,
        world=WORLD,
        on_step=lambda status: lines.append(status.describe()),
    )
    return read_metrics(run_dir / "metrics.jsonl")


def test_the_trace_has_the_chosen_steps_and_changes_nothing(shards, tmp_path):
    run = tmp_path / "run"
    profiled = train(shards, run, "watch.profile_steps=[2, 3]")
    (trace,) = (run / "profile").iterdir()
    assert trace.name == "steps-2-3.json"
    names = [event["name"] for event in json.loads(trace.read_text())["traceEvents"]]
    assert sum(name.startswith("ProfilerStep#") for name in names) == 2
    assert names.count("Optimizer.step#AdamW.step") == 2
    plain = train(shards, tmp_path / "plain")
    assert [line | {"time": 0} for line in profiled] == [line | {"time": 0} for line in plain]


def test_steps_that_are_done_are_not_traced_again(shards, tmp_path):
    run = tmp_path / "run"
    train(shards, run)
    train(shards, run, "watch.profile_steps=[2, 3]")
    assert not (run / "profile").exists()
    with pytest.raises(UsageError, match=r"watch.profile_steps \[3, 2\] ends before it begins"):
        train(shards, run, "watch.profile_steps=[3, 2]")


def test_the_mfu_is_the_counted_share_of_the_peak(shards, tmp_path):
    said: list[str] = []
    lines = train(shards, tmp_path / "run", "watch.peak_tflops=0.5", said=said)
    config = resolve_config("official", None, list(TINY))
    step = 4 * clip_tflop(config, BackboneShape(48, 2, 8), as_computed=True)
    for line in lines:
        assert line["time"]["tflop_per_second"] == pytest.approx(step / line["time"]["seconds"])
        assert line["time"]["mfu"] == line["time"]["tflop_per_second"] / 0.5
    assert all(" · MFU " in text for text in said)
    assert peak_tflops(torch.device("cpu")) is None
    assert "mfu" not in train(shards, tmp_path / "unknown")[0]["time"]


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H100 80GB HBM3", 989.0),
        ("NVIDIA L4", 121.0),
        ("NVIDIA L40", None),
        ("NVIDIA A10G", None),
        ("NVIDIA RTX A1000", None),
    ],
)
def test_a_gpu_is_known_by_whole_words_of_its_name(name, peak):
    assert peak_of(name) == peak
