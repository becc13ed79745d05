import contextlib
import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.analyze_cases import add_video, published_bytes, write_detections, write_scenes
from tests.support.forks import exit_code_of_fork, fork
from wtours.analyze import segment
from wtours.analyze.pipeline import analyze_videos
from wtours.analyze.schema import load_summary
from wtours.errors import AnalysisError
from wtours.storage import working_copy
from wtours.workspace.layout import Layout

NEVER = 1000  # segments
WAIT_SECONDS = 600  # for what would never come; a busy machine is slow

ANALYZE = """
import sys
from pathlib import Path
from tests.faults.test_analyze_killed import hold_after
from wtours.analyze.pipeline import analyze_videos
from wtours.execution.processes import ProcessExecutor
from wtours.workspace.layout import Layout

root, detector, finished = sys.argv[1:]
hold_after(int(finished))  # in each worker: it imports this file
if __name__ == "__main__":
    with ProcessExecutor(2) as executor:
        analyze_videos(
            Layout(Path(root)), ["walk"], executor=executor, detector=detector, segment_seconds=1
        )
"""


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("video") / "walk.mp4"
    return write_scenes(path, seconds=(2, 3, 4, 3), size="96x64")


@pytest.fixture(scope="module")
def detector(tmp_path_factory) -> str:
    rows = [(round(i * 1e6 / 30), f"thing {i % 7}", 0.5, 1.0, 2.0, 3.0, 4.0) for i in range(360)]
    path = write_detections(tmp_path_factory.mktemp("truth") / "truth.parquet", rows)
    return f"file:{path}"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, video, detector) -> dict[str, bytes]:
    layout = Layout(tmp_path_factory.mktemp("undisturbed"))
    add_video(layout, "walk", video)
    analyze_videos(layout, ["walk"], detector=detector, segment_seconds=1)
    return published_bytes(layout, "walk")


def hold_after(finished: int) -> None:
    """Have this process wait for its end once so many segments are finished.

    Else a busy machine might kill it when it has ended.
    """
    share = working_copy.share

    def share_and_hold(path: Path) -> None:
        share(path)
        if len(list(path.parents[1].glob("0*/receipt.json"))) >= finished:
            time.sleep(WAIT_SECONDS)

    setattr(segment, "share", share_and_hold)  # noqa: B010 (mypy: it is not exported there)


