"""A root on an object store, through the one place that publishes on it: `write_receipt`."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.object_stores import FaultyFileSystem, sha256s
from wtours.cli.sets.places import needs_receipts, needs_tables, place_text, workspace
from wtours.errors import ConflictError, StorageError, WtoursError
from wtours.storage import remote_calls, working_copy
from wtours.storage.atomic import read_json, write_bytes, write_json
from wtours.storage.hashing import sha256_bytes, sha256_file
from wtours.storage.object_store import ObjectStore
from wtours.storage.receipts import (
    Receipt,
    files_intact,
    files_present,
    read_receipt,
    record_file,
    write_receipt,
)
from wtours.storage.working_copy import WorkingCopy, working_copy_of
from wtours.workspace.layout import loose_files

URL = "faulty://bucket/root"
FOLDERS = ("videos", "analysis", "shards/set")


@pytest.fixture(autouse=True)
def faulty(monkeypatch):
    monkeypatch.setattr(remote_calls, "_FIRST_PAUSE_SECONDS", 0.001)
    FaultyFileSystem.reset()


@pytest.fixture
def store():
    return ObjectStore(URL)


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Returns the working copy of one machine or another."""

    def checkout(name="one"):
        monkeypatch.setenv("WTOURS_SCRATCH", str(tmp_path / name))
        return WorkingCopy.checkout(URL, FOLDERS, lambda key: not key.endswith((".tar", ".mp4")))

    return checkout


def segment(copy, tar=b"frames", rows=b"rows", **changes):
    """Publish a segment as `shard` does."""
    folder = copy.root / "shards" / "set"
    write_bytes(folder / "walk-00000.tar", tar)
    write_bytes(folder / "receipts" / "walk-00000.parquet", rows)
    record = record_file(folder / "walk-00000.tar", relative_to=folder)
    receipt = Receipt(
        stage="shard",
        key="walk-00000",
        files=(
            record.model_copy(update={"path": "../walk-00000.tar"}),
            record_file(
                folder / "receipts" / "walk-00000.parquet", relative_to=folder / "receipts"
            ),
        ),
        **changes,
    )
    path = folder / "receipts" / "walk-00000.json"
    write_receipt(path, receipt)
    return path


def read(path: Path) -> Receipt:
    receipt = read_receipt(path)
    assert receipt is not None
    return receipt


SEGMENT_KEYS = [
    "shards/set/receipts/walk-00000.json",
    "shards/set/receipts/walk-00000.parquet",
    "shards/set/walk-00000.tar",
]


def test_a_receipt_takes_its_files_to_the_store_and_comes_last(machine, store):
    copy = machine()
    FaultyFileSystem.names.clear()
    path = segment(copy)
    assert FaultyFileSystem.names[-1].endswith("walk-00000.json")
    assert [found.key for found in store.list()] == SEGMENT_KEYS
    assert store.get(SEGMENT_KEYS[2]) == b"frames"
    assert not (copy.root / "shards/set/walk-00000.tar").exists()  # the store has it
    receipt = read(path)
    assert files_present(receipt, path.parent)
    assert place_text(copy.root / "shards/set") == f"{URL}/shards/set"


def test_a_folder_on_a_disk_is_no_working_copy(tmp_path):
    write_receipt(tmp_path / "a" / "receipt.json", Receipt(stage="shard", key="x"))
    assert working_copy_of(tmp_path / "a" / "receipt.json") is None


def test_another_machine_goes_on_with_what_is_there(machine, store):
    segment(machine("one"))
    other = machine("two")
    path = other.root / SEGMENT_KEYS[0]
    receipt = read(path)
    assert files_present(receipt, path.parent)
    assert (other.root / SEGMENT_KEYS[1]).read_bytes() == b"rows"
    FaultyFileSystem.store["/bucket/root/" + SEGMENT_KEYS[2]].close()
    store.delete(SEGMENT_KEYS[2])
    path = machine("three").root / SEGMENT_KEYS[0]
    assert not files_present(receipt, path.parent)


