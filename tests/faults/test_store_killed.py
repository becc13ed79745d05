"""SIGKILL in the middle of a commit on an object store, at named points; then the same again."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.object_stores import OF_S3_CLIENTS, copy_into, sha256s
from tests.support.prepared import apart, workspace, write_walk
from wtours.storage.object_store import open_store

pytestmark = [pytest.mark.medium, OF_S3_CLIENTS]
REPOSITORY = Path(__file__).resolve().parents[2]

POINTS = {
    "before the probe": ("list", ""),
    "before the shard": ("put", "walk-00000.tar"),
    "after the shard": ("put done", "walk-00000.tar"),
    "after the rows": ("put done", "receipts/walk-00000.parquet"),
    "before the receipt": ("put", "receipts/walk-00001.json"),
    "after the receipt": ("put done", "receipts/walk-00001.json"),
    "in the tables of the analysis": ("put done", "analysis/walk/frames.parquet"),
    "in its measurements": ("put", "measurements/shots/receipt.json"),
    "before its receipt": ("put", "analysis/walk/receipt.json"),
    "after its receipt": ("put done", "analysis/walk/receipt.json"),
    "after the index": ("put done", "shards/default/index.parquet"),
    "before the data set": ("put", "shards/default/dataset.json"),
    "after the data set": ("put done", "shards/default/dataset.json"),
}
# One process imports everything and has no threads; what is killed are its forks.
SCRIPT = """
import json, os, signal, sys
import pyarrow, s3fs
from tests.support.prepared import entries, prepare_options, store_workspace
from wtours.prepare.pipeline import prepare_videos
from wtours.storage.object_store import ObjectStore

put, find = ObjectStore._put, ObjectStore.list

def die(): os.kill(os.getpid(), signal.SIGKILL)

def run(url, point, name):
    def _put(self, fs, path, *rest):
        if point == "put" and path.endswith(name): die()
        put(self, fs, path, *rest)
        if point == "put done" and path.endswith(name): die()

    def _list(self, folder=""):
        if point == "list": die()
        return find(self, folder)

    ObjectStore._put, ObjectStore.list = _put, _list
    with store_workspace(url) as layout:
        report = prepare_videos(layout, entries("walk"), prepare_options())
        assert not report.shards.failed and not report.analysis.failed

pyarrow.array([0])  # which imports pandas, once for all forks
for line in sys.stdin:
    environment, arguments = json.loads(line)
    child = os.fork()
    if not child:
        signal.alarm(600)  # for what would never end
        os.environ.update(environment)
        run(*arguments)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def machine():
    """What runs the script, a fork for each line that it is given."""
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    walk = write_walk(tmp_path_factory.mktemp("walk") / "walk.mp4", seconds=(40, 25))
    return workspace(tmp_path_factory.mktemp("disk"), {"walk": walk})


@pytest.fixture(scope="module")
def expected(disk):
    return apart(disk, ["walk"])


def run(machine, url, scratch, point="", name=""):
    """Return how the command ended."""
    environment = {**os.environ, "WTOURS_SCRATCH": str(scratch)}
    machine.stdin.write(json.dumps([environment, [url, point, name]]) + "\n")
    machine.stdin.flush()
    return int(machine.stdout.readline())


ON_ANOTHER = ("after the shard", "before the receipt", "before its receipt", "after the index")
"""Points at which the rerun is tried on another machine too."""


@pytest.mark.parametrize(
    ("point", "again_on"),
    [*((point, "the same machine") for point in POINTS), *((p, "another") for p in ON_ANOTHER)],
)
def test_killed_in_a_commit_and_run_again(
    disk, expected, machine, s3_folder, tmp_path, point, again_on
):
    copy_into(f"{s3_folder}/videos", disk.root / "videos")
    assert run(machine, s3_folder, tmp_path / "one", *POINTS[point]) == -signal.SIGKILL
    store = open_store(s3_folder)
    for key, sha256 in sha256s(store, "shards").items():  # what has a name is whole
        assert sha256 == expected[key]
    scratch = tmp_path / ("one" if again_on == "the same machine" else "two")
    assert run(machine, s3_folder, scratch) == 0
    assert sha256s(store, "analysis") | sha256s(store, "shards") == expected
