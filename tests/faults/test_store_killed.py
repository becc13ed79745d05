"""SIGKILL in the middle of a commit on an object store, at named points; then the same again."""

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
SCRIPT = """
import os, signal, sys
from tests.support.prepared import entries, prepare_options, store_workspace
from wtours.prepare.pipeline import prepare_videos
from wtours.storage.object_store import ObjectStore

point, name = sys.argv[2:] or ("", "")
put, find = ObjectStore._put, ObjectStore.list

def die(): os.kill(os.getpid(), signal.SIGKILL)

def _put(self, fs, path, *rest):
    if point == "put" and path.endswith(name): die()
    put(self, fs, path, *rest)
    if point == "put done" and path.endswith(name): die()

def _list(self, folder=""):
    if point == "list": die()
    return find(self, folder)

ObjectStore._put, ObjectStore.list = _put, _list
with store_workspace(sys.argv[1]) as layout:
    report = prepare_videos(layout, entries("walk"), prepare_options())
    assert not report.shards.failed and not report.analysis.failed
"""


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    walk = write_walk(tmp_path_factory.mktemp("walk") / "walk.mp4", seconds=(40, 25))
    return workspace(tmp_path_factory.mktemp("disk"), {"walk": walk})


@pytest.fixture(scope="module")
def expected(disk):
    return apart(disk, ["walk"])


def run(url, scratch, *point):
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "WTOURS_SCRATCH": str(scratch)}
    command = [sys.executable, "-c", SCRIPT, url, *point]
    return subprocess.run(command, env=environment, timeout=600).returncode


ON_ANOTHER = ("after the shard", "before the receipt", "before its receipt", "after the index")
"""Points at which the rerun is tried on another machine too."""


@pytest.mark.parametrize(
    ("point", "again_on"),
    [*((point, "the same machine") for point in POINTS), *((p, "another") for p in ON_ANOTHER)],
)
def test_killed_in_a_commit_and_run_again(disk, expected, s3_folder, tmp_path, point, again_on):
    copy_into(f"{s3_folder}/videos", disk.root / "videos")
    assert run(s3_folder, tmp_path / "one", *POINTS[point]) == -signal.SIGKILL
    store = open_store(s3_folder)
    for key, sha256 in sha256s(store, "shards").items():  # what has a name is whole
        assert sha256 == expected[key]
    scratch = tmp_path / ("one" if again_on == "the same machine" else "two")
    assert run(s3_folder, scratch) == 0
    assert sha256s(store, "analysis") | sha256s(store, "shards") == expected
