"""SIGKILL in the middle of a step; the same command goes on as if nothing had happened."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.forked_ranks import forked
from tests.support.shard_set import TINY, write_shard_set
from tests.support.tiny_run import ONE_PROCESS
from training.config.presets import resolve_config
from training.engine.checkpoint_files import find_damage
from training.engine.metrics import read_metrics
from training.pretrain import pretrain

REPOSITORY = Path(__file__).resolve().parents[2]
STEPS = 60
# As in the processes that are killed: the order of torch's sums is that of its threads.
pytestmark = pytest.mark.usefixtures("one_thread")
SETTINGS = (*TINY, f"optim.steps={STEPS}", "data.num_workers=1")


def command(shards, run_dir, *overrides):
    pairs = [part for pair in (*SETTINGS, *overrides) for part in ("--set", pair)]
    return ["pretrain", str(shards), "--run", str(run_dir), *pairs]


def start(shards, run_dir):
    return subprocess.Popen(
        [sys.executable, "-m", "wtours", *command(shards, run_dir)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(shards, run_dir):
    """Train to the end in this process, which has imported torch."""
    config = resolve_config("official", None, SETTINGS)
    return pretrain(config, shards_dir=shards, run_dir=run_dir, world=ONE_PROCESS)


def wait_for_lines(run_dir, count, is_running):
    while is_running() and len(read_metrics(run_dir / "metrics.jsonl")) < count:
        time.sleep(0.005)


def wait_until_gone(group):
    """Return when no process of the group is left: the workers of a killed process, too."""
    for _ in range(6000):  # for what would never come; a busy machine is slow
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError("a worker outlives its training process")


def computed(run_dir):
    return [line | {"time": None} for line in read_metrics(run_dir / "metrics.jsonl")]


@pytest.mark.medium
def test_a_pretrain_that_is_told_to_stop_and_then_killed_ends_in_the_same_bytes(tmp_path):
    shards = write_shard_set(tmp_path / "shards")
    finish(shards, tmp_path / "undisturbed")
    run_dir = tmp_path / "disturbed"

    with forked(*command(shards, run_dir), output=tmp_path / "said.txt") as stopped:
        wait_for_lines(run_dir, 2, stopped.is_alive)
        stopped.send(signal.SIGTERM)
        said = stopped.end()
    assert stopped.exitcode == 128 + signal.SIGTERM, said
    done = len(read_metrics(run_dir / "metrics.jsonl"))
    assert 2 <= done < STEPS
    assert (run_dir / "checkpoints" / f"step-{done:08d}" / "receipt.json").exists()

    process = start(shards, run_dir)
    wait_for_lines(run_dir, done + 5, lambda: process.poll() is None)
    process.kill()
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    wait_until_gone(process.pid)
    assert done + 5 <= len(read_metrics(run_dir / "metrics.jsonl")) < STEPS

    assert finish(shards, run_dir).started_at_step >= done
    assert computed(run_dir) == computed(tmp_path / "undisturbed")
    for name in ("model.safetensors", "optimizer.safetensors", "state.json", "receipt.json"):
        ours, theirs = (
            run / "checkpoints" / f"step-{STEPS:08d}" / name
            for run in (run_dir, tmp_path / "undisturbed")
        )
        assert ours.read_bytes() == theirs.read_bytes(), name
    assert not list(run_dir.glob("**/.tmp-*"))


@pytest.mark.medium
@pytest.mark.parametrize("lines", [3, 8, 14])
def test_sigkill_while_a_checkpoint_is_written_leaves_whole_ones_only(tmp_path, lines):
    shards = write_shard_set(tmp_path / "shards", num_frames=8)
    run_dir = tmp_path / "run"
    every_step = ("checkpoint.every_steps=1", "checkpoint.keep_last=3", "data.num_workers=0")
    words = command(shards, run_dir, *every_step, "optim.steps=4000")
    with forked(*words, output=tmp_path / "said.txt") as process:
        wait_for_lines(run_dir, lines, process.is_alive)
        process.kill()  # each step starts a checkpoint: one is in flight at almost any time
        said = process.end()
    assert process.exitcode == -signal.SIGKILL, said
    whole = [path for path in (run_dir / "checkpoints").iterdir() if path.name[0] != "."]
    assert 1 <= len(whole) <= 4
    assert [find_damage(path) for path in whole] == [None] * len(whole)
