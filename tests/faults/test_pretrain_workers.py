"""The loader's workers: one is killed, or they have too little shared memory."""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from multiprocessing import resource_tracker
from pathlib import Path

import pytest

from tests.support.command_line import SCRIPT
from tests.support.forked_ranks import forked
from tests.support.shard_set import TINY, write_shard_set
from training.engine.metrics import read_metrics

pytestmark = pytest.mark.medium


def pretrain(folder, *overrides):
    """Return the command that trains with one worker on a new shard set."""
    shards = write_shard_set(folder / "shards")
    pairs = [word for pair in (*TINY, "data.num_workers=1", *overrides) for word in ("--set", pair)]
    return [SCRIPT, "pretrain", str(shards), "--run", str(folder / "run"), *pairs]


def run(command, **options):
    return subprocess.Popen(
        command,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def forks():
    """Return the forks that this process has asked for, and that they have, which no /proc names.

    All know the one process that looks after shared memory for this one.
    """
    tracker = Path(f"/proc/self/fd/{resource_tracker.getfd()}").readlink()
    found = set()
    for file in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if file.readlink() == tracker:
                found.add(int(file.parts[2]))
    return found - {os.getpid(), vars(resource_tracker._resource_tracker)["_pid"]}


def test_a_killed_worker_is_one_line_with_a_remedy(tmp_path):
    _, *command = pretrain(tmp_path, "optim.steps=4000")
    with forked(*command, output=tmp_path / "said.txt") as process:
        while process.is_alive() and len(read_metrics(tmp_path / "run" / "metrics.jsonl")) < 2:
            time.sleep(0.01)
        # A worker may be between two batches, or the run about to end with a message of its own.
        workers = forks() - {process.pid}
        assert workers
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        errors = process.end()
    assert process.exitcode == 1, errors
    assert "error: " in errors, errors
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert "rank 0: a worker of the loader was lost (DataLoader worker " in line
    assert "out of memory? Take fewer, or none (data.num_workers=0)" in line
    assert "Traceback" not in errors


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None,
    reason="needs root, to mount a small /dev/shm of its own",
)
def test_too_little_shared_memory_is_named_with_a_remedy():
    mount = "mount -t tmpfs -o size=100k tmpfs /dev/shm || exit 77; exec "
    with tempfile.TemporaryDirectory() as folder:  # tmp_path may be below what is mounted over
        command = shlex.join(pretrain(Path(folder)))
        process = run(["unshare", "-m", "sh", "-c", mount + command])
        errors = process.communicate()[1]
    if process.returncode == 77 or "unshare" in errors:
        pytest.skip(f"needs the right to mount a tmpfs: {errors.strip()}")
    assert process.returncode == 1
    assert "more shared memory than /dev/shm has (0 MiB free)" in errors
    assert "or set data.num_workers=0" in errors
    assert "Traceback" not in errors
