"""Files of a shard set that somebody tampered with, or that rotted: one line each, and bounded."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.sharded_videos import files_of, publish_video
from tests.support.video_clips import write_clip
from wtours.errors import ShardError
from wtours.sharding.build import build_shards, finalize_shards
from wtours.shards import ClipDataset, FetchPolicy, ShardIndex, stream_clips
from wtours.shards.params import ShardParams, parse_rate
from wtours.shards.verify import verify_shards
from wtours.storage.hashing import canonical_json, sha256_file
from wtours.workspace.layout import Layout

PARAMS = ShardParams(frames_per_second="10", shard_seconds=1, short_side=48)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    root: Path = tmp_path_factory.mktemp("built") / "root"
    layout = Layout(root)
    clip = write_clip(root.parent / "walk.mp4", source="mandelbrot=size=96x64:rate=10", t=3)
    for video_id in ("other", "walk"):
        publish_video(layout, video_id, clip)
    build_shards(layout, ["other", "walk"], params=PARAMS)
    return root


@pytest.fixture
def layout(built, tmp_path) -> Layout:
    """A copy that a test may damage."""
    return Layout(Path(shutil.copytree(built, tmp_path / "root")))


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value in a JSON document."""
    if not isinstance(value, dict | list):
        return [path]
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return [path, *(leaf for key, inner in items for leaf in leaves(inner, (*path, key)))]


def replaced(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    document = json.loads(json.dumps(document))
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return document


def refusal(call: Callable[[], object]) -> str | None:
    """Return the one line that a call is refused with, or None; other errors go through."""
    message = None
    try:
        call()
    except ShardError as error:
        message = str(error)
    assert message is None or "\n" not in message
    return message


HOSTILE: list[Any] = [
    None, True, -1, 0, 2**31, 2**63, 10**30, 1.5, float("1e300"), "", "x" * 100, "1e999999999",
    "1/0", "-3", "../../etc/passwd", "/etc/passwd", "walk-00000\n", [], {}, [[]] * 3,
]  # fmt: skip


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_a_changed_dataset_json_is_one_line_and_verify_sees_what_readers_refuse(built, data):
    directory = Layout(built).shards_dir("default")
    path = directory / "dataset.json"
    whole = path.read_bytes()
    document = json.loads(whole)
    leaf = data.draw(st.sampled_from([leaf for leaf in leaves(document) if leaf]))
    value = data.draw(st.sampled_from(HOSTILE))
    path.write_text(json.dumps(replaced(document, leaf, value)))
    try:
        refused = refusal(lambda: ClipDataset(ShardIndex.open(directory), clip_length=2))
        unverifiable = refusal(lambda: verify_shards(directory))
        assert not refused or unverifiable or not verify_shards(directory).ok
        policy = FetchPolicy(attempts=1)
        refusal(lambda: list(stream_clips(str(directory), clip_length=2, policy=policy)))
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("order", [(1, 0, 2), (0, 0, 2)], ids=["swapped", "twice"])
def test_shards_in_another_order_are_refused_although_all_hashes_agree(layout, order):
    directory = layout.shards_dir("default")
    document = json.loads((directory / "dataset.json").read_text())
    others = [s for s in document["shards"] if s["video_id"] == "other"]
    walk = [s for s in document["shards"] if s["video_id"] == "walk"]
    table = pq.read_table(directory / "index.parquet")
    names = [s["shard"] for s in others] + [walk[number]["shard"] for number in order]
    rows = [table.filter(pc.equal(table["shard"], name)) for name in names]
    pq.write_table(pa.concat_tables(rows), directory / "index.parquet")
    document["shards"] = others + [walk[number] for number in order]
    document["index"]["sha256"] = sha256_file(directory / "index.parquet")
    document["index"]["bytes"] = (directory / "index.parquet").stat().st_size
    (directory / "dataset.json").write_text(json.dumps(document))
    with pytest.raises(ShardError, match="has shards twice or in another order than time's"):
        ShardIndex.open(directory)
    assert not verify_shards(directory).ok


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 50_000, "\x00", '{"format": 2}', "NaN"])
def test_a_dataset_json_that_is_none_is_refused_in_one_line(layout, text):
    directory = layout.shards_dir("default")
    (directory / "dataset.json").write_text(text)
    for refused in (ShardIndex.open, verify_shards):
        with pytest.raises(ShardError, match=r"not a dataset\.json of format 1") as caught:
            refused(directory)
        assert "\n" not in str(caught.value)


