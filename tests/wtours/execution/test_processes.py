"""Tasks in worker processes: their results, their deaths, and Ctrl-C with real signals."""

import contextlib
import math
import os
import signal
import subprocess
import sys
import time
from multiprocessing import active_children
from pathlib import Path

import pytest

from wtours.errors import WorkerDiedError
from wtours.execution.executor import SERIAL
from wtours.execution.processes import ProcessExecutor

pytestmark = pytest.mark.medium  # each test starts processes

REPOSITORY = Path(__file__).resolve().parents[3]
WAIT_SECONDS = 600  # for what would never come; a busy machine is slow
SCRIPT = """
import os, sys, time
from pathlib import Path
from wtours.execution import processes

folder = Path(sys.argv[1])

def work(name):
    (folder / f"{name}.started").write_text(str(os.getppid()))
    while not (folder / "go").exists():
        time.sleep(0.01)
    (folder / f"{name}.done").touch()

if __name__ == "__main__":
    processes.STOP_SECONDS = float(sys.argv[2])
    try:
        with processes.ProcessExecutor(2) as executor:
            for _ in executor.map(work, ["first", "second", "third"]):
                pass
    except KeyboardInterrupt:
        sys.exit(130)
"""


STARTING = """
import sys
from wtours.execution.processes import ProcessExecutor

if __name__ == "__main__":
    try:
        with ProcessExecutor(2) as executor:
            for _ in executor.map(abs, [1, 2]):
                pass
    except KeyboardInterrupt:
        sys.exit(130)
"""
SLOW_TO_START = """
import sys, time
from pathlib import Path

folder = Path(__file__).parent
if "multiprocessing.forkserver" in sys.orig_argv[-1]:
    (folder / "starting").touch()
    while not (folder / "go").exists():
        time.sleep(0.01)
"""
"""A sitecustomize, which Python runs first; the process that workers are forks of waits in it."""


@pytest.fixture
def executor():
    with ProcessExecutor(2) as executor:
        yield executor


@pytest.mark.parametrize("num_tasks", [1, 3, 20])
def test_every_task_comes_back_with_its_result(executor, num_tasks):
    tasks = [-i for i in range(num_tasks)]
    for _ in range(2):  # the same processes again
        assert sorted(executor.map(abs, tasks)) == sorted((task, -task) for task in tasks)
        workers = {process.pid for process in active_children()}
    assert len(workers) <= 2
    assert {process.pid for process in active_children()} == workers


def test_in_this_process_tasks_run_in_order():
    assert list(SERIAL.map(abs, [-3, -1, -2])) == [(-3, 3), (-1, 1), (-2, 2)]


def test_tasks_are_taken_as_workers_become_free(executor):
    taken = []

    def endless():
        for i in range(10**9):
            taken.append(i)
            yield i

    results = executor.map(abs, endless())
    for _ in range(10):
        next(results)
    assert len(taken) < 20
    results.close()


def test_what_a_task_raises_is_raised_and_the_executor_goes_on(executor):
    with pytest.raises(ValueError, match=r"math domain error|expected a nonnegative input"):
        list(executor.map(math.sqrt, [-1.0, -4.0]))
    assert list(executor.map(math.sqrt, [4.0])) == [(4.0, 2.0)]


def test_a_worker_has_the_environment_of_now(executor, monkeypatch):
    monkeypatch.setenv("WTOURS_SCRATCH", "/elsewhere")
    monkeypatch.delenv("HOME")
    tasks = ["WTOURS_SCRATCH", "HOME"]
    assert dict(executor.map(os.getenv, tasks)) == {"WTOURS_SCRATCH": "/elsewhere", "HOME": None}


THREADS = """
import os
from pathlib import Path
import wtours.analyze.pipeline, wtours.prepare.pipeline, wtours.sharding.repair
from wtours.execution.processes import ProcessExecutor

def threads_of_parent(_):
    first, *others = sorted(Path(f"/proc/{os.getppid()}/task").iterdir(), key=lambda t: int(t.name))
    return [(thread / "comm").read_text().strip() for thread in others]

if __name__ == "__main__":
    with ProcessExecutor(1) as executor:
        print(*executor.map(threads_of_parent, ["others"]))
"""


