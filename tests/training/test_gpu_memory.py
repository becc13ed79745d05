"""`--gpu-memory`: the same batch in as few parts as fit, and a refusal that says what would."""

import pytest
import torch

from tests.support.shard_set import TINY, write_shard_set
from training.config.presets import GpuMemory, chosen_keys, parse_memory, resolve_config
from training.config.train import TrainConfig
from training.distributed.world import World
from training.gpu_memory import Fit, fit_memory
from wtours.errors import UsageError

WORLD = World(0, 1, 0, torch.device("cpu"))
pytestmark = pytest.mark.medium


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shard_set(tmp_path_factory.mktemp("memory") / "shards")


def fit(shards, size: float, *overrides: str, processes: int = 1, preset: str = "official") -> Fit:
    config = resolve_config(preset, None, [*TINY, *overrides])
    memory = GpuMemory(size, chosen_keys(None, overrides))
    return fit_memory(config, memory, shards_dir=shards, world=WORLD, processes=processes)


def settings(config: TrainConfig) -> tuple[str, int, bool]:
    optim = config.optim
    return optim.precision, optim.accumulation_steps, config.model.activation_checkpointing


def test_as_little_is_changed_as_the_memory_asks_for(shards):
    roomy = fit(shards, 1e12)
    assert settings(roomy.config) == ("float32", 1, False)
    needed = roomy.needed_bytes
    lower = fit(shards, needed - 1)
    assert settings(lower.config)[0] == "bfloat16"
    found = lower
    seen = [settings(found.config)]
    while not settings(found.config)[2] or settings(found.config)[1] < 4:
        found = fit(shards, found.needed_bytes - 1)  # a byte less than what was needed
        assert found.config.optim.global_batch_size == roomy.config.optim.global_batch_size
        seen.append(settings(found.config))
    with pytest.raises(UsageError, match=r"fit a GPU of"):
        fit(shards, found.needed_bytes - 1)
    counts = [count for _, count, checkpointed in seen if not checkpointed]
    assert counts == sorted(counts)
    assert counts[-1] == roomy.config.optim.global_batch_size == 4  # a clip at a time
    assert "a step still has 4 clips" in found.describe()


@pytest.mark.parametrize(("batch_norm", "parts"), [(True, 2), (True, 1), (False, 2)])
def test_a_batch_norm_that_sees_parts_is_said(batch_norm, parts):
    overrides = [f"model.head_batch_norm={batch_norm}", f"optim.accumulation_steps={parts}"]
    found = Fit(resolve_config("official", None, overrides), 1e10, 9e9, 8)
    is_said = "clips, with a batch norm in the head that is of a part" in found.describe()
    assert is_said == (batch_norm and parts > 1)


def test_what_the_user_has_chosen_stays(shards):
    needed = fit(shards, 1e12).needed_bytes
    found = fit(shards, needed - 1, "optim.precision=float32")
    assert settings(found.config)[0] == "float32"
    assert settings(found.config)[1] > 1 or settings(found.config)[2]


def test_a_loss_over_the_batch_takes_no_parts_and_the_refusal_says_what_fits(shards):
    simclr = [
        *(
            "method=simclr",
            "data.global_crops=2",
            "data.local_crops=0",
            "loss.local_crops_skipped=0",
        ),
        *("model.activation_checkpointing=true", "optim.precision=bfloat16"),
    ]
    whole = fit(shards, 1e12, *simclr)
    assert settings(whole.config)[1] == 1
    with pytest.raises(
        UsageError, match=r"simclr takes no micro-batches.* fit: start \d processes"
    ):
        fit(shards, whole.needed_bytes - 1, *simclr)


def test_more_processes_have_fewer_clips_each(shards):
    one, two = (fit(shards, 1e12, processes=count) for count in (1, 2))
    assert (one.clips_per_process, two.clips_per_process) == (4, 2)
    assert two.needed_bytes < one.needed_bytes
    with pytest.raises(UsageError, match="must be a multiple of the number of processes"):
        fit(shards, 1e12, processes=3)


@pytest.mark.parametrize(
    ("text", "expected"), [("24GB", 24e9), ("24", 24e9), ("24 GiB", 24 * 2**30), ("1.5T", 1.5e12)]
)
def test_an_amount_of_memory_is_read(text, expected):
    assert parse_memory(text) == expected


@pytest.mark.parametrize("text", ["", "lots", "24XB", "-3GB", "500MB", "0"])
def test_what_is_no_amount_of_memory_is_refused(text):
    with pytest.raises(UsageError, match="write for example 24GB"):
        parse_memory(text)


def test_divided_weights_take_less_of_each_process(shards):
    deep = ("model.depth=12", "model.num_prototypes=64")
    whole, divided = (
        fit(shards, 1e12, *deep, f"optim.parallel={how}", processes=4).needed_bytes
        for how in ("ddp", "fsdp2")
    )
    assert divided < whole
    assert fit(shards, 1e12, *deep, "optim.parallel=fsdp2").needed_bytes == pytest.approx(
        fit(shards, 1e12, *deep).needed_bytes  # one process has all of it
    )
