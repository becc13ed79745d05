"""Workers that die, Ctrl-C once and twice, and many starts of `shard` at the same time."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from tests.support.sharded_videos import files_of, workspace
from tests.support.video_clips import write_clip
from wtours.execution.processes import ProcessExecutor
from wtours.sharding.build import build_shards
from wtours.sharding.repair import repair_shards
from wtours.shards.params import ShardParams
from wtours.storage.receipts import read_receipt

pytestmark = pytest.mark.medium
PARAMS = ShardParams(shard_seconds=1, short_side=64)
VIDEOS = ["one", "two"]
WAIT_SECONDS = 600  # for what would never come; a busy machine is slow


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return write_clip(path, source="mandelbrot=size=128x96:rate=30", t=4)


@pytest.fixture(scope="module")
def expected(source, tmp_path_factory) -> dict[str, bytes]:
    """What an undisturbed run publishes."""
    layout = workspace(source, tmp_path_factory.mktemp("undisturbed"))
    return files_of(build_shards(layout, VIDEOS, params=PARAMS).directory)


def crash_at(name, function, task):
    """Die as a decoder dies that follows a wild pointer."""
    if task.shard == name:
        os.kill(os.getpid(), signal.SIGSEGV)
    return function(task)


class CrashingExecutor(ProcessExecutor):
    """Two worker processes, which die at one shard."""

    def __init__(self, name: str) -> None:
        super().__init__(2)
        self.name = name

    def map(self, function, tasks):
        return super().map(partial(crash_at, self.name, function), tasks)


def test_a_segment_that_crashes_the_decoder_is_named_and_the_others_are_made(
    source, expected, tmp_path
):
    layout = workspace(source, tmp_path)
    for _ in range(2):  # a rerun ends the same way
        with CrashingExecutor("two-00002") as executor:
            report = build_shards(layout, VIDEOS, params=PARAMS, executor=executor)
        assert list(report.failed) == ["two"]
        assert (
            "the process died, also when nothing else ran, at two from 2 s to 3 s"
            in (report.failed["two"])
        )
        assert "SIGSEGV" in report.failed["two"]
        assert report.dataset is not None
        assert [video.video_id for video in report.dataset.videos] == ["one"]
        receipt = read_receipt(report.directory / "receipts" / "two-00002.json")
        assert receipt is not None
        assert receipt.status == "failed_permanent"
        assert receipt.error == report.failed["two"]
        # The other worker may be ended in mid-write; the next run sweeps its hidden file.
        published = {path.stem for path in report.directory.glob("[!.]*.tar")}
        assert published == {Path(name).stem for name in expected if name.endswith(".tar")} - {
            "two-00002"
        }
    report = build_shards(layout, VIDEOS, params=PARAMS)
    assert (report.failed, report.num_segments_written) == ({}, 1)
    assert files_of(report.directory) == expected


def test_a_repair_names_the_shard_that_crashes_the_decoder(source, expected, tmp_path):
    layout = workspace(source, tmp_path)
    directory = build_shards(layout, VIDEOS, params=PARAMS).directory
    for name in ("one-00001.tar", "two-00002.tar"):
        (directory / name).unlink()
    with CrashingExecutor("two-00002") as executor:
        repaired = repair_shards(layout, "default", executor=executor)
    assert repaired.repaired == ("one-00001.tar",)
    assert [p.file for p in repaired.problems] == ["two-00002.tar", "two-00002.tar"]
    assert "the process died" in repaired.problems[1].message
    assert repair_shards(layout, "default").problems == ()
    assert files_of(directory) == expected


# The command line, whose workers wait after a segment until they are let go: none is still
# starting, and the command has not ended, when Ctrl-C is pressed.
HELD = """
import time
from pathlib import Path
from wtours.sharding import segment_writer

publish_receipt = segment_writer.publish_receipt

def publish_and_hold(task, directory, **how_it_ended):
    publish_receipt(task, directory, **how_it_ended)
    while not Path("go").exists():
        time.sleep(0.01)

segment_writer.publish_receipt = publish_and_hold  # in each worker: it imports this file
if __name__ == "__main__":
    from wtours.cli.app import main

    main()
"""
COMMAND = [sys.executable, "held.py", "shard", "--manifest", "mine.toml", "--jobs", "2"]
COMMAND += ["--shard-seconds", "1", "--short-side", "64", "--root", "root"]
MANIFEST = 'format = 1\nname = "mine"\n' + "".join(
    f'[[video]]\nid = "{video_id}"\ntitle = "A walk"\nsources = ["file:{video_id}.mp4"]\n'
    f'domain = "Test"\nlicense_claimed = "CC0"\n'
    for video_id in VIDEOS
)


def living(group: int) -> list[int]:
    """Return the processes of a group that are not only waiting to be reaped."""
    stats = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            stats.append(path.read_text())
    fields = [(int(text.split()[0]), text.rpartition(")")[2].split()) for text in stats]
    return [pid for pid, (state, _, of, *_) in fields if int(of) == group and state != "Z"]


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_ends_with_130_and_no_process_left_and_a_rerun_goes_on(
    source, expected, tmp_path, presses
):
    layout = workspace(source, tmp_path / "root")
    (tmp_path / "mine.toml").write_text(MANIFEST)
    (tmp_path / "held.py").write_text(HELD)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(
        COMMAND, cwd=tmp_path, env=environment, start_new_session=True, stderr=subprocess.PIPE
    )
    receipts = layout.shards_dir("default") / "receipts"
    deadline = time.monotonic() + WAIT_SECONDS
    while len(list(receipts.glob("[!.]*-*.json"))) < 2:  # one of each worker
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it: to the workers too
    assert process.stderr is not None
    errors = b""
    while b"stopping: waiting up to" not in errors:
        line = process.stderr.readline()
        assert line, errors
        errors += line
    if presses == 2:
        os.killpg(process.pid, signal.SIGINT)
    else:
        (tmp_path / "go").touch()
    _, rest = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 130
    assert b"Traceback" not in errors + rest
    while living(process.pid):
        assert time.monotonic() < deadline + WAIT_SECONDS
        time.sleep(0.01)
    report = build_shards(layout, VIDEOS, params=PARAMS)
    assert report.failed == {}
    assert files_of(report.directory) == expected


# Twenty processes of one that has imported everything, released together.
STARTS = """
import os, sys
from pathlib import Path
import pyarrow
from wtours.errors import WtoursError
from wtours.sharding.build import build_shards
from wtours.shards.params import ShardParams
from wtours.workspace.layout import Layout

pyarrow.array([0])  # which imports pandas, once for all forks
read, write = os.pipe()
children = []
for _ in range(20):
    child = os.fork()
    if not child:
        os.close(write)
        os.read(read, 1)
        params = ShardParams(shard_seconds=1, short_side=64)
        try:
            build_shards(Layout(Path(sys.argv[1])), ["one", "two"], params=params)
        except WtoursError as error:
            os.write(1, (str(error).split(" by ")[0] + "\\n").encode())
            os._exit(1)
        os._exit(0)
    children.append(child)
os.close(write)
for child in children:
    os.write(1, b"%d\\n" % os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_of_twenty_starts_at_once_one_works_and_the_others_say_so(source, expected, tmp_path):
    layout = workspace(source, tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", STARTS, str(tmp_path)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    ends = Counter(result.stdout.split("\n"))
    assert ends["0"] >= 1
    assert ends["0"] + ends["1"] == 20, result
    assert ends["shard set 'default' is in use"] == ends["1"]
    assert files_of(layout.shards_dir("default")) == expected
