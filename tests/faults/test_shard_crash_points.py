"""SIGKILL at named points of `shard`: the same command again ends with the same bytes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.sharded_videos import files_of, workspace
from tests.support.video_clips import write_clip
from wtours.sharding.build import build_shards
from wtours.sharding.repair import repair_shards
from wtours.shards.params import ShardParams
from wtours.shards.verify import verify_shards
from wtours.workspace.layout import Layout

pytestmark = pytest.mark.medium
PARAMS = ShardParams(shard_seconds=1, short_side=32)
VIDEOS = ["one", "two"]

# A temporary file is called .tmp-PID-TOKEN-NAME; the last event of the three is the publishing.
# Each process is a fork of one that has imported everything and has no threads.
KILLED = """
import json, os, signal, sys, tarfile
from pathlib import Path
import pyarrow
from wtours.storage import atomic
from wtours.workspace.layout import Layout
from wtours.sharding.build import build_shards
from wtours.sharding.repair import repair_shards
from wtours.shards.params import ShardParams

def reached(event, name):
    if f"{event} {name}" == point:
        os.kill(os.getpid(), signal.SIGKILL)

replace, fsync_tree, addfile = Path.replace, atomic.fsync_tree, tarfile.TarFile.addfile

def dying_replace(self, target):
    reached("before renaming", target.name)
    result = replace(self, target)
    reached("after renaming", target.name)
    return result

def dying_fsync_tree(path):
    reached("before syncing", path.name.split("-", 3)[-1])
    fsync_tree(path)

def dying_addfile(self, member, file=None):
    addfile(self, member, file)
    reached("after adding", member.name)

Path.replace, atomic.fsync_tree = dying_replace, dying_fsync_tree
tarfile.TarFile.addfile = dying_addfile
pyarrow.array([0])  # which imports pandas, once for all forks
for root, work, point in json.loads(sys.argv[1]):
    child = os.fork()
    if not child:
        layout = Layout(Path(root))
        if work == "shard":
            params = ShardParams(shard_seconds=1, short_side=32)
            build_shards(layout, ["one", "two"], params=params)
        else:
            repair_shards(layout, "default")
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

POINTS = {
    "the plan of a video is there": "after renaming one.json",
    "in the middle of a tar, after a picture": "after adding one-00000042.jpg",
    "a tar is written, not synced": "before syncing one-00001.tar",
    "a tar is synced, not named": "before renaming one-00001.tar",
    "a tar is named, its folder not synced": "after renaming one-00001.tar",
    "a tar and its rows are there, no receipt": "after renaming one-00001.parquet",
    "a receipt is synced, not named": "before renaming one-00001.json",
    "every receipt is there, no index": "after renaming two-00001.json",
    "the index is written, not synced": "before syncing index.parquet",
    "the index is there, no dataset.json": "after renaming index.parquet",
    "the attribution is there, no dataset.json": "after renaming ATTRIBUTION.md",
    "everything is there": "after renaming dataset.json",
}
REPAIR_POINTS = [
    "after adding one-00000042.jpg",
    "after renaming one-00001.tar",
    "before renaming one-00001.json",
    "after renaming index.parquet",
]
DAMAGED = "one-00001.tar"


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return write_clip(path, source="testsrc2=size=64x48:rate=30:duration=2")


@pytest.fixture(scope="module")
def expected(clip, tmp_path_factory) -> dict[str, bytes]:
    """What an undisturbed run publishes."""
    layout = workspace(clip, tmp_path_factory.mktemp("undisturbed"))
    return files_of(build_shards(layout, VIDEOS, params=PARAMS).directory)


@pytest.fixture(scope="module")
def killed(clip, tmp_path_factory) -> dict[tuple[str, str], Layout]:
    """A workspace for each command and point that a process was killed at."""
    cases = [("shard", point) for point in POINTS.values()]
    cases += [("repair", point) for point in REPAIR_POINTS]
    layouts = {case: workspace(clip, tmp_path_factory.mktemp("killed")) for case in cases}
    for (work, _), layout in layouts.items():
        if work == "repair":
            damaged = build_shards(layout, VIDEOS, params=PARAMS).directory / DAMAGED
            damaged.write_bytes(damaged.read_bytes()[:-1024])
    words = json.dumps([(str(layout.root), *case) for case, layout in layouts.items()])
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, words],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.split() == [str(-signal.SIGKILL)] * len(cases), ended.stderr
    return layouts


def published(directory: Path) -> dict[str, bytes]:
    """Return the files under their final names."""
    files = files_of(directory)
    return {name: data for name, data in files.items() if not Path(name).name.startswith(".")}


@pytest.mark.parametrize("point", POINTS.values(), ids=POINTS)
def test_killed_at_a_named_point_the_same_command_again_ends_with_the_same_bytes(
    killed, expected, point
):
    layout = killed["shard", point]
    directory = layout.shards_dir("default")
    assert published(directory).items() <= expected.items()
    build_shards(layout, VIDEOS, params=PARAMS)
    assert files_of(directory) == expected


@pytest.mark.parametrize("point", REPAIR_POINTS)
def test_a_repair_that_is_killed_goes_on_and_harms_no_other_shard(killed, expected, point):
    layout = killed["repair", point]
    directory = layout.shards_dir("default")
    others = {name: data for name, data in expected.items() if name != DAMAGED}
    assert others.items() <= published(directory).items()
    assert repair_shards(layout, "default").problems == ()
    assert files_of(directory) == expected
    assert verify_shards(directory).ok
