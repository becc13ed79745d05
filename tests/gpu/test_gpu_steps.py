"""Steps of training on a GPU: the CPU's numbers, few waits, flash attention, the counted memory."""

import warnings

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from tests.support.steps_on_device import make_batch, small_config, three_steps
from training.config.presets import PRESETS, resolve_config
from training.distributed.world import World
from training.engine.precision import for_device, numerics
from training.engine.setup import build_state
from training.engine.step import compute_gradients
from training.estimate import counted_state_bytes, kept_bytes
from training.schedules import Progress

EXACT = ("optim.precision=float32", "optim.float32_matmul_precision=highest")
CASES = {
    **{preset: (preset,) for preset in PRESETS},
    "official lars": ("official", "optim.name=lars"),
    "official accumulated": ("official", "optim.accumulation_steps=2"),
    "official checkpointed": ("official", "model.activation_checkpointing=true"),
    "official koleo": ("official", "loss.koleo_weight=0.1"),
    "swav queue": ("swav", "swav.queue_length=12", "swav.queue_start_epoch=0"),
}
pytestmark = pytest.mark.gpu


def losses(config, device):
    return [metrics["loss"] for metrics in three_steps(config, device.type)]


@pytest.mark.parametrize("case", CASES)
def test_three_steps_give_the_cpus_numbers(device, case):
    preset, *overrides = CASES[case]
    config = small_config(preset, *EXACT, *overrides)
    ours, theirs = list(three_steps(config, device.type)), list(three_steps(config, "cpu"))
    assert ours == [
        {name: pytest.approx(value, rel=2e-3, abs=2e-4) for name, value in line.items()}
        for line in theirs
    ]


def test_bfloat16_and_tensorfloat_stay_near_float32(device):
    exact = losses(small_config("official", *EXACT), device)
    for overrides in (("optim.precision=bfloat16",), EXACT[:1]):
        found = losses(small_config("official", *overrides), device)
        assert found == pytest.approx(exact, rel=0.005)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_compiled_blocks_give_the_losses_of_those_that_are_not(device):
    one_size = ("data.local_crops=1", "loss.local_crops_skipped=1")  # half the compilations
    plain = losses(small_config("official", *EXACT, *one_size), device)
    compiled = losses(small_config("official", *EXACT, *one_size, "model.compile=true"), device)
    assert compiled == pytest.approx(plain, rel=1e-4)


def test_a_step_synchronizes_once(cuda):
    config = small_config("official")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        steps = three_steps(config, cuda.type)
        next(steps)
        torch.cuda.set_sync_debug_mode("warn")
        said.clear()
        try:
            next(steps)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [str(w.message) for w in said if "synchroniz" in str(w.message)]
    assert len(waits) == 1, [(w.filename, w.lineno) for w in said]


@pytest.mark.parametrize("drops", ["false", "true"])
def test_attention_is_fused(device, drops):
    # A CPU has it in float32; on CUDA any of the fused kernels will do.
    of_device = () if device.type == "cuda" else EXACT
    config = small_config("official", f"model.drop_hidden_patches={drops}", *of_device)
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler:
        list(three_steps(config, device.type))
    names = {event.key for event in profiler.key_averages()}
    fused = ("flash_attention", "efficient_attention", "cudnn_attention")
    assert any(part in name for name in names for part in fused)
    assert not any("_scaled_dot_product_attention_math" in name for name in names)


def test_the_peak_is_within_15_percent_of_what_is_counted(cuda):
    config = for_device(
        resolve_config("official", None, ["optim.global_batch_size=2", "data.num_workers=0"]), cuda
    )
    world, now, batch = World(0, 1, 0, cuda), Progress(0, 12, 3), make_batch(config, 0)
    with numerics(config.optim, cuda):
        state = build_state(config, world)
        counted = counted_state_bytes(state, 1) + kept_bytes(state, batch, now, config, world)
        state.optimizer.step()  # there are moments from the first step on
        torch.cuda.reset_peak_memory_stats(cuda)
        compute_gradients(state, state.method, batch, now, config=config, world=world)
    assert torch.cuda.max_memory_allocated(cuda) == pytest.approx(counted, rel=0.15)