@pytest.mark.parametrize("lost_at", range(3))
def test_an_answer_that_is_lost_loses_nothing(machine, store, lost_at):
    copy = machine()
    FaultyFileSystem.tell("put", *[None] * lost_at, "lost")
    segment(copy)
    assert [found.key for found in store.list()] == SEGMENT_KEYS
    assert store.get(SEGMENT_KEYS[2]) == b"frames"


@pytest.mark.parametrize("failing", range(3))
def test_a_commit_that_a_store_refuses_is_finished_by_the_next_run(machine, store, failing):
    copy = machine()
    FaultyFileSystem.tell("put", *[None] * failing, *["torn"] * 6)
    with pytest.raises(StorageError, match="given up after 6 attempts"):
        segment(copy)
    assert len(list(store.list())) == failing  # data first: no receipt
    machine()
    assert [found.key for found in store.list()] == SEGMENT_KEYS
    assert store.get(SEGMENT_KEYS[2]) == b"frames"


def test_of_two_machines_with_the_same_result_the_first_receipt_stays(machine, store, caplog):
    one, two = machine("one"), machine("two")
    segment(one, versions={"wtours": "1"})
    path = segment(two, versions={"wtours": "2"})
    assert read(path).versions == {"wtours": "1"}
    assert json.loads(store.get(SEGMENT_KEYS[0]))["versions"] == {"wtours": "1"}
    assert "walk-00000.json was published by another process; it stays" in caplog.text


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"tar": b"others"}, r"walk-00000\.tar is there with other bytes .* than ours"),
        ({"params": {"quality": 3}}, r"published by another process, with another result \(done"),
    ],
)
def test_two_results_are_a_conflict_and_the_first_stays(machine, store, other, message):
    one, two = machine("one"), machine("two")
    segment(one)
    before = sha256s(store)
    with pytest.raises(ConflictError, match=message):
        segment(two, **other)
    assert sha256s(store) == before


def video(copy, content=b"film", status="done", **changes):
    folder = copy.root / "videos" / "walk"
    write_bytes(folder / "walk.mp4", content)
    files = (record_file(folder / "walk.mp4", relative_to=folder),) if status == "done" else ()
    receipt = Receipt(stage="download", key="walk", status=status, files=files, **changes)
    write_receipt(folder / "receipt.json", receipt)
    return folder


def test_a_failure_gives_way_to_a_result_on_whichever_machine(machine, store):
    one, two = machine("one"), machine("two")
    video(one, status="failed_transient", error="no network")
    folder = video(two)
    assert json.loads(store.get("videos/walk/receipt.json"))["status"] == "done"
    video(one, status="failed_transient", error="no network yet")
    assert json.loads(store.get("videos/walk/receipt.json"))["status"] == "done"
    assert read(folder / "receipt.json").status == "done"


def test_what_this_machine_has_seen_may_be_replaced(machine, store):
    video(machine("one"), b"film")
    copy = machine("one")
    video(copy, b"another film")
    assert store.get("videos/walk/walk.mp4") == b"another film"
    late = machine("two")
    video(machine("one"), b"a third film")
    with pytest.raises(ConflictError, match=r"walk\.mp4 was changed by another process"):
        video(late, b"a fourth film")
    assert store.get("videos/walk/walk.mp4") == b"a third film"
    receipt = json.loads(store.get("videos/walk/receipt.json"))
    assert receipt["files"][0]["sha256"] == sha256_bytes(b"a third film")


def test_measurements_come_before_the_tables_that_are_made_of_them(machine, store):
    copy = machine()
    folder = copy.root / "analysis" / "walk"
    for name in ("measurements/frames/frames.parquet", "measurements/frames/receipt.json"):
        write_bytes(folder / name, name.encode())
    write_bytes(folder / "segments/00000/receipt.json", b"passing")
    write_bytes(folder / "frames.parquet", b"table")
    files = (record_file(folder / "frames.parquet", relative_to=folder),)
    write_receipt(folder / "receipt.json", Receipt(stage="analyze", key="walk", files=files))
    assert sorted(sha256s(store)) == [
        "analysis/walk/frames.parquet",
        "analysis/walk/measurements/frames/frames.parquet",
        "analysis/walk/measurements/frames/receipt.json",
        "analysis/walk/receipt.json",
    ]
    (folder / "measurements/frames/frames.parquet").unlink()
    write_bytes(folder / "frames.parquet", b"other")
    files = (record_file(folder / "frames.parquet", relative_to=folder),)
    write_receipt(folder / "receipt.json", Receipt(stage="analyze", key="walk", files=files))
    assert "analysis/walk/measurements/frames/frames.parquet" not in sha256s(store)
    assert store.get("analysis/walk/frames.parquet") == b"other"


