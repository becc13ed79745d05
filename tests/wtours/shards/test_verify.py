import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.sharded_videos import publish_video
from tests.support.video_clips import write_clip
from wtours.errors import ShardError
from wtours.sharding.build import build_shards
from wtours.shards.params import ShardParams
from wtours.shards.verify import verify_shards
from wtours.storage.hashing import canonical_json, sha256_file
from wtours.workspace.layout import Layout

SHARD = "walk-00001.tar"


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    layout = Layout(folder / "root")
    source = "mandelbrot=size=96x64:rate=10"
    publish_video(layout, "walk", write_clip(folder / "walk.mp4", source=source, t=3))
    params = ShardParams(frames_per_second="10", shard_seconds=1, short_side=48)
    return build_shards(layout, ["walk"], params=params).directory


@pytest.fixture
def directory(built, tmp_path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(built, tmp_path / "set"))


def members(path: Path) -> list[tarfile.TarInfo]:
    with tarfile.open(path) as tar:
        return tar.getmembers()


def cut_at(position: Callable[[Path], int]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        data = path.read_bytes()
        path.write_bytes(data[: position(path)])

    return damage


def set_bytes(position: Callable[[Path], int], value: bytes) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        data, start = path.read_bytes(), position(path)
        assert data[start : start + len(value)] != value
        path.write_bytes(data[:start] + value + data[start + len(value) :])

    return damage


def flip(position: Callable[[Path], int]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[position(path)] ^= 0x01
        path.write_bytes(data)

    return damage


def end_blocks(path: Path) -> int:
    last = members(path)[-1]
    return last.offset_data + -(-last.size // 512) * 512


# Members alternate .jpg, .json; numbers 6 and 7 are the fourth sample.
DAMAGES = {
    "cut at a member boundary": cut_at(lambda path: members(path)[7].offset),
    "cut at a sample boundary": cut_at(lambda path: members(path)[6].offset),
    "cut in a header": cut_at(lambda path: members(path)[6].offset + 100),
    "cut in a payload": cut_at(lambda path: members(path)[6].offset_data + 100),
    "flipped header byte": flip(lambda path: members(path)[6].offset + 3),
    "zeroed page": set_bytes(lambda path: 4096, bytes(4096)),
    "flipped payload byte": flip(lambda path: members(path)[6].offset_data + 100),
    "missing end block": cut_at(end_blocks),
}


def test_a_whole_set_has_no_problem(built):
    for deep in (True, False):
        report = verify_shards(built, deep=deep)
        assert report.ok
        assert (report.num_shards, report.num_frames, report.deep) == (3, 30, deep)
        assert report.num_bytes == sum(path.stat().st_size for path in built.glob("*.tar"))


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_every_damage_to_a_shard_is_found_and_only_there(directory, damage):
    damage(directory / SHARD)
    report = verify_shards(directory)
    assert {problem.file for problem in report.problems} == {SHARD}
    assert not report.ok


@pytest.mark.parametrize(
    "name", [name for name in DAMAGES if "flipped" not in name and "page" not in name]
)
def test_sizes_alone_find_every_cut(directory, name):
    DAMAGES[name](directory / SHARD)
    (problem,) = verify_shards(directory, deep=False).problems
    assert problem.file == SHARD
    assert "bytes instead of" in problem.message


def vouch_for(directory: Path, name: str) -> None:
    """Make dataset.json agree with a damaged shard, so that only the index speaks against it."""
    dataset = json.loads((directory / "dataset.json").read_text())
    for shard in dataset["shards"]:
        if f"{shard['shard']}.tar" == name:
            shard["bytes"] = (directory / name).stat().st_size
            shard["sha256"] = sha256_file(directory / name)
    index = directory / "index.parquet"
    dataset["index"]["sha256"] = sha256_file(index)
    (directory / "dataset.json").write_bytes(canonical_json(dataset))


FOUND_BY_MEMBERS = {
    "cut at a member boundary": "it ends before walk-00000013.json",
    "cut at a sample boundary": "it ends before walk-00000013.jpg",
    "cut in a header": "it ends before walk-00000013.jpg",
    "flipped header byte": "it ends before walk-00000013.jpg",
    "missing end block": "two zero blocks",
}


@pytest.mark.parametrize("name", FOUND_BY_MEMBERS)
def test_the_index_finds_damage_that_dataset_json_vouches_for(directory, name):
    DAMAGES[name](directory / SHARD)
    vouch_for(directory, SHARD)
    (problem,) = verify_shards(directory).problems
    assert problem.file == SHARD
    assert FOUND_BY_MEMBERS[name] in problem.message


def test_a_missing_and_a_foreign_shard_are_named(directory):
    (directory / SHARD).rename(directory / "other-00000.tar")
    (directory / ".tmp-1-walk-00009.tar").write_bytes(b"left by a killed process")
    for deep in (True, False):
        problems = verify_shards(directory, deep=deep).problems
        assert [(p.file, p.message.split(";")[0]) for p in problems] == [
            ("other-00000.tar", "is not in dataset.json"),
            (SHARD, "is missing"),
        ]


def test_two_shards_that_changed_places_are_found(directory):
    first, second = directory / "walk-00000.tar", directory / SHARD
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)
    assert {p.file for p in verify_shards(directory).problems} == {first.name, second.name}


def change_row(column: str, row: int, value: object) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        rows = table.to_pylist()
        rows[row][column] = value
        return pa.Table.from_pylist(rows, schema=table.schema)

    return change


@pytest.mark.parametrize(
    ("change", "file", "message"),
    [
        (change_row("pts_us", 12, 1_200_001), SHARD, "walk-00000012.json is of another frame"),
        (change_row("frame_index", 12, 99), SHARD, "is in the place of walk-00000099.jpg"),
        (change_row("size", 12, 77), SHARD, "walk-00000012.jpg is"),
        (change_row("shard", 12, "walk-00002"), "index.parquet", "has other rows where those of"),
        (lambda table: table.slice(1), "index.parquet", "has 29 rows for 30 frames"),
        (lambda table: table.drop_columns("pts_us"), "index.parquet", "cannot be read"),
    ],
)
def test_an_index_that_disagrees_is_found_even_when_dataset_json_vouches_for_it(
    directory, change, file, message
):
    index = directory / "index.parquet"
    pq.write_table(change(pq.read_table(index)), index)
    first = verify_shards(directory).problems[0]
    assert (first.file, first.message) == (
        "index.parquet",
        "is not the index that dataset.json describes; run `wtours shard` again",
    )
    vouch_for(directory, SHARD)
    (problem,) = verify_shards(directory).problems
    assert problem.file == file
    assert message in problem.message


def test_a_missing_index_is_found_and_the_shards_are_still_looked_at(directory):
    (directory / "index.parquet").unlink()
    DAMAGES["flipped payload byte"](directory / SHARD)
    assert [p.file for p in verify_shards(directory).problems] == ["index.parquet", SHARD]


def test_counts_that_disagree_inside_dataset_json_are_found(directory):
    dataset = json.loads((directory / "dataset.json").read_text())
    dataset["videos"][0]["frames"] = 31
    (directory / "dataset.json").write_bytes(canonical_json(dataset))
    (problem,) = verify_shards(directory, deep=False).problems
    assert problem.file == "dataset.json"
    assert "counts 30 frames in shards, 31 in videos" in problem.message


def test_without_dataset_json_there_is_nothing_to_verify(tmp_path):
    with pytest.raises(ShardError, match="not a finished shard set"):
        verify_shards(tmp_path)
