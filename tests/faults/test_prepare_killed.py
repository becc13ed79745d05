"""SIGKILL of a local `prepare`, at named points and at random: a rerun gives the same bytes."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.prepared import apart, leftovers, published, workspace, write_walk

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
import importlib, os, signal, sys
from pathlib import Path

def die(module, name, once):
    module = importlib.import_module(module)
    real = getattr(module, name)
    def killed(*arguments, **options):
        if not os.path.exists(once):
            open(once, "w").close()
            os.kill({pid}, signal.SIGKILL)
        return real(*arguments, **options)
    setattr(module, name, killed)

if len(sys.argv) > 3:
    die(*sys.argv[3:6])

from tests.support.prepared import entries, prepare_options
from wtours.execution.executor import SERIAL
from wtours.execution.processes import ProcessExecutor
from wtours.prepare.pipeline import prepare_videos
from wtours.workspace.layout import Layout

if __name__ == "__main__":
    layout = Layout(Path(sys.argv[1]))
    if sys.argv[2] == "1":
        prepare_videos(layout, entries("walk"), prepare_options(), executor=SERIAL)
    else:
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
    arguments = command(folder, workspace(folder / "root", {"walk": walk}).root, 2)
    begun = time.monotonic()
    subprocess.run(arguments, env=environment(), check=True)
    return time.monotonic() - begun


def command(folder: Path, root: Path, jobs: int, *point: str) -> list[str]:
    script = folder / "run.py"
    script.write_text(SCRIPT.replace("{pid}", "os.getpid()"))
    return [sys.executable, str(script), str(root), str(jobs), *point]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY)}


@pytest.mark.medium
@pytest.mark.parametrize("point", POINTS)
def test_killed_at_a_point_and_run_again(walk, expected, tmp_path, point):
    layout = workspace(tmp_path / "root", {"walk": walk})
    once = tmp_path / "once"
    arguments = command(tmp_path, layout.root, 1, *POINTS[point], str(once))
    killed = subprocess.run(arguments, env=environment(), timeout=600)
    assert killed.returncode == -signal.SIGKILL
    assert once.exists()
    again = subprocess.run(arguments, env=environment(), timeout=600)
    assert again.returncode == 0
    assert published(layout) == expected
    assert not leftovers(layout)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_any_process_killed_at_any_time_and_run_again(walk, expected, duration, tmp_path, seed):
    layout, chance = workspace(tmp_path / "root", {"walk": walk}), random.Random(seed)
    arguments = command(tmp_path, layout.root, 2)
    process = subprocess.Popen(arguments, env=environment(), start_new_session=True)
    time.sleep(chance.uniform(0, duration))
    members = [process.pid, *_children(process.pid)]
    victim = chance.choice(members)
    if process.poll() is None:
        os.kill(victim, signal.SIGKILL)
    process.wait(600)
    for _ in range(2):  # the first may have finished, or named what died
        subprocess.run(arguments, env=environment(), timeout=600)
    assert published(layout) == expected


def _children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(child) for child in text.split()]