def test_videos_are_copied_when_needed_verified_and_kept_within_the_bound(
    machine, store, monkeypatch
):
    copy = machine("one")
    contents = {name: name.encode() * 500 for name in ("a", "b", "c")}
    for name, content in contents.items():
        folder = copy.root / "videos" / name
        write_bytes(folder / f"{name}.mp4", content)
        files = (record_file(folder / f"{name}.mp4", relative_to=folder),)
        write_receipt(folder / "receipt.json", Receipt(stage="download", key=name, files=files))
    monkeypatch.setenv("WTOURS_SCRATCH_SIZE", "1200B")
    other = machine("two")
    paths = {name: other.root / "videos" / name / f"{name}.mp4" for name in contents}
    for name, content in contents.items():
        assert not paths[name].exists()
        other.fetch_video(paths[name], sha256_bytes(content))
        assert paths[name].read_bytes() == content
    assert sum(path.exists() for path in paths.values()) == 2
    other.keeps_videos = True
    for name in ("a", "b"):
        other.fetch_video(paths[name], sha256_bytes(contents[name]))
    with pytest.raises(StorageError, match=r"needed at once .* --scratch-size allows"):
        other.fetch_video(paths["c"], sha256_bytes(contents["c"]))
    assert paths["a"].exists()
    assert paths["b"].exists()
    store.delete("videos/c/c.mp4")
    store.create("videos/c/c.mp4", b"x" * 500)
    monkeypatch.setenv("WTOURS_SCRATCH_SIZE", "1G")
    with pytest.raises(StorageError, match=r"videos/c/c\.mp4 has the sha256"):
        other.fetch_video(paths["c"], sha256_bytes(contents["c"]))
    assert not paths["c"].exists()


def test_loose_files_are_pushed_the_last_one_last(machine, store):
    copy = machine()
    for name in ("dataset.json", "ATTRIBUTION.md", "index.parquet", ".tmp-1-x"):
        write_bytes(copy.root / "shards/set" / name, name.encode())
    keys = list(loose_files(copy.root, ("shards/set",), "dataset.json"))
    assert keys[-1] == "shards/set/dataset.json"
    copy.push(keys)
    assert len(list(store.list())) == 3
    late = machine("two")
    write_bytes(copy.root / "shards/set/dataset.json", b"new")
    copy.push(keys)
    write_bytes(late.root / "shards/set/dataset.json", b"other")
    with pytest.raises(ConflictError, match=r"dataset\.json was changed by another process"):
        late.push(keys)
    assert store.get("shards/set/dataset.json") == b"new"


def test_a_listing_that_lags_costs_the_work_again_and_nothing_else(machine, store, caplog):
    segment(machine("one"))
    before = sha256s(store)
    FaultyFileSystem.hidden |= {"walk-00000.json", "walk-00000.parquet", "walk-00000.tar"}
    late = machine("two")
    assert not (late.root / SEGMENT_KEYS[0]).exists()
    segment(late)
    FaultyFileSystem.hidden.clear()
    assert sha256s(store) == before
    assert "walk-00000.tar was there already, with the same bytes" in caplog.text


def test_a_set_that_is_made_of_another_video_takes_the_place_of_the_one_that_was_seen(
    machine, store
):
    segment(machine("one"), tar=b"of the first file", inputs={"video": "1"})
    copy = machine("two")
    segment(copy, tar=b"of the second file", inputs={"video": "2"})
    assert store.get(SEGMENT_KEYS[2]) == b"of the second file"
    assert json.loads(store.get(SEGMENT_KEYS[0]))["inputs"] == {"video": "2"}