def test_a_folder_in_the_place_of_dataset_json_is_one_line(layout):
    path = layout.shards_dir("default") / "dataset.json"
    path.unlink()
    path.mkdir()
    with pytest.raises(ShardError, match="cannot be read"):
        ShardIndex.open(path.parent)


def claim_rows(index: Path, num_rows: int) -> None:
    """Make the footer of a Parquet file claim more rows, in the file and in its row groups."""
    data = index.read_bytes()
    size = int.from_bytes(data[-8:-4], "little")
    body, footer = data[: -8 - size], data[-8 - size : -8]
    old = b"\x16" + varint(2 * pq.read_metadata(index).num_rows)  # field 3, i64, zigzag
    assert footer.count(old) >= 1
    footer = footer.replace(old, b"\x16" + varint(2 * num_rows))
    index.write_bytes(body + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    assert pq.read_metadata(index).num_rows == num_rows


def varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


@pytest.mark.parametrize("vouched", ["sha256", "rows too", "frames too"])
def test_an_index_that_claims_billions_of_rows_is_refused_before_anything_is_allocated(
    layout, vouched
):
    directory = layout.shards_dir("default")
    index, claimed = directory / "index.parquet", 5 * 10**10
    video = pq.read_table(index).filter([True] * 30 + [False] * 30)  # rows of one number only
    pq.write_table(video, index)
    claim_rows(index, claimed)
    dataset = json.loads((directory / "dataset.json").read_text())
    dataset["index"] |= {"sha256": sha256_file(index), "bytes": index.stat().st_size}
    if vouched != "sha256":
        dataset["index"]["rows"] = dataset["frames"] = claimed
    if vouched == "frames too":
        for shard in dataset["shards"]:
            shard["frames"] = claimed // len(dataset["shards"])
        for record in dataset["videos"]:
            record["frames"] = claimed // 2
        dataset["index"]["rows"] = dataset["frames"] = 6 * (claimed // 6)
    (directory / "dataset.json").write_bytes(canonical_json(dataset))
    with pytest.raises(ShardError):
        ShardIndex.open(directory)
    assert not verify_shards(directory).ok


@pytest.mark.parametrize("name", ["index.parquet", "receipts/walk-00001.parquet"])
@pytest.mark.parametrize("text", [b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1", b"x" * 4000])
def test_a_parquet_file_that_is_none_is_named_in_one_line(layout, name, text):
    directory = layout.shards_dir("default")
    (directory / name).write_bytes(text)
    if name == "index.parquet":
        assert verify_shards(directory).problems[0].file == name
        with pytest.raises(ShardError):
            ShardIndex.open(directory)
    build_shards(layout, ["walk"], params=PARAMS)  # other sizes than the receipts': made again
    assert verify_shards(directory).ok


def test_rotten_rows_of_the_right_size_are_named_with_the_remedy(layout):
    rows = layout.shards_dir("default") / "receipts" / "walk-00001.parquet"
    before = files_of(layout.shards_dir("default"))
    rows.write_bytes(bytes(rows.stat().st_size))
    (reason,) = build_shards(layout, ["walk"], params=PARAMS).failed.values()
    assert re.search(r"walk-00001\.parquet is damaged .* remove it", reason)
    assert "\n" not in reason
    rows.unlink()
    build_shards(layout, ["walk"], params=PARAMS)
    assert files_of(layout.shards_dir("default")) == before


@pytest.mark.parametrize(
    ("fact", "value"),
    [("frames", -1), ("frames", "x"), ("corrupt_frames", 10**30), ("frames", None)],
)
def test_a_tampered_receipt_of_a_segment_is_as_if_it_were_not_there(layout, fact, value):
    directory = layout.shards_dir("default")
    before = files_of(directory)
    path = directory / "receipts" / "walk-00001.json"
    receipt = json.loads(path.read_text())
    receipt["facts"][fact] = value
    path.write_text(json.dumps(receipt))
    assert build_shards(layout, ["walk"], params=PARAMS).num_segments_written == 1
    assert files_of(directory) == before


def test_a_receipt_that_names_a_file_elsewhere_is_not_followed(layout, tmp_path):
    directory = layout.shards_dir("default")
    before = files_of(directory)
    path = directory / "receipts" / "walk-00001.json"
    receipt = json.loads(path.read_text())
    for file in receipt["files"]:
        target = tmp_path / Path(file["path"]).name
        target.write_bytes((directory / "receipts" / file["path"]).read_bytes())
        file["path"] = str(target)
    path.write_text(json.dumps(receipt))
    assert build_shards(layout, ["walk"], params=PARAMS).num_segments_written == 1
    assert files_of(directory) == before


@pytest.mark.parametrize("segments", [10**15, -1, "3"])
def test_a_tampered_plan_is_written_again(layout, segments):
    directory = layout.shards_dir("default")
    before = files_of(directory)
    path = directory / "receipts" / "walk.json"
    receipt = json.loads(path.read_text())
    receipt["facts"]["segments"] = segments
    path.write_text(json.dumps(receipt))
    build_shards(layout, ["walk"], params=PARAMS)
    assert files_of(directory) == before


def test_a_video_that_a_rerun_would_drop_is_named(layout):
    directory = layout.shards_dir("default")
    (directory / "receipts" / "other.json").write_text("{")
    report = build_shards(layout, ["walk"], params=PARAMS)
    assert report.dataset is not None
    assert [video.video_id for video in report.dataset.videos] == ["walk"]
    assert list(report.failed) == ["other"]
    assert "some of its shards or receipts are gone" in report.failed["other"]
    assert build_shards(layout, ["other"], params=PARAMS).failed == {}
    assert finalize_shards(layout, "default").failed == {}


@pytest.mark.parametrize("field", ["last_pts_us", "duration_us", "frame_rate", "width"])
@pytest.mark.parametrize("value", [None, "x", -(10**30)])
def test_a_tampered_receipt_of_a_video_is_one_line(layout, field, value):
    receipt = json.loads(layout.video_receipt("walk").read_text())
    receipt["facts"][field] = value
    layout.video_receipt("walk").write_text(json.dumps(receipt))
    report = build_shards(layout, ["walk"], name="again", params=PARAMS)
    assert "run `wtours download --video walk`" in report.failed["walk"]


def test_a_video_of_too_many_segments_is_refused(layout):
    receipt = json.loads(layout.video_receipt("walk").read_text())
    receipt["facts"] |= {"last_pts_us": 2 * 10**12, "duration_us": 2 * 10**12}
    layout.video_receipt("walk").write_text(json.dumps(receipt))
    report = build_shards(layout, ["walk"], name="again", params=PARAMS)
    assert "2000001 segments, and 1000000 are allowed" in report.failed["walk"]


@pytest.mark.parametrize("text", ["1e999999999", "1/0", "", "-1", "1/", "nan", "1" * 11, "0"])
def test_a_rate_is_bounded(text):
    assert parse_rate(text) == 0


def test_an_unreadable_shard_is_named_and_the_others_are_checked(layout, monkeypatch):
    """Read errors of a disk: a shard that is a link to a file whose reading fails with EIO."""
    directory = layout.shards_dir("default")
    tar = directory / "walk-00001.tar"
    real_open = Path.open

    def failing(path, *args, **kwargs):
        if path == tar:
            raise OSError(5, "Input/output error", str(path))
        return real_open(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", failing)
    (directory / "walk-00002.tar").unlink()
    problems = verify_shards(directory).problems
    assert [(p.file, p.message.split(";")[0]) for p in problems] == [
        ("walk-00001.tar", "cannot be read (Input/output error)"),
        ("walk-00002.tar", "is missing"),
    ]


def test_rows_are_of_the_index_whose_sha256_was_compared(layout, monkeypatch):
    directory = layout.shards_dir("default")
    expected = ShardIndex.open(directory).pts_us.tolist()
    path, table = directory / "index.parquet", pq.read_table(directory / "index.parquet")
    later = pc.add(table["pts_us"], 1)
    other = table.set_column(table.schema.get_field_index("pts_us"), "pts_us", later)
    real = hashlib.file_digest

    def replaced_after(file, name):
        found = real(file, name)
        pq.write_table(other.cast(table.schema), path.with_name("other"))
        path.with_name("other").replace(path)
        return found

    monkeypatch.setattr(hashlib, "file_digest", replaced_after)
    assert ShardIndex.open(directory).pts_us.tolist() == expected