def analyze(root: Path, detector: str, die_at: str = "", finished: int = NEVER) -> None:
    """Analyze the walk; the process dies when it comes to a function of a module, or holds."""
    hold_after(finished)
    if die_at:
        module, function = die_at.split(".")
        of = importlib.import_module(f"wtours.analyze.{module}")
        setattr(of, function, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
    analyze_videos(Layout(root), ["walk"], detector=detector, segment_seconds=1)


Begun = tuple[Callable[[], bool], Callable[[], None]]
"""Whether an analysis runs; and what kills it, with its workers."""


def begin_alone(root: Path, detector: str, finished: int) -> Begun:
    """Begin an analysis in one process; see `hold_after`."""
    process = fork(analyze, root, detector, "", finished)

    def kill() -> None:
        process.kill()
        process.join()

    return process.is_alive, kill


def begin_with_workers(root: Path, detector: str, finished: int) -> Begun:
    """Begin one by two processes, in a group of their own."""
    script = root / "run.py"
    script.write_text(ANALYZE)
    command = [sys.executable, str(script), str(root), detector, str(finished)]
    repository = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    process = subprocess.Popen(command, env=environment, start_new_session=True)

    def kill() -> None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    return lambda: process.poll() is None, kill


def wait_for_segments(layout: Layout, count: int, is_running: Callable[[], bool]) -> None:
    """Return once so many segments are finished."""
    deadline = time.monotonic() + WAIT_SECONDS
    segments = layout.analysis_dir("walk") / "segments"
    while len(list(segments.glob("0*/receipt.json"))) < count:
        assert is_running(), "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.medium
@pytest.mark.parametrize("begin", [begin_alone, begin_with_workers])
def test_killed_between_segments_and_run_again_gives_the_same_bytes(
    tmp_path, video, detector, undisturbed, begin
):
    layout = Layout(tmp_path / "root")
    add_video(layout, "walk", video)
    for finished in (2, 5):  # killed twice
        is_running, kill = begin(layout.root, detector, finished)
        wait_for_segments(layout, finished, is_running)
        kill()
        with pytest.raises(AnalysisError, match="not analyzed"):
            load_summary(layout, "walk")
    assert exit_code_of_fork(analyze, layout.root, detector) == 0
    assert published_bytes(layout, "walk") == undisturbed


@pytest.mark.medium
@pytest.mark.parametrize(
    "step",
    [
        "video_work.find_shots",
        "video_work.merge_objects",
        "measurements.write_receipt",
        "publish.write_json",
        "publish.write_receipt",
    ],
)
def test_killed_while_the_tables_are_published_gives_the_same_bytes(
    tmp_path, video, detector, undisturbed, step
):
    layout = Layout(tmp_path / "root")
    add_video(layout, "walk", video)
    assert exit_code_of_fork(analyze, layout.root, detector, step) == -signal.SIGKILL
    with pytest.raises(AnalysisError, match="not analyzed"):
        load_summary(layout, "walk")
    assert exit_code_of_fork(analyze, layout.root, detector) == 0
    assert published_bytes(layout, "walk") == undisturbed


def descendants(pid: int) -> set[int]:
    """Return the processes that `pid` started, and those that they started."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # ended meanwhile
            fields = stat.read_text().rpartition(")")[2].split()
            if fields[0] != "Z":
                parents[int(stat.parent.name)] = int(fields[1])
    found: set[int] = set()
    while more := {p for p, parent in parents.items() if parent in {pid, *found}} - found:
        found |= more
    return found


def alive(pids: set[int]) -> set[int]:
    states = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            states[pid] = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return {pid for pid, state in states.items() if state != "Z"}


@pytest.mark.medium
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM])
def test_when_the_command_is_killed_none_of_its_processes_stays(tmp_path, video, data_dir, by):
    # Two that decode, two that detect, and what multiprocessing itself starts.
    command = [sys.executable, "-m", "wtours", "analyze", "--root", str(tmp_path), "--jobs", "2"]
    command += ["--from-dir", str(video.parent), "--detect-fps", "3"]
    command += ["--detector", f"onnx:{data_dir / 'models' / 'yolox_nano.onnx'}"]
    # One segment is decoded in the command's own process: a longer film has more.
    write_scenes(video.parent / "long.mp4", seconds=(40, 40), size="160x96", rate=10)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + WAIT_SECONDS
    started: set[int] = set()
    while len(started) < 4:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
        started |= descendants(process.pid)
    process.send_signal(by)
    assert process.wait(WAIT_SECONDS) == (-signal.SIGKILL if by == signal.SIGKILL else 143)
    deadline = time.monotonic() + WAIT_SECONDS
    while alive(started):
        assert time.monotonic() < deadline, alive(started)
        time.sleep(0.05)


@pytest.mark.medium
def test_killed_while_another_detector_runs_keeps_the_earlier_analysis(
    tmp_path, video, detector, undisturbed
):
    layout = Layout(tmp_path / "root")
    add_video(layout, "walk", video)
    analyze_videos(layout, ["walk"])
    before = published_bytes(layout, "walk")
    is_running, kill = begin_alone(layout.root, detector, NEVER)
    wait_for_segments(layout, 3, is_running)
    kill()
    folder = layout.analysis_dir("walk")
    after = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert after == before
    assert load_summary(layout, "walk").objects is None
    assert exit_code_of_fork(analyze, layout.root, detector) == 0
    assert published_bytes(layout, "walk") == undisturbed