def test_a_worker_of_a_stage_finds_the_working_copy_by_its_folder(machine, store, monkeypatch):
    segment(machine("one"), tar=b"first", inputs={"video": "1"})
    copy = machine("two")
    monkeypatch.setattr(working_copy, "_OPEN", {})  # as in a process that was just started
    segment(copy, tar=b"second", inputs={"video": "2"})  # what was seen is read when it is needed
    assert store.get(SEGMENT_KEYS[2]) == b"second"


def test_a_result_whose_files_are_gone_is_dropped_and_made_again(machine, store, caplog):
    copy = machine()
    FaultyFileSystem.tell("put", *["torn"] * 6)
    with pytest.raises(StorageError):
        segment(copy)
    (copy.root / SEGMENT_KEYS[2]).unlink()
    (copy.root / ".wtours-seen.jsonl").write_text('["shards/set", 1\n')  # damaged too
    copy = machine()
    assert "walk-00000.tar is missing; this machine's result is dropped" in caplog.text
    assert not (copy.root / SEGMENT_KEYS[0]).exists()
    segment(copy)
    assert [found.key for found in store.list()] == SEGMENT_KEYS


def room_for_one_of_two_videos(machine, monkeypatch):
    """Return a copy with room for one of two videos on the store, of 500 bytes, and their paths."""
    copy = machine("one")
    for name in ("a", "b"):
        path = copy.root / "videos" / name / f"{name}.mp4"
        write_bytes(path, name.encode() * 500)
        files = (record_file(path, relative_to=path.parent),)
        write_receipt(path.with_name("receipt.json"), Receipt(stage="x", key=name, files=files))
    monkeypatch.setenv("WTOURS_SCRATCH_SIZE", "600B")
    other = machine("two")
    a, b = (other.root / "videos" / name / f"{name}.mp4" for name in ("a", "b"))
    return other, a, b


def test_a_video_that_is_being_read_makes_no_room_for_another(machine, store, monkeypatch):
    other, a, b = room_for_one_of_two_videos(machine, monkeypatch)
    with other.at_hand(a, sha256_bytes(b"a" * 500)):
        with pytest.raises(StorageError, match="needed at once"), other.at_hand(b, ""):
            pass
        assert a.read_bytes() == b"a" * 500
    with other.at_hand(b, sha256_bytes(b"b" * 500)):
        assert not a.exists()


def make_analysis(copy, table=b"table 1", measured=b"measured 1"):
    """Write an analysis as `analyze` does, all but its receipt, which is returned."""
    folder = copy.root / "analysis" / "walk"
    own = folder / "measurements" / "objects"
    write_bytes(own / "detections.parquet", measured)
    files = (record_file(own / "detections.parquet", relative_to=own),)
    receipt = Receipt(stage="analyze-objects", key="walk", files=files)
    write_json(own / "receipt.json", receipt.model_dump(mode="json"))
    write_bytes(folder / "frames.parquet", table)
    files = (record_file(folder / "frames.parquet", relative_to=folder),)
    return folder / "receipt.json", Receipt(stage="analyze", key="walk", files=files)


def tables_of(copy):
    """Return the bytes of the tables here, having held them against their receipts."""
    folder = copy.root / "analysis" / "walk"
    for path in (folder / "receipt.json", folder / "measurements/objects/receipt.json"):
        assert files_intact(read(path), path.parent)
    names = ("frames.parquet", "measurements/objects/detections.parquet")
    return tuple((folder / name).read_bytes() for name in names)


@pytest.mark.parametrize("refused", range(4))
def test_a_result_in_place_of_another_is_taken_there_by_the_next_run(machine, store, refused):
    write_receipt(*make_analysis(machine()))
    copy = machine()
    FaultyFileSystem.tell("put", *[None] * refused, *["torn"] * 6)
    with pytest.raises(StorageError, match="given up after 6 attempts"):
        write_receipt(*make_analysis(copy, b"table 2", b"measured 2"))  # of the same size
    copy = machine()
    assert tables_of(copy) == (b"table 2", b"measured 2")
    assert sha256s(store, "analysis") == {
        found.key: sha256_file(copy.root / found.key) for found in store.list("analysis")
    }


