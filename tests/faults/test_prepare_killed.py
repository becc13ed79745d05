"""SIGKILL of a local `prepare`, at named points and at random: a rerun gives the same bytes."""

import importlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.forks import exit_code_of_fork
from tests.support.prepared import (
    apart,
    entries,
    leftovers,
    prepare_options,
    published,
    workspace,
    write_walk,
)
from wtours.execution.executor import SERIAL
from wtours.prepare.pipeline import prepare_videos
from wtours.workspace.layout import Layout

REPOSITORY = Path(__file__).resolve().parents[2]
POINTS = {
    "a segment's tar": ("wtours.sharding.segment_writer", "publish_rows"),
    "a segment's rows": ("wtours.sharding.segment_writer", "publish_receipt"),
    "a segment's analysis": ("wtours.analyze.segment", "write_receipt"),
    "a measurement": ("wtours.analyze.measurements", "write_receipt"),
    "the tables": ("wtours.analyze.publish", "write_receipt"),
    "the index": ("wtours.sharding.finalize", "write_bytes"),
    "dataset.json": ("wtours.sharding.finalize", "write_json"),
}
"""After it the process dies: the function of a module that comes next."""
SCRIPT = """
import sys
from pathlib import Path
from tests.support.prepared import entries, prepare_options
from wtours.execution.processes import ProcessExecutor
from wtours.prepare.pipeline import prepare_videos
from wtours.workspace.layout import Layout

if __name__ == "__main__":
    layout = Layout(Path(sys.argv[1]))
    with ProcessExecutor(2) as executor:
        prepare_videos(layout, entries("walk"), prepare_options(), executor=executor)
"""


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    return write_walk(tmp_path_factory.mktemp("walk") / "walk.mp4", seconds=(40, 25))


@pytest.fixture(scope="module")
def expected(walk, tmp_path_factory):
    return apart(workspace(tmp_path_factory.mktemp("apart"), {"walk": walk}), ["walk"])


@pytest.fixture(scope="module")
def duration(walk, tmp_path_factory):
    """Return about how many seconds an undisturbed run takes."""
    folder = tmp_path_factory.mktemp("whole")
    arguments = command(folder, workspace(folder / "root", {"walk": walk}).root)
    begun = time.monotonic()
    subprocess.run(arguments, env=environment(), check=True)
    return time.monotonic() - begun


def command(folder: Path, root: Path) -> list[str]:
    script = folder / "run.py"
    script.write_text(SCRIPT)
    return [sys.executable, str(script), str(root)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY)}


def prepare_and_die(root: Path, module: str, function: str, once: Path) -> None:
    """Run `prepare`, which dies before a function of a module, the first time."""
    of = importlib.import_module(module)
    real = getattr(of, function)

    def killed(*arguments: Any, **options: Any) -> Any:
        if not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)

    setattr(of, function, killed)
    prepare_videos(Layout(root), entries("walk"), prepare_options(), executor=SERIAL)


@pytest.mark.medium
def test_killed_at_each_point_in_turn_and_run_again(walk, expected, tmp_path):
    layout = workspace(tmp_path / "root", {"walk": walk})
    for name, point in POINTS.items():
        run = (prepare_and_die, layout.root, *point, tmp_path / name)
        assert exit_code_of_fork(*run) == -signal.SIGKILL, name
        assert (tmp_path / name).exists()
    assert exit_code_of_fork(*run) == 0
    assert published(layout) == expected
    assert not leftovers(layout)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_any_process_killed_at_any_time_and_run_again(walk, expected, duration, tmp_path, seed):
    layout, chance = workspace(tmp_path / "root", {"walk": walk}), random.Random(seed)
    arguments = command(tmp_path, layout.root)
    process = subprocess.Popen(arguments, env=environment(), start_new_session=True)
    time.sleep(chance.uniform(0, duration))
    members = [process.pid, *_descendants(process.pid)]
    victim = chance.choice(members)
    if process.poll() is None:
        os.kill(victim, signal.SIGKILL)
    process.wait(600)
    for _ in range(2):  # the first may have finished, or named what died
        subprocess.run(arguments, env=environment(), timeout=600)
    assert published(layout) == expected


def _descendants(pid: int) -> list[int]:
    """Return the processes that it started, and theirs: the workers are of the second kind."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    children = [int(child) for child in text.split()]
    return [*children, *(one for child in children for one in _descendants(child))]
