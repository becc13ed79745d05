"""A power cut while videos are downloaded: what was reported is whole after the journal's replay.

As in `test_shard_power_cut`, with the same proof that the check can fail: without fsync it does.
"""

from pathlib import Path

import pytest

from tests.support.power_cut import cut_power, make_image, mounted
from tests.support.report_workspace import entry
from tests.support.sharded_videos import files_of
from tests.support.video_clips import write_clip
from wtours.acquire.download import download_videos
from wtours.storage.receipts import files_intact, read_receipt
from wtours.workspace.layout import Layout

pytestmark = pytest.mark.slow
VIDEOS = ("one", "two", "three", "four")

# Tells each video that is done as a line on stdout.
DOWNLOAD = """
import sys
from pathlib import Path
from tests.support.report_workspace import entry
from wtours.acquire.download import download_videos
from wtours.storage import atomic
from wtours.workspace.layout import Layout

root, files, synced, *videos = sys.argv[1:]
if synced == "no":
    atomic.fsync = lambda path: None
for video_id in videos:
    walk = entry(video_id, sources=(f"file:{video_id}.mp4",))
    assert not download_videos([walk], Layout(Path(root)), from_dir=Path(files)).failed
    print(video_id, flush=True)
sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("files")
    for video_id in VIDEOS:
        write_clip(folder / f"{video_id}.mp4", source="mandelbrot=size=192x128:rate=30", t=3)
    return folder


def workspace(root: Path, disk: Path) -> Layout:
    """Return a workspace whose videos are on a disk of their own."""
    root.mkdir()
    (root / "videos").symlink_to(disk)
    return Layout(root)


def lost(layout: Layout, reported: tuple[str, ...]) -> list[str]:
    """Return which of the videos that were reported are not whole."""
    found = []
    for video_id in reported:
        receipt = read_receipt(layout.video_receipt(video_id))
        if receipt is None or not files_intact(receipt, layout.video_dir(video_id)):
            found.append(video_id)
    return found


def cut(tmp_path: Path, files: Path, *, synced: str, after: str) -> Path:
    """Download onto a disk that loses its power after a video; return the disk."""
    image, copy = make_image(tmp_path), tmp_path / "copy.img"
    with mounted(image, tmp_path / "disk") as disk:
        root = workspace(tmp_path / "root", disk).root
        words = (str(root), str(files), synced, *VIDEOS)
        cut_power(DOWNLOAD, *words, after=after, image=image, copy=copy)
    return copy


@pytest.mark.parametrize("number", [1, 3, 4])
def test_after_a_power_cut_every_reported_video_is_whole(tmp_path, files, number):
    copy = cut(tmp_path, files, synced="yes", after=VIDEOS[number - 1])
    entries = [entry(video_id, sources=(f"file:{video_id}.mp4",)) for video_id in VIDEOS]
    with mounted(copy, tmp_path / "replayed") as disk:
        layout = workspace(tmp_path / "after", disk)
        assert lost(layout, VIDEOS[:number]) == []
        assert download_videos(entries, layout, from_dir=files).failed == {}
        for video_id in VIDEOS:
            (video,) = layout.video_dir(video_id).glob(f"{video_id}.*")
            assert video.read_bytes() == files_of(files)[f"{video_id}.mp4"]


def test_without_fsync_the_same_check_finds_damage(tmp_path, files):
    copy = cut(tmp_path, files, synced="no", after=VIDEOS[-1])
    with mounted(copy, tmp_path / "replayed") as disk:
        assert lost(workspace(tmp_path / "after", disk), VIDEOS)
