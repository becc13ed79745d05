"""A power cut while shards are written: what was reported is whole after the journal's replay.

The file system lies in a file, which is copied while it is mounted and written to: the copy is what
a disk holds when the power goes. With fsync taken out of `wtours.storage.atomic` the same check
fails, which shows that it can.
"""

from pathlib import Path

import pytest

from tests.support.power_cut import cut_power, make_image, mounted
from tests.support.sharded_videos import files_of, publish_video
from tests.support.video_clips import write_clip
from wtours.sharding.build import build_shards
from wtours.shards.params import ShardParams
from wtours.shards.verify import verify_shards
from wtours.storage.hashing import sha256_file
from wtours.storage.receipts import read_receipt
from wtours.workspace.layout import Layout

pytestmark = pytest.mark.slow
PARAMS = ShardParams(shard_seconds=1, short_side=64)
SEGMENTS = 6

# Tells each finished segment, and "sealed", as a line on stdout.
SHARD = """
import sys
from pathlib import Path
from wtours.storage import atomic
from wtours.workspace.layout import Layout
from wtours.sharding.build import build_shards
from wtours.shards.params import ShardParams

root, synced = sys.argv[1:]
if synced == "no":
    atomic.fsync = lambda path: None

def tell(video_id, done, total):
    print(done, flush=True)

params = ShardParams(shard_seconds=1, short_side=64)
build_shards(Layout(Path(root)), ["walk"], params=params, on_progress=tell)
print("sealed", flush=True)
sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return write_clip(path, source="mandelbrot=size=128x96:rate=30", t=SEGMENTS)


@pytest.fixture(scope="module")
def expected(source, tmp_path_factory) -> dict[str, bytes]:
    """What an undisturbed run publishes."""
    layout = Layout(tmp_path_factory.mktemp("undisturbed"))
    publish_video(layout, "walk", source)
    return files_of(build_shards(layout, ["walk"], params=PARAMS).directory)


@pytest.fixture
def image(tmp_path) -> Path:
    return make_image(tmp_path)


def workspace(source: Path, root: Path, shards: Path) -> Layout:
    layout = Layout(root)
    publish_video(layout, "walk", source)
    layout.shards_dir("default").parent.symlink_to(shards)
    return layout


def damaged(directory: Path, report: str) -> list[str]:
    """Return what was reported and is not whole."""
    sealed = report == "sealed"
    found = []
    for segment in range(SEGMENTS if sealed else int(report)):
        receipt = read_receipt(directory / "receipts" / f"walk-{segment:05d}.json")
        tar = directory / f"walk-{segment:05d}.tar"
        sha256 = sha256_file(tar) if tar.is_file() else None
        if receipt is None or sha256 != receipt.file(".tar").sha256:
            found.append(tar.name)
    if sealed and (found or not verify_shards(directory).ok):
        found.append("dataset.json")
    return found


@pytest.mark.parametrize("report", ["1", "3", "5", "sealed"])
def test_after_a_power_cut_every_reported_shard_is_whole(source, expected, tmp_path, image, report):
    copy = tmp_path / "copy.img"
    with mounted(image, tmp_path / "disk") as disk:
        layout = workspace(source, tmp_path / "root", disk)
        cut_power(SHARD, str(layout.root), "yes", after=report, image=image, copy=copy)
    with mounted(copy, tmp_path / "replayed") as disk:
        layout = workspace(source, tmp_path / "after", disk)
        directory = layout.shards_dir("default")
        assert damaged(directory, report) == []
        build_shards(layout, ["walk"], params=PARAMS)
        assert files_of(directory) == expected


@pytest.mark.parametrize("report", ["3", "sealed"])
def test_without_fsync_the_same_check_finds_damage(source, tmp_path, image, report):
    copy = tmp_path / "copy.img"
    with mounted(image, tmp_path / "disk") as disk:
        layout = workspace(source, tmp_path / "root", disk)
        cut_power(SHARD, str(layout.root), "no", after=report, image=image, copy=copy)
    with mounted(copy, tmp_path / "replayed") as disk:
        layout = workspace(source, tmp_path / "after", disk)
        assert damaged(layout.shards_dir("default"), report)
