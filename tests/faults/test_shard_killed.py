"""A `shard` that is killed at any moment: the same command again ends with the same bytes."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.sharded_videos import files_of, workspace
from tests.support.video_clips import write_clip
from wtours.errors import WtoursError
from wtours.sharding.build import ShardReport, build_shards
from wtours.shards import ShardIndex
from wtours.shards.params import ShardParams
from wtours.shards.verify import verify_shards
from wtours.workspace.layout import Layout

SHARD = """
import sys
import time
from pathlib import Path
from wtours.workspace.layout import Layout
from wtours.execution.processes import ProcessExecutor
from wtours.sharding import segment_writer
from wtours.sharding.build import build_shards
from wtours.shards.params import ShardParams

root, jobs, held_from = sys.argv[1:]
publish_receipt = segment_writer.publish_receipt

def publish_and_hold(task, directory, **how_it_ended):
    publish_receipt(task, directory, **how_it_ended)
    if len(list((directory / "receipts").glob("[!.]*-*.json"))) >= int(held_from):
        time.sleep(600)  # until it is killed: on a busy machine it might have ended before

segment_writer.publish_receipt = publish_and_hold  # in each worker: it imports this file
if __name__ == "__main__":
    params = ShardParams(shard_seconds=1, short_side=64)
    with ProcessExecutor(int(jobs)) as executor:
        build_shards(Layout(Path(root)), ["one", "two"], params=params, executor=executor)
"""
PARAMS = ShardParams(shard_seconds=1, short_side=64)
NEVER = 1000  # segments
WAIT_SECONDS = 600  # for what would never come; a busy machine is slow
pytestmark = pytest.mark.medium


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return write_clip(path, source="mandelbrot=size=160x90:rate=30", t=8)


@pytest.fixture(scope="module")
def expected(source, tmp_path_factory) -> dict[str, bytes]:
    """What an undisturbed run publishes."""
    return files_of(shard(workspace(source, tmp_path_factory.mktemp("undisturbed"))).directory)


def shard(layout: Layout) -> ShardReport:
    return build_shards(layout, ["one", "two"], params=PARAMS)


def kill_after_receipts(
    layout: Layout, count: int, *, delay_seconds: float, jobs: int, held_from: int = NEVER
) -> None:
    """Run `shard` in a process group of its own and kill it once `count` segments are done.

    From `held_from` segments on its workers wait for that.
    """
    script = layout.root / "shard.py"  # a file, since workers import the main module
    script.write_text(SHARD)
    process = subprocess.Popen(
        [sys.executable, str(script), str(layout.root), str(jobs), str(held_from)],
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    receipts = layout.shards_dir("default") / "receipts"
    deadline = time.monotonic() + WAIT_SECONDS
    while len(list(receipts.glob("[!.]*-*.json"))) < count and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    time.sleep(delay_seconds)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize("jobs", [1, 2])
def test_killed_in_the_middle_the_same_command_again_ends_with_the_same_bytes(
    source, expected, tmp_path, jobs
):
    layout = workspace(source, tmp_path)
    kill_after_receipts(layout, 3, delay_seconds=0.03, jobs=jobs, held_from=6)
    directory = layout.shards_dir("default")
    done = len(list((directory / "receipts").glob("[!.]*-*.json")))
    assert 3 <= done < 16
    assert not (directory / "dataset.json").exists()
    report = shard(layout)
    assert report.num_segments_kept == done
    assert files_of(directory) == expected


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(30))
def test_killed_at_a_random_time_the_same_command_again_ends_with_the_same_bytes(
    source, expected, tmp_path, seed
):
    chance = random.Random(seed)
    layout = workspace(source, tmp_path)
    for _ in range(3):
        count, delay = chance.randrange(17), chance.uniform(0, 0.3)
        kill_after_receipts(layout, count, delay_seconds=delay, jobs=chance.choice([1, 2]))
    directory = shard(layout).directory
    assert files_of(directory) == expected
    assert verify_shards(directory).ok


def test_killed_between_the_index_and_dataset_json_the_set_is_refused_until_the_next_run(
    source, expected, tmp_path
):
    layout = workspace(source, tmp_path)
    directory = shard(layout).directory
    # The state after such a kill: a newer index beside an older dataset.json.
    index = directory / "index.parquet"
    index.write_bytes(index.read_bytes() + b"\0")
    with pytest.raises(WtoursError, match="run `wtours shard` again"):
        ShardIndex.open(directory)
    shard(layout)
    assert files_of(directory) == expected


def test_what_a_killed_process_left_is_swept(source, expected, tmp_path):
    layout = workspace(source, tmp_path)
    directory = layout.shards_dir("default")
    (directory / "receipts").mkdir(parents=True)
    (directory / ".tmp-1-one-00000.tar").write_bytes(b"half a tar")
    (directory / "receipts" / ".tmp-1-one-00000.json").write_bytes(b"{")
    shard(layout)
    assert files_of(directory) == expected


def test_a_second_process_on_the_same_set_is_refused(source, tmp_path):
    layout = workspace(source, tmp_path)
    refusals: list[str] = []

    def second(*_: object) -> None:
        if not refusals:
            with pytest.raises(WtoursError) as caught:
                shard(layout)
            refusals.append(str(caught.value))

    build_shards(layout, ["one"], params=PARAMS, on_progress=second)
    assert refusals == [
        f"shard set 'default' is in use by process {os.getpid()}; wait for it or stop it"
    ]
