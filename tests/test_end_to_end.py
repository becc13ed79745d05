"""The whole road by the command line, on two small rendered walks; what bad input does to it."""

import json
import shutil
from pathlib import Path

import pytest

from tests.support.command_line import run_here
from tests.support.small_disk import resize, small_disk
from wtours.storage.hashing import sha256_file

pytestmark = pytest.mark.medium

MANIFEST = """
format = 1
name = "small"
[[video]]
id = "morning"
title = "A walk with one cut"
sources = ["file:morning.mp4"]
rendered = { seconds = 14, width = 192, height = 108, frame_rate = 10, seed = 1, cut_seconds = [7] }
[[video]]
id = "evening"
title = "A walk <b>without</b> a cut"
sources = ["file:evening.mp4"]
rendered = { seconds = 9, width = 192, height = 108, frame_rate = 10, seed = 2 }
"""
TINY = [
    "model.depth=2",
    "model.embed_dim=48",
    "model.num_heads=3",
    "model.num_prototypes=64",
    "data.global_crop_pixels=64",
    "data.local_crop_pixels=32",
    "data.local_crops=2",
    "optim.steps=3",
]


def ok(*words: str | Path) -> str:
    result = run_here(*words)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with manifest.toml and the workspace `data`, taken as far as shards."""
    folder = tmp_path_factory.mktemp("road")
    (folder / "manifest.toml").write_text(MANIFEST)
    rendered = folder / "data" / "rendered"
    common = ("--manifest", folder / "manifest.toml", "--root", folder / "data")
    ok("render", *common)
    ok("download", *common, "--from-dir", rendered)
    ok("analyze", *common, "--detector", f"file:{rendered / 'detections'}", "--jobs", "1")
    ok("shard", *common, "--fps", "5", "--jobs", "1")
    return folder


@pytest.fixture
def workspace(walked: Path, tmp_path: Path) -> Path:
    """A copy of `walked` that a test may spoil."""
    shutil.copytree(walked, tmp_path / "road")
    return tmp_path / "road"


def test_the_road_ends_at_a_checkpoint_and_a_report_with_the_drawn_cuts(workspace):
    root = workspace / "data"
    common = ("--manifest", workspace / "manifest.toml", "--root", root)
    assert "2 shards" in ok("verify", "--root", root)
    settings = [part for setting in TINY for part in ("--set", setting)]
    pretrain = ("pretrain", "--root", root, "--preset", "demo", *settings)
    assert "trained to step 3" in ok(*pretrain)
    assert "nothing to do" in ok(*pretrain)
    crops = root / "rendered" / "crops"
    result = json.loads(
        ok(
            *("eval", "knn", "default", "--root", root, "--json", "--random-baseline"),
            *("--train", crops / "train", "--val", crops / "val"),
        )
    )
    assert set(result["results"]) == {"teacher", "random_weights"}
    pictures = ok("visualize", "default", "--root", root, "--video", "evening", "--clips", "1")
    assert all(Path(line).stat().st_size > 0 for line in pictures.splitlines())
    ok("report", *common)
    table = json.loads((root / "reports" / "table6.json").read_text())
    assert {video["id"]: video["measured"]["cuts"] for video in table["videos"]} == {
        "morning": 1,
        "evening": 0,
    }
    assert all(video["measured"]["objects_per_frame"] > 0 for video in table["videos"])
    page = (root / "reports" / "report.html").read_text()
    assert "<b>without</b>" not in page
    states = json.loads(ok("list", *common, "--json"))
    assert [state["analysed"] for state in states] == [True, True]
    assert [state["shard_sets"] for state in states] == [["default"], ["default"]]


def test_doing_it_all_again_changes_no_file(workspace):
    root = workspace / "data"
    common = ("--manifest", workspace / "manifest.toml", "--root", root)

    def written() -> dict[Path, str]:
        kept_apart = {root / "locks", root / "cache"}  # this workspace is a copy: other inodes
        return {
            path: sha256_file(path)
            for path in root.rglob("*")
            if path.is_file() and not kept_apart & {*path.parents}
        }

    before = written()
    detections = root / "rendered" / "detections"
    ok("render", *common)
    ok("download", *common)
    ok("analyze", *common, "--detector", f"file:{detections}")
    ok("shard", *common, "--fps", "5")
    assert written() == before


def test_one_missing_file_does_not_stop_the_other_video(workspace):
    root = workspace / "fresh"
    given = workspace / "given"
    given.mkdir()
    shutil.copy(workspace / "data" / "rendered" / "evening.mp4", given)
    (given / "morning.mp4").write_text("this is a text file\n" * 1000)
    common = ("--manifest", workspace / "manifest.toml", "--root", root)
    result = run_here("download", *common, "--from-dir", given)
    assert result.returncode == 3
    assert "1 downloaded" in result.stdout
    assert "error: morning:" in result.stderr
    assert not list((root / "videos" / "morning").glob("*.mp4"))
    result = run_here("analyze", *common, "--jobs", "1")
    assert result.returncode == 3
    assert "error: morning is not downloaded" in result.stderr
    assert (root / "analysis" / "evening" / "receipt.json").exists()


def test_a_flipped_byte_in_a_shard_is_found_and_named(workspace):
    root = workspace / "data"
    tar = root / "shards" / "default" / "evening-00000.tar"
    data = bytearray(tar.read_bytes())
    data[5000] ^= 1
    tar.write_bytes(data)
    result = run_here("verify", "--root", root)
    assert result.returncode == 3
    assert "evening-00000.tar" in result.stderr
    assert "morning-00000.tar" not in result.stderr


def test_other_parameters_for_a_shard_set_that_exists_are_refused(workspace):
    root = workspace / "data"
    common = ("--manifest", workspace / "manifest.toml", "--root", root)
    result = run_here("shard", *common, "--fps", "10")
    assert result.returncode in (1, 2)
    assert "--shards" in result.stderr
    assert "2 shards" in ok("verify", "--root", root)


def test_a_detector_that_is_missing_leaves_objects_unmeasured_and_says_so(workspace):
    root = workspace / "fresh"
    common = ("--manifest", workspace / "manifest.toml", "--root", root)
    ok("download", *common, "--from-dir", workspace / "data" / "rendered")
    result = run_here("analyze", *common, "--detector", "onnx:absent.onnx", "--jobs", "1")
    assert result.returncode == 3
    assert "absent.onnx" in result.stderr
    assert "Objects" not in ok("report", *common)  # no empty column for own videos
    summary = json.loads((root / "analysis" / "evening" / "summary.json").read_text())
    assert summary["objects"] is None
    assert summary["cuts"]["adaptive"] == 0


def test_a_full_disk_is_one_line_and_the_same_command_goes_on_with_space(workspace):
    with small_disk(workspace / "small", "size=150k") as small:
        root = small / "data"
        common = ("--manifest", workspace / "manifest.toml", "--root", root)
        download = ("download", *common, "--from-dir", workspace / "data" / "rendered")
        shard = ("shard", *common, "--fps", "10", "--jobs", "1")
        for command in (download, shard):  # too small for the videos, then for the shards
            result = run_here(*command)
            assert result.returncode in (1, 3), result.stderr
            assert " free" in result.stderr or "is not downloaded" in result.stderr
            assert "Traceback" not in result.stderr
        assert "free some space" in run_here(*download).stderr
        for video in root.glob("videos/*/*.mp4"):
            assert json.loads((video.parent / "receipt.json").read_text())["status"] == "done"
        for tar in root.glob("shards/*/*.tar"):
            assert (tar.parent / "receipts" / f"{tar.stem}.json").exists()
        resize(small, "40m")
        ok(*download)
        ok(*shard)
        ok("verify", "--root", root)
