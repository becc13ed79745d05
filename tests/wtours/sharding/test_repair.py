"""`verify --repair`: the damaged shards are made again, the others are not touched."""

import json
import shutil
from pathlib import Path

import pytest

from tests.support.sharded_videos import destroy_packets, files_of, publish_video
from tests.support.video_clips import write_clip
from tests.wtours.shards.test_verify import DAMAGES, SHARD, vouch_for
from wtours.errors import ShardError
from wtours.sharding.build import build_shards, finalize_shards
from wtours.sharding.repair import repair_shards
from wtours.shards.params import ShardParams
from wtours.shards.verify import verify_shards
from wtours.workspace.layout import Layout

PARAMS = ShardParams(frames_per_second="10", shard_seconds=1, short_side=48)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    root: Path = tmp_path_factory.mktemp("built") / "root"
    layout = Layout(root)
    clip = write_clip(root.parent / "walk.mp4", source="mandelbrot=size=96x64:rate=10", t=3)
    publish_video(layout, "walk", clip)
    build_shards(layout, ["walk"], params=PARAMS)
    native = ShardParams(frames_per_second="native", shard_seconds=1, short_side=48)
    build_shards(layout, ["walk"], name="native", params=native)
    return root


@pytest.fixture
def layout(built, tmp_path) -> Layout:
    """A copy that a test may damage."""
    return Layout(Path(shutil.copytree(built, tmp_path / "root")))


def identities(directory: Path) -> dict[str, tuple[int, int]]:
    stats = {path.name: path.stat() for path in directory.glob("*.tar")}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_each_damage_is_repaired_to_the_same_bytes_and_nothing_else_is_touched(layout, damage):
    directory = layout.shards_dir("default")
    before, whole = files_of(directory), identities(directory)
    damage(directory / SHARD)
    report = repair_shards(layout, "default")
    assert {problem.file for problem in report.before.problems} == {SHARD}
    assert (report.repaired, report.changed, report.problems) == ((SHARD,), (), ())
    assert files_of(directory) == before
    after = identities(directory)
    assert [name for name in whole if after[name] != whole[name]] == [SHARD]


@pytest.mark.parametrize("name", ["default", "native"])
def test_missing_shards_come_back(layout, name):
    directory = layout.shards_dir(name)
    before = files_of(directory)
    (directory / SHARD).unlink()
    (directory / "walk-00002.tar").unlink()
    report = repair_shards(layout, name, deep=False)
    assert report.repaired == (SHARD, "walk-00002.tar")
    assert files_of(directory) == before


def test_a_whole_set_is_left_as_it_is(layout):
    directory = layout.shards_dir("default")
    times = {path: path.stat().st_mtime_ns for path in directory.rglob("*")}
    report = repair_shards(layout, "default")
    assert report.before.ok
    assert not report.repaired
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_a_damaged_index_is_written_again_and_no_shard(layout):
    directory = layout.shards_dir("default")
    before, whole = files_of(directory), identities(directory)
    index = directory / "index.parquet"
    index.write_bytes(index.read_bytes()[:-100])
    report = repair_shards(layout, "default")
    assert (report.repaired, report.problems) == ((), ())
    assert files_of(directory) == before
    assert identities(directory) == whole


def test_damage_that_dataset_json_vouches_for_is_repaired(layout):
    directory = layout.shards_dir("default")
    before = files_of(directory)
    DAMAGES["cut at a sample boundary"](directory / SHARD)
    vouch_for(directory, SHARD)
    report = repair_shards(layout, "default")
    assert report.changed == (SHARD,)  # other than dataset.json says
    assert report.problems == ()
    assert files_of(directory) == before


def test_damaged_rows_of_a_segment_are_made_again_with_it(layout):
    directory = layout.shards_dir("default")
    before = files_of(directory)
    DAMAGES["flipped payload byte"](directory / SHARD)
    rows = directory / "receipts" / "walk-00002.parquet"
    rows.write_bytes(bytes(rows.stat().st_size))
    report = repair_shards(layout, "default")
    assert report.repaired == (SHARD, "walk-00002.tar")
    assert files_of(directory) == before


def test_a_source_that_the_file_system_refuses_does_not_stop_the_other_repairs(layout, tmp_path):
    publish_video(layout, "other", layout.video_dir("walk") / "walk.mp4")
    build_shards(layout, ["walk", "other"], params=PARAMS)
    directory = layout.shards_dir("default")
    for name in ("other-00001.tar", SHARD):
        DAMAGES["flipped payload byte"](directory / name)
    shutil.rmtree(layout.video_dir("other"))
    layout.video_dir("other").write_text("a file where a folder should be")
    report = repair_shards(layout, "default")
    assert report.repaired == (SHARD,)
    assert any("file where a folder should be" in problem.message for problem in report.problems)


