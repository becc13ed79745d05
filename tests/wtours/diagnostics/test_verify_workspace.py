"""`wtours verify --all`: damage to any published file is found by its bytes."""

import json
from pathlib import Path

import pytest

from tests.support.sharded_videos import publish_video
from tests.support.video_clips import write_clip
from wtours.diagnostics.verify_workspace import verify_workspace
from wtours.sharding.build import build_shards
from wtours.shards.params import ShardParams
from wtours.storage.hashing import canonical_json
from wtours.storage.receipts import Receipt, record_file, write_receipt
from wtours.workspace.layout import Layout

FILES = {
    "video": "videos/walk/walk.mp4",
    "analysis": "analysis/walk/frames.parquet",
    "measurement": "analysis/walk/measurements/frames/rows.parquet",
    "shard": "shards/default/walk-00000.tar",
    "checkpoint": "runs/default/checkpoints/step-00000004/model.safetensors",
}


@pytest.fixture
def layout(tmp_path) -> Layout:
    layout = Layout(tmp_path / "root")
    clip = write_clip(tmp_path / "walk.mp4", source="testsrc2=size=64x48:rate=10:duration=2")
    publish_video(layout, "walk", clip)
    build_shards(layout, ["walk"], params=ShardParams(shard_seconds=1, short_side=32))
    for kind in ("analysis", "measurement", "checkpoint"):
        path = layout.root / FILES[kind]
        path.parent.mkdir(parents=True)
        path.write_bytes(b"numbers " * 100)
        record = record_file(path, relative_to=path.parent)
        receipt = path.with_name("receipt.json")
        if kind != "checkpoint":
            write_receipt(receipt, Receipt(stage="analyze", key="walk", files=(record,)))
        else:  # as training.engine.checkpoint writes it
            receipt.write_bytes(canonical_json({"format": 1, "files": [record.model_dump()]}))
    return layout


def test_a_whole_workspace_has_no_problem_and_is_counted(layout):
    report = verify_workspace(layout)
    assert report.problems == ()
    assert report.counts == {
        "videos": 1,
        "analyses": 1,
        "measurements": 1,
        "shard sets": 1,
        "layers": 0,
        "checkpoints": 1,
    }
    assert report.bytes == sum(
        path.stat().st_size
        for pattern in (
            "*/walk/walk.mp4",
            "*/walk/**/*.parquet",
            "*/*/*.tar",
            "**/model.safetensors",
        )
        for path in layout.root.glob(pattern)
    )


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("damage", ["flipped byte", "cut", "gone"])
def test_damage_is_found_by_the_bytes_and_named(layout, kind, damage):
    path = layout.root / FILES[kind]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data[:-1] if damage == "cut" else data)
    if damage == "gone":
        path.unlink()
    assert {problem.file for problem in verify_workspace(layout).problems} == {FILES[kind]}


@pytest.mark.parametrize("kind", ["video", "analysis", "checkpoint"])
@pytest.mark.parametrize("damage", ["torn", "path"])
def test_a_receipt_that_cannot_be_trusted_is_named(layout, kind, damage):
    path = (layout.root / FILES[kind]).with_name("receipt.json")
    receipt = json.loads(path.read_text())
    receipt["files"][0]["path"] = "../../../elsewhere"
    path.write_text("{" if damage == "torn" else json.dumps(receipt))
    (problem,) = verify_workspace(layout).problems
    assert problem.file == str(path.relative_to(layout.root))


def test_a_checkpoint_without_a_receipt_is_named(layout):
    folder = Path(FILES["checkpoint"]).parent
    (layout.root / folder / "receipt.json").unlink()
    (problem,) = verify_workspace(layout).problems
    assert problem.file == str(folder)


@pytest.mark.parametrize(
    ("fact", "value"),
    [("duration_us", "x"), ("height", -3), ("frame_rate", "0/0"), ("codec", None)],
)
def test_facts_of_a_video_that_no_stage_accepts_are_named(layout, fact, value):
    path = layout.video_receipt("walk")
    receipt = json.loads(path.read_text())
    receipt["facts"][fact] = value
    path.write_text(json.dumps(receipt))
    (problem,) = verify_workspace(layout).problems
    assert problem.file == "videos/walk/receipt.json"
    assert "wtours download --video walk" in problem.message
