"""Whole steps of every preset on a device that is not the CPU: no operand elsewhere, few waits."""

import json

import pytest

from tests.support.forks import exit_code_of_fork
from tests.support.steps_on_device import write_steps
from training.config.presets import PRESETS

VARIANTS = {
    "official accumulated": ("official", "optim.accumulation_steps=2"),
    "official lars": ("official", "optim.name=lars"),
    "official global clipping, two views": (
        *("official", "optim.clip_grad_by=global", "data.global_crops=2"),
        *("tracking.patch_center=true", "loss.reduction=pairs", "loss.object_weights=mean"),
    ),
    "official sinkhorn": ("official", "loss.teacher_centering=sinkhorn"),
    "official random blocks": ("official", "tracking.mask=random_blocks"),
    "fast, accumulated": ("fast", "optim.accumulation_steps=2", "tracking.mask=random_blocks"),
    "official batch norm": ("official", "model.head_batch_norm=true"),
    "ibot accumulated": ("ibot", "optim.accumulation_steps=2"),
    "attmask hint accumulated": ("attmask", "attmask.kind=hint", "optim.accumulation_steps=2"),
    "attmask batch norm": ("attmask", "model.head_batch_norm=true"),
    "swav queue": ("swav", "swav.queue_length=12", "swav.queue_start_epoch=0"),
    "simclr positive": ("simclr", "simclr.siblings=positive"),
    "official, rank measured": ("official", "watch.effective_rank_every_steps=1"),
    "vicreg, rank measured": ("vicreg", "watch.effective_rank_every_steps=1"),
}
CASES = {**{preset: (preset,) for preset in PRESETS}, **VARIANTS}
pytestmark = pytest.mark.medium


@pytest.fixture(scope="module")
def stepped(tmp_path_factory):
    """Return what each case gave; in a process of its own, which keeps the device for good."""
    path = tmp_path_factory.mktemp("steps") / "steps.json"
    assert exit_code_of_fork(write_steps, CASES, path) == 0
    return json.loads(path.read_text())


@pytest.mark.parametrize("case", CASES)
def test_a_step_waits_for_its_reading_alone_and_gives_what_the_cpu_gives(stepped, case):
    on_cpu, on_device = stepped[case]["cpu"], stepped[case]["device"]
    last = on_device["waits"][-1]  # until SwAV's queue is full, its steps look whether it is
    eigenvalues = sum("linalg_eigh" in place for place in last)
    assert eigenvalues == ("rank measured" in case)
    assert sum(last.values()) == 1 + eigenvalues + case.startswith("fast"), last  # what masks leave
    assert on_device["metrics"] == [
        {name: pytest.approx(value, rel=2e-3, abs=2e-4) for name, value in line.items()}
        for line in on_cpu
    ]


def test_the_device_finds_a_wait_and_an_operand_on_the_cpu(stepped):
    assert stepped["faults"] == {
        "item": 1, "mask": 1, "nonzero": 1, "to the device": 1, "sent": 0, "mixed": "refused",
    }  # fmt: skip
