"""Processes on GPUs: nccl, DDP and FSDP2 against one process, and the trace of a run."""

import os
import shutil
import subprocess

import pytest
import torch
import torch.distributed as dist

from tests.support.command_line import SCRIPT, torchrun
from tests.support.shard_set import TINY, write_shard_set
from training.engine.checkpoint_files import checkpoint_dir
from training.engine.metrics import read_metrics

EXACT = ("optim.precision=float32", "optim.float32_matmul_precision=highest")
pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shard_set(tmp_path_factory.mktemp("gpu") / "shards")


def pretrain(device, shards, run_dir, *overrides, processes):
    settings = [*TINY, *EXACT, "optim.steps=4", *overrides]
    words = [word for setting in settings for word in ("--set", setting)]
    command = torchrun(processes, SCRIPT, "pretrain", shards, "--run", f"{run_dir}/", *words)
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device.type == "cpu" else {}
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | hidden, check=False
    )
    assert done.returncode == 0, done.stderr
    return read_metrics(run_dir / "metrics.jsonl")


def most_processes(device):
    """Two, if there is a device for each: nccl refuses two on one."""
    return 2 if device.type == "cpu" else min(2, torch.cuda.device_count())


@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_processes_train_as_one(device, shards, tmp_path, parallel):
    processes = most_processes(device)
    if parallel == "fsdp2" and processes == 1:
        pytest.skip("one device: there is nothing to divide")
    one = pretrain(device, shards, tmp_path / "one", processes=1)
    several = pretrain(
        device, shards, tmp_path / "several", f"optim.parallel={parallel}", processes=processes
    )
    for line, other in zip(several, one, strict=True):
        for name in ("loss", "loss_masked", "loss_local", "teacher_entropy"):
            assert line[name] == pytest.approx(other[name], rel=1e-4)


def test_a_resumed_run_takes_the_steps_of_one_that_was_not_stopped(device, shards, tmp_path):
    whole = pretrain(device, shards, tmp_path, "checkpoint.every_steps=2", processes=1)
    shutil.rmtree(checkpoint_dir(tmp_path, 4))
    again = pretrain(device, shards, tmp_path, "checkpoint.every_steps=2", processes=1)
    assert again[2]["time"]["resumed_from"] == 2
    for line, other in zip(again, whole, strict=True):
        for name in ("loss", "gradient_norm"):
            assert line[name] == pytest.approx(other[name], rel=1e-4)


def test_a_group_of_one_reduces_by_the_backend_of_the_device(device, tmp_path):
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        value = torch.ones(3, device=device)
        dist.all_reduce(value)
        assert value.tolist() == [1, 1, 1]
    finally:
        dist.destroy_process_group()


def test_a_profiled_run_leaves_its_trace_and_on_cuda_its_memory(device, shards, tmp_path):
    run = tmp_path / "run"
    pretrain(device, shards, run, "watch.profile_steps=[2, 3]", processes=1)
    names = {path.name for path in (run / "profile").iterdir()}
    memory = {"steps-2-3.pickle"} if device.type == "cuda" else set()
    assert names == {"steps-2-3.json"} | memory
