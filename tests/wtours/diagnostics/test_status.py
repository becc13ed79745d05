"""The rows of `wtours list`."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.support.video_clips import write_clip
from wtours.acquire.download import download_videos
from wtours.cli import console
from wtours.diagnostics.status import video_states
from wtours.shards.params import ShardParams
from wtours.shards.schema import Dataset, IndexRecord, VideoRecord
from wtours.storage.atomic import write_json
from wtours.storage.receipts import Receipt, write_receipt
from wtours.workspace.layout import Layout
from wtours.workspace.manifest import VideoEntry
from wtours.workspace.videos import downloaded_video


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4")


ENTRIES = [
    VideoEntry(id="walk", title="A walk", sources=("file:clip.mp4",), license_claimed="CC-BY"),
    VideoEntry(id="lost", title="Lost", sources=("file:lost.mp4",)),
    VideoEntry(id="later", title="Later", sources=("file:clip.mp4",)),
]


def write_dataset(layout: Layout, name: str, video_id: str) -> None:
    video = VideoRecord(
        video_id=video_id,
        source_sha256="0" * 64,
        source=None,
        title=None,
        channel=None,
        license_claimed=None,
        license_observed=None,
        frame_rate="30/1",
        width=160,
        height=120,
        last_pts_us=1,
        segments=1,
        frames=1,
        holes=0,
        corrupt_frames=0,
    )
    dataset = Dataset(
        format=1,
        name=name,
        params=ShardParams(),
        frames=1,
        bytes=1,
        index=IndexRecord(rows=1, bytes=1, sha256="0" * 64),
        videos=(video,),
        shards=(),
    )
    write_json(layout.shards_dir(name) / "dataset.json", dataset.model_dump(mode="json"))


def test_each_row_says_what_is_done_of_the_video(clip, tmp_path):
    layout = Layout(tmp_path / "root")
    download_videos(ENTRIES[:2], layout, files_dir=clip.parent)
    write_dataset(layout, "b", "walk")
    write_dataset(layout, "a", "walk")
    (layout.root / "shards" / "torn").mkdir()
    (layout.root / "shards" / "torn" / "dataset.json").write_text("{")

    walk, lost, later = (asdict(state) for state in video_states(ENTRIES, layout))
    assert json.loads(json.dumps(walk)) == {
        "id": "walk",
        "title": "A walk",
        "download": "done",
        "error": None,
        "bytes": clip.stat().st_size,
        "duration_seconds": 4.0,
        "width": 160,
        "height": 120,
        "codec": "h264",
        "frame_rate": "30/1",
        "license_claimed": "CC-BY",
        "license_observed": None,
        "analysed": False,
        "shard_sets": ["a", "b"],
    }
    assert lost["download"] == "failed_transient"
    assert "lost.mp4" in lost["error"]
    assert lost["bytes"] is None
    assert later["download"] == "missing"
    assert later["error"] is None
    assert later["shard_sets"] == ()


def test_an_analysis_counts_only_for_the_file_that_is_there_now(clip, tmp_path):
    layout = Layout(tmp_path / "root")
    download_videos(ENTRIES[:1], layout, files_dir=clip.parent)
    for sha256, analyzed in ((downloaded_video(layout, "walk").sha256, True), ("0" * 64, False)):
        receipt = Receipt(stage="analyze", key="walk", inputs={"video": sha256})
        write_receipt(layout.analysis_receipt("walk"), receipt)
        (state,) = video_states(ENTRIES[:1], layout)
        assert state.analysed is analyzed


def test_a_folder_that_cannot_be_read_costs_its_own_row_only(tmp_path):
    layout = Layout(tmp_path)
    layout.videos_dir.mkdir()
    layout.video_dir("walk").write_bytes(b"a file where a folder should be")
    walk, *others = video_states(ENTRIES, layout)
    assert walk.error is not None
    assert "a file where a folder should be" in walk.error
    assert {state.download for state in others} == {"missing"}


def test_a_very_long_list_is_printed_whole(tmp_path, capsys):
    rows = [(f"v{number}", "A \x1b[31mwalk") for number in range(2000)]
    console.print_table("Videos", ("video", "title"), rows)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2002
    assert lines[:3] == ["Videos", "video  title", "v0     A walk"]
    assert lines[-1] == "v1999  A walk"
