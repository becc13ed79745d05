"""What `wtours estimate` counts, checked by hand, and that it leaves nothing behind."""

import dataclasses

import pytest
import torch

from tests.support.shard_set import TINY, write_shard_set
from training.config.presets import resolve_config
from training.distributed.world import World
from training.engine.setup import build_state
from training.estimate import estimate
from wtours.errors import UsageError

WORLD = World(0, 1, 0, torch.device("cpu"))
pytestmark = pytest.mark.medium


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shard_set(tmp_path_factory.mktemp("estimate") / "shards")


def measure(shards, *overrides, processes=1):
    config = resolve_config("official", None, [*TINY, *overrides])
    return estimate(config, shards_dir=shards, world=WORLD, processes=processes)


def test_sizes_are_counted_and_the_schedule_is_that_of_the_run(shards):
    found = measure(shards, "optim.steps=3600")
    config = resolve_config("official", None, list(TINY))
    student = build_state(config, WORLD).method.student
    sizes = [(p.numel(), p.requires_grad) for p in student.parameters()]
    assert found.parameters == sum(size for size, _ in sizes)
    # float32: student, teacher; gradient and AdamW's two moments of what is trained.
    assert found.state_bytes == 4 * sum(size * (5 if trained else 2) for size, trained in sizes)
    assert (found.processes, found.clips_per_process, found.measured_clips) == (1, 4, (1, 2))
    per_step = found.hours * 3600 / 3600
    assert found.clips_per_second == pytest.approx(4 / per_step)
    assert per_step >= found.step_seconds > 0
    frames = sorted(shards.glob("*.tar"))[0].stat().st_size / 24  # in tar blocks, a little more
    assert 0 < found.read_bytes_per_second * per_step < 4 * 3 * frames
    assert "nothing was written" in found.notes[0]
    assert "for a GPU run the same command there" in found.notes[1]
    assert dataclasses.asdict(found)["steps"] == 3600


def test_activations_grow_with_the_clips_and_shrink_with_parts_and_checkpointing(shards):
    at_once, in_parts = measure(shards), measure(shards, "optim.accumulation_steps=4")
    whole = at_once.activation_bytes
    assert (at_once.clips_per_part, in_parts.clips_per_part) == (4, 1)
    # A part has one of four clips; something is kept whatever the clips are.
    assert 0.25 * whole <= in_parts.activation_bytes < 0.5 * whole
    assert measure(shards, "model.activation_checkpointing=true").activation_bytes < 0.7 * whole
    assert measure(shards, processes=2).activation_bytes < 0.7 * whole


def test_a_batch_that_the_processes_cannot_share_is_refused(shards):
    with pytest.raises(UsageError, match=r"\(4\) must be a multiple of the number of processes"):
        measure(shards, processes=3)
