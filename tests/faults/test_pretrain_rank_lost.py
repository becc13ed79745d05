"""One process of two is killed, stopped, hangs or has no memory: all end, and say which and why."""

import os
import re
import signal
import time
from pathlib import Path

import pytest

from tests.support.command_line import SCRIPT, TORCHRUN
from tests.support.forked_ranks import forked, forked_ranks
from tests.support.shard_set import TINY, write_shard_set
from training.engine.checkpoint_files import find_damage
from training.engine.metrics import read_metrics

pytestmark = pytest.mark.medium
LOST = "error: rank 0 ends: rank 1 was lost: killed, or cut off"


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shard_set(tmp_path_factory.mktemp("lost") / "shards")


def words(shards, run_dir, *overrides):
    changes = (*TINY, "checkpoint.every_steps=2", "faults.silence_seconds=10", *overrides)
    pairs = [part for pair in changes for part in ("--set", pair)]
    return ("pretrain", shards, "--run", run_dir, *pairs)


def process_of_rank(rank, logs):
    """Return the process id of one rank, by the file that torchrun gave it for what it says."""
    for said in Path("/proc").glob("[0-9]*/fd/1"):
        try:
            target = said.readlink()
        except OSError:
            continue
        if target.is_relative_to(logs) and target.parent.name == str(rank):
            return int(said.parts[2])
    raise AssertionError(f"no process of rank {rank}")


def wait_for_lines(run_dir, count, is_running):
    while is_running() and len(read_metrics(run_dir / "metrics.jsonl")) < count:
        time.sleep(0.005)


def whole_checkpoints(run_dir):
    found = list((run_dir / "checkpoints").glob("step-*"))
    assert [find_damage(path) for path in found] == [None] * len(found)
    return sorted(path.name for path in found)


def test_a_killed_rank_is_named_and_all_end(shards, tmp_path):
    run_dir = tmp_path / "run"
    command = words(shards, run_dir, "optim.steps=4000")
    with forked_ranks(*command, folder=tmp_path / "ranks") as ranks:
        wait_for_lines(run_dir, 4, ranks[1].is_alive)
        ranks[1].send(signal.SIGKILL)
        errors = ranks[0].end()
    assert [rank.exitcode for rank in ranks] == [1, -signal.SIGKILL]
    assert LOST in errors
    assert whole_checkpoints(run_dir)


def test_after_a_kill_torchrun_starts_them_again_and_they_go_on_to_the_end(shards, tmp_path):
    run_dir, logs = tmp_path / "run", tmp_path / "logs"
    # --run-path: torchrun's ranks are forks too, where --no-python imports torch for each of four.
    command = (
        *("--standalone", "--nproc-per-node=2", "--max-restarts=1", "--run-path"),
        *("--start-method=forkserver", "--redirects=3", f"--log-dir={logs}"),
        *("--", SCRIPT, *words(shards, run_dir, "optim.steps=40")),
    )
    with forked(*command, output=tmp_path / "torchrun.txt", program=TORCHRUN) as process:
        wait_for_lines(run_dir, 4, process.is_alive)
        os.kill(process_of_rank(1, logs), signal.SIGKILL)
        said = process.end()
    errors = "".join(path.read_text() for path in sorted(logs.rglob("stderr.log")))
    assert process.exitcode == 0, said + errors
    assert LOST in errors
    assert "resumed from" in errors
    assert [line["step"] for line in read_metrics(run_dir / "metrics.jsonl")] == [*range(1, 41)]
    assert whole_checkpoints(run_dir) == ["step-00000038", "step-00000040"]


@pytest.mark.parametrize("stopped", [0, 1])
def test_a_stopped_rank_is_named_by_the_other(shards, tmp_path, stopped):
    run_dir = tmp_path / "run"
    command = words(shards, run_dir, "optim.steps=4000")
    with forked_ranks(*command, folder=tmp_path / "ranks") as ranks:
        wait_for_lines(run_dir, 4, ranks[stopped].is_alive)
        ranks[stopped].send(signal.SIGSTOP)
        errors = ranks[1 - stopped].end()
        ranks[stopped].send(signal.SIGCONT)
        ranks[stopped].end()
    assert [rank.exitcode for rank in ranks] == [1, 1]
    told = f"rank {1 - stopped} ends: rank {stopped} has sent no heartbeat for 10 s"
    assert f"error: {told}: it was killed, stopped or cut off" in errors, errors
    assert whole_checkpoints(run_dir)


HANGS = """
import os, time
import training.engine.trainer
import wtours.cli.app
from training.data.loader import batches

def hanging(*arguments, **options):
    for number, batch in enumerate(batches(*arguments, **options)):
        if number == 3 and os.environ["RANK"] == "1":
            wait_for_a_disk_that_is_gone()
        yield batch

def wait_for_a_disk_that_is_gone():
    time.sleep(1000)

training.engine.trainer.batches = hanging
wtours.cli.app.main()
"""


def test_a_hanging_rank_is_named_with_the_place_where_it_hangs(shards, tmp_path):
    program = tmp_path / "hangs.py"
    program.write_text(HANGS)
    command = words(shards, tmp_path / "run", "optim.steps=4000", "faults.stall_seconds=3")
    with forked_ranks(*command, folder=tmp_path / "ranks", program=program) as ranks:
        errors, _ = (rank.end() for rank in ranks)
    assert [rank.exitcode for rank in ranks] == [1, 1]
    # Ten times the slowest step, if that is more than 3 s.
    assert re.search(r"error: rank 0 ends: no step has ended for \d+ s; rank 0: ", errors), errors
    assert (
        f"rank 1: hanging ({program}:10) > wait_for_a_disk_that_is_gone ({program}:14)" in errors
    ), errors
    assert "Current thread" in errors or "most recent call first" in errors


LIMITED = """
import os, resource
from pathlib import Path
import training.pretrain
import wtours.cli.app

if os.environ["RANK"] == "1":
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + 400 * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
wtours.cli.app.main()
"""


def test_a_rank_without_memory_is_named_by_both(shards, tmp_path):
    program = tmp_path / "limited.py"
    program.write_text(LIMITED)
    command = words(shards, tmp_path / "run", "model.num_prototypes=400000")
    with forked_ranks(*command, folder=tmp_path / "ranks", program=program) as ranks:
        first, second = (rank.end() for rank in ranks)
    assert [rank.exitcode for rank in ranks] == [1, 1]
    assert "error: rank 1 is out of memory (" in second
    assert "raise optim.accumulation_steps" in second
    assert "error: rank 0 ends: rank 1 is out of memory (" in first
