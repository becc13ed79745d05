"""The faster ways to compute stay near float32, or equal it; the bounds are those of the docs."""

import json
import logging

import pytest
import torch

from tests.support.shard_set import TINY, write_shard_set
from training.config.presets import resolve_config
from training.distributed.world import World
from training.engine.checkpoint_files import STATE, checkpoint_dir
from training.engine.metrics import read_metrics
from training.engine.precision import describe_float32, for_device, numerics
from training.pretrain import pretrain

WORLD = World(0, 1, 0, torch.device("cpu"))
STEPS = ("optim.steps=6", "checkpoint.every_steps=1", "checkpoint.keep_last=9")
pytestmark = pytest.mark.medium


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shard_set(tmp_path_factory.mktemp("precision") / "shards")


def train(shards, run_dir, *overrides, **options):
    config = resolve_config("official", None, [*TINY, *STEPS, *overrides])
    pretrain(config, shards_dir=shards, run_dir=run_dir, world=WORLD, **options)
    return read_metrics(run_dir / "metrics.jsonl")


@pytest.fixture(scope="module")
def float32(shards, tmp_path_factory):
    return train(shards, tmp_path_factory.mktemp("runs") / "float32")


def worst_ratio(ours, theirs, name):
    return max(abs(our[name] / their[name] - 1) for our, their in zip(ours, theirs, strict=True))


def test_bfloat16_stays_within_the_documented_bounds_of_float32(shards, float32, tmp_path):
    lines = train(shards, tmp_path / "run", "optim.precision=bfloat16")
    assert 0 < worst_ratio(lines, float32, "loss") < 0.005
    assert worst_ratio(lines, float32, "gradient_norm") < 0.1


@pytest.mark.parametrize(
    ("asked", "device", "taken"),
    [("auto", "cuda", "bfloat16"), ("auto", "cpu", "float32"), ("float32", "cuda", "float32")],
)
def test_auto_is_bfloat16_on_cuda_alone(asked, device, taken):
    config = resolve_config("official", None, [f"optim.precision={asked}"])
    assert for_device(config, torch.device(device)).optim.precision == taken
    assert resolve_config("official", None, []).optim.precision == "auto"


def test_a_run_records_and_says_what_it_computes_in(shards, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "training"):
        train(shards, tmp_path / "run", "optim.steps=1")
    assert "networks in float32, float32 products exact" in caplog.text
    assert "precision: float32\n" in (tmp_path / "run" / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("asked", "device", "found"),
    [
        ("high", "cuda", ("high", True)),
        ("highest", "cuda", ("highest", False)),
        ("medium", "cpu", ("highest", True)),
    ],
)
def test_tensorfloat_is_for_cuda_and_is_put_back(asked, device, found):
    def now():
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    before = now()
    optim = resolve_config("official", None, [f"optim.float32_matmul_precision={asked}"]).optim
    with numerics(optim, torch.device(device)):
        assert now() == found
        exact = found[0] == "highest"
        assert describe_float32() == ("float32" if exact else "float32, products 'high'")
    assert now() == before == ("highest", True)


# torch's tracing looks at the gradient of every input, and warns of itself.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_compiled_blocks_stay_within_the_documented_bounds_of_float32(shards, tmp_path):
    fewer = ("data.local_crops=1", "loss.local_crops_skipped=1")  # one size: half the compilations
    plain = train(shards, tmp_path / "plain", *fewer)
    lines = train(shards, tmp_path / "compiled", "model.compile=true", *fewer)
    assert worst_ratio(lines, plain, "loss") < 1e-5
    assert worst_ratio(lines, plain, "gradient_norm") < 1e-4
    norms = [[line["gradient_norm"] for line in some] for some in (lines, plain)]
    assert norms[0] != norms[1]  # it is other code


def test_deterministic_operators_give_the_same_numbers_on_a_cpu(shards, float32, tmp_path):
    seen = []
    lines = train(
        shards, tmp_path / "run", "optim.deterministic=true",
        on_step=lambda _: seen.append(torch.are_deterministic_algorithms_enabled()),
    )  # fmt: skip
    assert seen == [True] * 6
    assert not torch.are_deterministic_algorithms_enabled()
    assert [line["loss"] for line in lines] == [line["loss"] for line in float32]


def weights(run_dir, step):
    return (checkpoint_dir(run_dir, step) / "optimizer.safetensors").read_bytes()


def scale(run_dir, step):
    return json.loads((checkpoint_dir(run_dir, step) / STATE).read_text())["scaler"]["scale"]


def test_float16_halves_its_scale_until_the_gradients_fit_and_is_resumed(shards, float32, tmp_path):
    run = tmp_path / "run"
    lines = train(shards, run, "optim.precision=float16")
    assert lines[0]["loss"] == pytest.approx(float32[0]["loss"], rel=1e-3)
    # A gradient norm of some 290 at a scale of 65536 is above float16's largest number, 65504.
    assert lines[0]["gradient_norm"] is None
    scales = [line["loss_scale"] for line in lines]
    left_out = [line["gradient_norm"] is None for line in lines]
    assert scales[0] == 65536
    for before, after, overflowed in zip(scales, scales[1:], left_out, strict=False):
        assert after == (before / 2 if overflowed else before)
    assert weights(run, 1) == weights(run, 2)  # no moments: no step of the optimizer yet
    assert scale(run, 3) == scales[3]

    def stop(status):
        if status.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(shards, tmp_path / "again", "optim.precision=float16", on_step=stop)
    again = train(shards, tmp_path / "again", "optim.precision=float16")
    assert [line | {"time": 0} for line in again] == [line | {"time": 0} for line in lines]
    assert weights(tmp_path / "again", 6) == weights(run, 6)
