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

# In the order in which a command comes to them.
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


def test_killed_at_each_point_in_turn_and_run_again(disk, expected, machine, s3_folder, tmp_path):
    copy_into(f"{s3_folder}/videos", disk.root / "videos")
    store = open_store(s3_folder)
    for name, point in POINTS.items():
        assert run(machine, s3_folder, tmp_path / "one", *point) == -signal.SIGKILL, name
        assert_what_has_a_name_is_whole(store, expected)
    assert run(machine, s3_folder, tmp_path / "one") == 0
    assert sha256s(store, "analysis") | sha256s(store, "shards") == expected


def test_killed_in_a_commit_another_machine_goes_on_until_it_is_killed_too(
    disk, expected, machine, s3_folder, tmp_path
):
    copy_into(f"{s3_folder}/videos", disk.root / "videos")
    store = open_store(s3_folder)
    for name in ("after the shard", "before the receipt", "before its receipt", "after the index"):
        assert run(machine, s3_folder, tmp_path / name, *POINTS[name]) == -signal.SIGKILL, name
        assert_what_has_a_name_is_whole(store, expected)
    assert run(machine, s3_folder, tmp_path / "last") == 0
    assert sha256s(store, "analysis") | sha256s(store, "shards") == expected


def assert_what_has_a_name_is_whole(store, expected):
    for key, sha256 in sha256s(store, "shards").items():
        assert sha256 == expected[key]