def test_what_workers_are_forks_of_has_no_thread_that_knows_nothing_of_forks(tmp_path):
    """A module that starts one when it is imported could leave its locks held in a fork."""
    (tmp_path / "run.py").write_text(THREADS)
    # OpenBLAS stops its threads before a fork; jemalloc, of pyarrow, starts its own anew.
    environment = {"PYTHONPATH": str(REPOSITORY), "OPENBLAS_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, tmp_path / "run.py"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert result.stdout in ("('others', [])\n", "('others', ['jemalloc_bg_thd'])\n"), result


def test_no_jobs_is_the_callers_mistake():
    with pytest.raises(ValueError, match="jobs must be >= 1"):
        ProcessExecutor(0)


def crash(path: Path) -> str:
    """Die as a decoder does in a bad file; note every attempt."""
    with path.open("a") as file:
        file.write("x")
    if "bad" in path.name:
        os.kill(os.getpid(), signal.SIGSEGV)
    return path.name


def test_a_task_that_kills_its_process_is_named_and_the_others_are_done(executor, tmp_path):
    tasks = [tmp_path / name for name in ("a", "bad", "b", "c", "bad too", "d")]
    done = []

    def run() -> None:
        for task, name in executor.map(crash, tasks):
            done.append(name)
            assert task.name == name

    with pytest.raises(WorkerDiedError) as caught:
        run()
    assert sorted(done) == ["a", "b", "c", "d"]
    assert set(caught.value.tasks) == {tmp_path / "bad", tmp_path / "bad too"}
    assert "bad too" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len((tmp_path / "bad").read_text()) <= 2  # once beside others, once alone
    assert list(executor.map(crash, [tmp_path / "e"])) == [(tmp_path / "e", "e")]


def die_once(path: Path) -> int:
    """Let one task die at its first attempt only, as when two are too much for the memory."""
    if path.name == "a" and not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return 1


def test_a_task_that_died_beside_others_and_not_alone_is_done(executor, tmp_path):
    tasks = [tmp_path / "a", tmp_path / "b"]
    assert sorted(executor.map(die_once, tasks)) == [(task, 1) for task in tasks]


def test_a_worker_that_dies_between_tasks_is_replaced(executor):
    list(executor.map(abs, [1, 2]))
    for process in active_children():
        process.kill()
        process.join()
    assert sorted(executor.map(abs, [-1, -2, -3])) == [(-3, 3), (-2, 2), (-1, 1)]


@contextlib.contextmanager
def two_running_tasks(folder: Path, stop_seconds: float):
    """Yield a command whose first two tasks run until there is a file "go"."""
    (folder / "run.py").write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(folder / "run.py"), str(folder), str(stop_seconds)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        wait_until(lambda: len(list(folder.glob("*.started"))) == 2, process)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_until(condition, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


def group_is_gone(group: int) -> bool:
    """Return whether no process of a group runs any more."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, of_group = stat.read_text().rpartition(")")[2].split()[:3]
            if int(of_group) == group and state != "Z":
                return False
    return True


def end_of(process: subprocess.Popen[bytes]) -> int:
    """Return the exit code; nothing of the command runs any more."""
    code = process.wait(WAIT_SECONDS)
    deadline = time.monotonic() + WAIT_SECONDS
    while not group_is_gone(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return code


def test_ctrl_c_says_what_it_waits_for_and_running_tasks_finish(tmp_path):
    with two_running_tasks(tmp_path, 10_000) as process:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers get it too
        assert process.stderr is not None
        line = process.stderr.readline().decode()
        assert "waiting up to 10000.0 s for first, second; Ctrl-C again ends them at once" in line
        (tmp_path / "go").touch()
        assert end_of(process) == 130
    assert sorted(path.stem for path in tmp_path.glob("*.done")) == ["first", "second"]
    assert not (tmp_path / "third.started").exists()


def test_ctrl_c_while_the_workers_are_started_is_no_traceback(tmp_path):
    (tmp_path / "run.py").write_text(STARTING)
    (tmp_path / "sitecustomize.py").write_text(SLOW_TO_START)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "run.py")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(REPOSITORY)])},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        wait_until((tmp_path / "starting").exists, process)
        os.killpg(process.pid, signal.SIGINT)
        (tmp_path / "go").touch()
        assert end_of(process) == 130
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        _, said = process.communicate()
    assert "Traceback" not in said.decode()


def test_a_second_ctrl_c_ends_the_workers_at_once(tmp_path):
    with two_running_tasks(tmp_path, 10_000) as process:
        os.killpg(process.pid, signal.SIGINT)
        assert process.stderr is not None
        process.stderr.readline()
        os.killpg(process.pid, signal.SIGINT)
        assert end_of(process) == 130
    assert list(tmp_path.glob("*.done")) == []


def test_a_stopped_command_does_not_wait_for_ever(tmp_path):
    with two_running_tasks(tmp_path, 0.1) as process:
        os.killpg(process.pid, signal.SIGINT)
        assert end_of(process) == 130
    assert list(tmp_path.glob("*.done")) == []


def test_workers_end_when_the_command_is_killed(tmp_path):
    with two_running_tasks(tmp_path, 10_000) as process:
        process.kill()
        assert end_of(process) == -signal.SIGKILL


def test_tasks_are_done_when_the_process_that_workers_are_forks_of_is_killed(tmp_path):
    with two_running_tasks(tmp_path, 10_000) as process:
        started = tmp_path / "first.started"
        wait_until(started.read_text, process)
        os.kill(int(started.read_text()), signal.SIGKILL)
        (tmp_path / "go").touch()
        assert end_of(process) == 0
    assert sorted(path.stem for path in tmp_path.glob("*.done")) == ["first", "second", "third"]