def test_without_its_receipt_a_result_leaves_the_one_of_the_store(machine, store):
    write_receipt(*make_analysis(machine()))
    path, _ = make_analysis(machine(), b"a new table", b"measured anew")
    path.unlink()  # as killed while the tables are published
    assert tables_of(machine()) == (b"table 1", b"measured 1")


def test_a_command_that_needs_no_measurement_removes_none(machine, store):
    copy = machine()
    FaultyFileSystem.tell("put", *[None] * 3, *["torn"] * 6)  # all but the last receipt
    with pytest.raises(StorageError, match="given up after 6 attempts"):
        write_receipt(*make_analysis(copy))
    WorkingCopy.checkout(URL, ("analysis",), lambda key: key.endswith(".json"))
    assert "analysis/walk/receipt.json" in sha256s(store)
    assert store.get("analysis/walk/measurements/objects/detections.parquet") == b"measured 1"
    assert tables_of(machine("two")) == (b"table 1", b"measured 1")


def test_a_worker_remembers_what_it_has_published_itself(machine, store, monkeypatch):
    video(machine("one"), status="failed_transient", error="no network")
    copy = machine("two")
    monkeypatch.setattr(working_copy, "_OPEN", {})  # as in a process that was just started
    folder = video(copy, b"film")
    working_copy.discard(folder / "nothing")  # for which the list of what was seen is read
    video(copy, b"another film")
    assert store.get("videos/walk/walk.mp4") == b"another film"


def test_videos_on_their_way_count_too(machine, store, monkeypatch):
    other, a, b = room_for_one_of_two_videos(machine, monkeypatch)
    begun, go, fetch = threading.Event(), threading.Event(), ObjectStore.fetch

    def slowly(self, key, path):
        if path == a:
            begun.set()
            assert go.wait(60)
        fetch(self, key, path)

    monkeypatch.setattr(ObjectStore, "fetch", slowly)
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(other.fetch_video, a, sha256_bytes(b"a" * 500))
        try:
            assert begun.wait(60)
            with pytest.raises(StorageError, match="needed at once"):
                other.fetch_video(b, sha256_bytes(b"b" * 500))
        finally:
            go.set()
        coming.result()
    other.fetch_video(b, sha256_bytes(b"b" * 500))
    assert not a.exists()


def test_half_of_a_video_is_swept_before_it_is_fetched_again(machine):
    video(machine("one"))
    other = machine("two")
    path = other.root / "videos/walk/walk.mp4"
    half = path.with_name(".tmp-1-1-walk.mp4")
    half.write_bytes(b"fi")
    other.fetch_video(path, sha256_bytes(b"film"))
    assert not half.exists()


def test_what_is_no_receipt_is_dropped(machine, store, caplog):
    copy = machine()
    write_bytes(copy.root / "analysis/walk/receipt.json", b"{")
    write_bytes(copy.root / "analysis/tour/receipt.json", b"{}")
    copy = machine()
    assert caplog.text.count("this machine's result is dropped") == 2
    assert not list(copy.root.glob("analysis/*/receipt.json"))


def test_a_command_beside_another_one_takes_nothing_from_under_it(machine):
    copy, url = machine(), Path(URL)
    with workspace(url, "shards/set", needs=needs_tables):
        receipt = segment(copy)
        with (
            pytest.raises(WtoursError, match=r"copy of faulty://bucket/root in .* --scratch DIR"),
            workspace(url, "shards", needs=needs_receipts),
        ):
            pass
        assert receipt.exists()
        assert receipt.with_suffix(".parquet").exists()
    with (
        workspace(url, "shards/set", needs=needs_tables, is_part=True),
        workspace(url, "shards/set", needs=needs_tables, is_part=True),
        workspace(url, needs=needs_receipts),  # looks at no folder
    ):
        marker = read_json(copy.root / ".wtours-store.json")
    assert marker["shares_segments"]  # what the workers of the parts go by
