"""`shard --where`: seconds by their quality, the same after damage and from a lock; never code."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.bytes_read import bytes_read
from tests.support.object_stores import FaultyFileSystem
from tests.support.sharded_videos import files_of, publish_video
from tests.support.video_clips import write_clip
from wtours.analyze.pipeline import analyze_videos
from wtours.errors import ShardError, UsageError
from wtours.execution.node_copy import NodeCopy
from wtours.lockfile.lock import lock_shards, read_lock
from wtours.lockfile.sync import sync_shards
from wtours.sharding.build import build_shards
from wtours.sharding.plan import plan_videos
from wtours.sharding.repair import repair_shards
from wtours.sharding.selection.expression import parse
from wtours.sharding.selection.seconds import taken_seconds, with_where
from wtours.shards import ClipDataset, ShardIndex
from wtours.shards.params import ShardParams, WhereParams
from wtours.shards.verify import verify_shards
from wtours.storage.hashing import sha256_file
from wtours.storage.working_copy import WorkingCopy
from wtours.workspace.layout import Layout

PARAMS = ShardParams(frames_per_second="5", short_side=32, shard_seconds=2)
WHERE = "not black and luma > 20"


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    """Return a workspace with an analyzed video, black from second 2 to 4; and its folder."""
    folder = tmp_path_factory.mktemp("walk")
    source = (
        "testsrc2=size=64x48:rate=10:duration=6,"
        "drawbox=color=black:t=fill:enable='between(t,1.95,3.95)'"
    )
    write_clip(folder / "walk.mp4", source=source)
    layout = Layout(folder / "root")
    publish_video(layout, "walk", folder / "walk.mp4")
    analyze_videos(layout, ["walk"], frame_quality=True)
    return layout, folder


def build(layout, name, where):
    params = with_where(layout, name, PARAMS, ["walk"], where)
    report = build_shards(layout, ["walk"], name=name, params=params)
    assert report.failed == {}
    return layout.shards_dir(name)


@pytest.mark.medium
def test_only_seconds_that_hold_are_taken_and_nothing_else_changes(walk):
    layout, _ = walk
    plain, chosen = build(layout, "plain", None), build(layout, "chosen", WHERE)
    index = ShardIndex.open(chosen)
    seconds = index.pts_us // 1_000_000
    assert sorted(set(seconds.tolist())) == [0, 1, 4, 5]
    whole = ShardIndex.open(plain)
    kept = np.isin(whole.pts_us // 1_000_000, [0, 1, 4, 5])
    np.testing.assert_array_equal(index.frame_index, whole.frame_index[kept])
    rows = np.flatnonzero(kept).tolist()
    assert index.read_jpegs(range(len(index))) == whole.read_jpegs(rows)
    # No clip goes over the hole.
    clips = ClipDataset(index, clip_length=3, frame_interval_seconds=0.4)
    assert max(np.diff(clips[number].pts_us).max() for number in range(len(clips))) < 700_000
    recorded = json.loads((chosen / "dataset.json").read_text())["params"]["where"]
    assert recorded["expression"] == WHERE
    assert "where" not in json.loads((plain / "dataset.json").read_text())["params"]
    assert "where" not in PARAMS.recorded()
    assert "left out where not" in (chosen / "ATTRIBUTION.md").read_text()
    assert verify_shards(chosen).ok


@pytest.mark.medium
def test_it_is_repaired_and_made_again_without_the_analysis(walk, tmp_path):
    layout, folder = walk
    build(layout, "default", WHERE)
    root = tmp_path / "root"
    shutil.copytree(layout.root, root)
    layout = Layout(root)
    directory = layout.shards_dir("default")
    lock_shards(layout, directory, tmp_path / "default.lock")
    before = files_of(directory)
    shutil.rmtree(root / "analysis" / "walk" / "measurements")
    build(layout, "default", "  not(black)   and luma>20 ")  # the same condition
    (directory / "walk-00000.tar").unlink()
    assert repair_shards(layout, "default").problems == ()
    after = files_of(directory)
    tars = {name: data for name, data in before.items() if name.endswith(".tar")}
    assert {name: data for name, data in after.items() if name.endswith(".tar")} == tars
    with pytest.raises(
        ShardError, match="was begun with --where 'not black and luma > 20', not 'luma > 20';"
    ):
        with_where(layout, "default", PARAMS, ["walk"], "luma > 20")
    with pytest.raises(ShardError, match="quality of walk is not measured: run `wtours analyze"):
        with_where(layout, "other", PARAMS, ["walk"], "luma > 20")
    there, lock = Layout(tmp_path / "there"), read_lock(tmp_path / "default.lock")
    with pytest.raises(UsageError, match=r"give its quality\.parquet with --where-table"):
        sync_shards(there, lock, from_dir=folder)
    table = directory / "quality.parquet"
    report = sync_shards(there, lock, from_dir=folder, where_table=table)
    assert report.differences == {}
    assert report.set_sha256 == lock.set_sha256
    pq.write_table(pa.table({"x": [1]}), tmp_path / "other.parquet")
    with pytest.raises(UsageError, match=r"other\.parquet is "):
        sync_shards(there, lock, from_dir=folder, where_table=tmp_path / "other.parquet")


@pytest.mark.medium
def test_seconds_of_another_file_choose_nothing(walk, tmp_path):
    shutil.copytree(walk[0].root, tmp_path / "root")
    layout = Layout(tmp_path / "root")
    params = with_where(layout, "set", PARAMS, ["walk"], WHERE)
    plan_videos(layout, layout.shards_dir("set"), ["walk"], params)
    video = layout.video_dir("walk") / "walk.mp4"
    other = tmp_path / "walk.mp4"
    other.write_bytes(video.read_bytes() + b"0")
    publish_video(layout, "walk", other)  # downloaded again, as another file
    with pytest.raises(ShardError, match="walk is another file than the one whose seconds"):
        with_where(layout, "set", PARAMS, ["walk"], WHERE)
    # A set that was not begun has the seconds of the files of today.
    with pytest.raises(ShardError, match="quality of walk is not measured"):
        with_where(layout, "new", PARAMS, ["walk"], WHERE)


@pytest.mark.medium
def test_a_node_with_nothing_but_the_store_takes_the_same_seconds(walk, tmp_path, monkeypatch):
    FaultyFileSystem.reset()
    url = "faulty://bucket/root"
    monkeypatch.setenv("WTOURS_SCRATCH", str(tmp_path / "driver"))
    copy = WorkingCopy.checkout(url, ("shards/set",), lambda key: True)
    for name in ("videos", "analysis"):
        shutil.copytree(walk[0].root / name, copy.root / name)
    params = with_where(Layout(copy.root), "set", PARAMS, ["walk"], WHERE)
    monkeypatch.setenv("WTOURS_SCRATCH", str(tmp_path / "node"))
    node = NodeCopy(url)
    assert params.where is not None
    assert taken_seconds(node.root / "shards/set", params.where, "walk") == {0, 1, 4, 5}


def test_a_segment_does_not_read_the_seconds_of_other_videos(tmp_path):
    names, seconds = [f"walk{number:02d}" for number in range(50)], 2000
    luma = np.random.default_rng(0).random(len(names) * seconds, np.float32)
    columns = {
        "video_id": np.repeat(names, seconds),
        "second": np.tile(np.arange(seconds, dtype=np.int32), len(names)),
        **dict.fromkeys(("blur", "motion", "luma"), luma),
        **dict.fromkeys(("black", "frozen"), luma < 0),
    }
    path = tmp_path / "quality.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=seconds)
    where = WhereParams(expression="luma > 0.5", seconds_sha256=sha256_file(path))
    num_bytes = path.stat().st_size

    def taken(number):
        before = bytes_read()
        found = taken_seconds(tmp_path, where, names[number])
        of_video = luma[number * seconds :][:seconds]
        assert found == set(np.flatnonzero(of_video > 0.5).tolist())
        return bytes_read() - before

    assert taken(7) > num_bytes  # once a process: it is the table that the set was begun with
    assert taken(8) < num_bytes / 10
    assert taken(8) < 1000  # the next segment of the same video
    with path.open("ab") as file:
        file.write(b"changed")
    with pytest.raises(ShardError, match="is not the table that the set was begun with"):
        taken(8)


COLUMNS = {
    "blur": np.array([50.0, 200.0, np.nan]),
    "motion": np.array([1.0, np.nan, 3.0]),
    "luma": np.array([10.0, 100.0, 200.0]),
    "black": np.array([True, False, False]),
    "frozen": np.array([False, False, True]),
}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("blur > 100", [False, True, False]),
        ("not blur > 100", [True, False, True]),
        ("blur > 100 and not frozen", [False, True, False]),
        ("black or frozen", [True, False, True]),
        ("20 < luma <= 200 and (frozen or motion < 2)", [False, False, True]),
        ("-1 <= motion", [True, False, True]),
        ("10 >= luma", [True, False, False]),
    ],
)
def test_conditions_hold_where_they_should(text, holds):
    assert parse(text).holds(COLUMNS).tolist() == holds
    assert parse(parse(text).text).text == parse(text).text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "blur",
        "1",
        "blur > 'a'",
        "blur > True",
        "frozen > 1",
        "black == frozen",
        "blur == 100",
        "sharpness > 1",
        "__import__('os').system('true')",
        "blur.__class__ > 1",
        "blur[0] > 1",
        "blur > (lambda: 1)()",
        "[blur > 1 for blur in blur]",
        "blur > 9**9**9**9",
        "blur > 1e5 if black else frozen",
        "blur > 1; import os",
        "(blur := 1) > 0",
        "black and 1",
        "not blur",
        "blur > 1" + " and blur > 1" * 100,
        "(" * 250 + "black" + ")" * 250,
        "not " * 120 + "black and",
        f"blur > {'9' * 400}",
        "blur > 1j",
        "blur > \x00",
        "blur >\x1b[2J 1",
    ],
)
def test_anything_else_is_one_line_that_names_the_columns(text):
    with pytest.raises(UsageError, match="compare blur, motion, luma with numbers") as refused:
        parse(text)
    assert "\n" not in str(refused.value)
    assert "\x1b" not in str(refused.value)
    assert len(str(refused.value)) < 500