def test_a_video_that_lost_too_much_does_not_come_in_by_a_repair(layout, tmp_path):
    source = "mandelbrot=size=96x64:rate=10"
    clip = write_clip(tmp_path / "clip.mp4", source=source, t=3, g=1, bf=0)
    destroy_packets(clip, tmp_path / "lossy.mp4", list(range(8, 18)))
    publish_video(layout, "lossy", tmp_path / "lossy.mp4")
    report = build_shards(layout, ["walk", "lossy"], params=PARAMS)
    assert list(report.failed) == ["lossy"]
    directory = layout.shards_dir("default")
    before = (directory / "dataset.json").read_bytes()
    DAMAGES["flipped payload byte"](directory / SHARD)
    assert SHARD in repair_shards(layout, "default").repaired
    assert (directory / "dataset.json").read_bytes() == before


def test_a_foreign_shard_is_named_and_left(layout):
    foreign = layout.shards_dir("default") / "other-00000.tar"
    foreign.write_bytes(b"somebody's")
    report = repair_shards(layout, "default")
    assert [problem.file for problem in report.problems] == ["other-00000.tar"]
    assert foreign.read_bytes() == b"somebody's"


def test_without_the_source_one_line_says_what_to_do_and_nothing_changes(layout):
    directory = layout.shards_dir("default")
    DAMAGES["flipped payload byte"](directory / SHARD)
    damaged = files_of(directory)
    shutil.rmtree(layout.video_dir("walk"))
    report = repair_shards(layout, "default")
    (problem,) = report.problems
    assert problem.file == SHARD
    assert problem.message == (
        "cannot be rebuilt: walk is not downloaded: run `wtours download --video walk`"
    )
    assert files_of(directory) == damaged
    (directory / SHARD).unlink()
    assert [p.file for p in repair_shards(layout, "default").problems] == [SHARD, SHARD]
    assert (directory / "dataset.json").read_bytes() == damaged["dataset.json"]


def test_a_source_that_is_damaged_or_another_is_not_used(layout, tmp_path):
    directory = layout.shards_dir("default")
    (directory / SHARD).unlink()
    (video,) = layout.video_dir("walk").glob("walk.*")
    data = bytearray(video.read_bytes())
    data[len(data) // 2] ^= 1
    video.write_bytes(data)
    (_, problem) = repair_shards(layout, "default").problems
    assert "is not the file that was downloaded: its sha256 is " in problem.message
    assert not (directory / SHARD).exists()


def test_a_set_without_receipts_does_not_lose_its_videos(layout):
    directory = layout.shards_dir("default")
    before = files_of(directory)
    shutil.rmtree(directory / "receipts")
    (directory / SHARD).unlink()
    repair_shards(layout, "default")
    assert json.loads((directory / "dataset.json").read_text())["frames"] == 30
    assert verify_shards(directory).ok
    build_shards(layout, ["walk"], params=PARAMS)
    assert files_of(directory) == before


def test_without_dataset_json_there_is_nothing_to_repair(layout):
    (layout.shards_dir("default") / "dataset.json").unlink()
    with pytest.raises(ShardError, match="run `wtours shard`"):
        repair_shards(layout, "default")


def test_the_progress_of_verify_is_one_bar(layout):
    told = []
    directory = layout.shards_dir("default")
    verify_shards(directory, on_progress=lambda *step: told.append(step))
    total = sum(path.stat().st_size for path in directory.glob("*.tar"))
    assert {item for item, _, _ in told} == {"default"}
    assert told[-1] == ("default", total, total)


def test_a_set_of_a_version_that_made_other_pixels_is_read_but_not_mixed_with_ours(layout):
    directory = layout.shards_dir("default")
    for path in (directory / "receipts").glob("*.json"):
        receipt = json.loads(path.read_text())
        del receipt["params"]["pixels"]  # as they were before planes went into the JPEGs
        path.write_text(json.dumps(receipt))
    assert verify_shards(directory).ok
    (directory / SHARD).unlink()
    before = files_of(directory)
    with pytest.raises(ShardError, match=r"made other pixels .* choose another name by --shards"):
        build_shards(layout, ["walk"], params=PARAMS)
    with pytest.raises(ShardError, match="made other pixels"):
        repair_shards(layout, "default")
    with pytest.raises(ShardError, match="made other pixels"):
        finalize_shards(layout, "default")
    assert files_of(directory) == before
