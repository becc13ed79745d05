import fcntl
import threading

import pytest

from tests.support.object_stores import FaultyFileSystem, sha256s
from tests.support.shard_set import write_shard_set
from tests.support.sharded_videos import files_of
from wtours.errors import ConflictError, ShardError, StorageError, UsageError
from wtours.sharding.copy_set import _swept, copy_shards
from wtours.shards.schema import BLUR_BOXES_FILE, DATASET_FILE, QUALITY_FILE
from wtours.shards.split import SPLIT_FILE
from wtours.shards.verify import verify_shards
from wtours.storage import remote_calls
from wtours.storage.hashing import sha256_bytes
from wtours.storage.object_store import open_store

URL = "faulty://bucket/copy"


@pytest.fixture
def built(tmp_path, monkeypatch):
    monkeypatch.setattr(remote_calls, "_FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setenv("WTOURS_SCRATCH", str(tmp_path / "scratch"))
    FaultyFileSystem.reset()
    folder = tmp_path / "set"
    write_shard_set(folder, videos=("street", "park"))
    (folder / "receipts").mkdir()
    (folder / "receipts" / "street-00000.json").write_bytes(b"{}")
    (folder / "notes.txt").write_bytes(b"not of the set")
    for name in (BLUR_BOXES_FILE, QUALITY_FILE, SPLIT_FILE):  # resuming and repairing need them
        (folder / name).write_bytes(name.encode())
    return folder


def wanted(folder):
    files = {name: sha256_bytes(data) for name, data in files_of(folder).items()}
    del files["notes.txt"]
    return files


def copied():
    return sha256s(open_store(URL))


def test_there_and_back_to_the_byte(built, tmp_path):
    seen = []
    report = copy_shards(built, URL, on_progress=lambda *args: seen.append(args))
    assert copied() == wanted(built)
    assert (report.files, report.files_copied, report.files_left) == (8, 8, ("notes.txt",))
    assert seen[-1] == (URL, report.bytes, report.bytes)
    assert FaultyFileSystem.names[-1].endswith("dataset.json")
    assert verify_shards(URL).ok
    copy_shards(URL, tmp_path / "back")
    back = {name: sha256_bytes(data) for name, data in files_of(tmp_path / "back").items()}
    assert back == wanted(built)
    assert verify_shards(tmp_path / "back").ok
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_copy_that_was_stopped_goes_on(built):
    FaultyFileSystem.tell("put", None, None, None, None, *["torn"] * 6)  # the probe has two
    with pytest.raises(StorageError, match="given up after 6 attempts"):
        copy_shards(built, URL, jobs=1)
    assert 0 < len(copied()) < 8
    with pytest.raises(ShardError, match="not a finished shard set"):
        verify_shards(URL)
    report = copy_shards(built, URL)
    assert copied() == wanted(built)
    assert 0 < report.files_copied < 8
    assert copy_shards(built, URL).files_copied == 0


def test_a_damaged_shard_is_not_copied(built):
    tar = built / "park-00000.tar"
    tar.write_bytes(tar.read_bytes()[:-1] + b"x")
    with pytest.raises(ShardError, match=r"set/park-00000\.tar is damaged: its sha256 is"):
        copy_shards(built, URL)
    assert "dataset.json" not in copied()
    assert "park-00000.tar" not in copied()
    tar.unlink()
    with pytest.raises(ShardError, match=r"park-00000\.tar is missing; run `wtours verify`"):
        copy_shards(built, URL)


def test_what_is_there_with_other_bytes_stays_and_is_named(built, tmp_path):
    store = open_store(URL)
    store.create("park-00000.tar", b"theirs")
    with pytest.raises(ConflictError, match=r"copy/park-00000\.tar is there with other bytes"):
        copy_shards(built, URL)
    assert store.get("park-00000.tar") == b"theirs"
    store.delete("park-00000.tar")
    copy_shards(built, URL)
    write_shard_set(tmp_path / "other", videos=("street",))
    with pytest.raises(ConflictError, match="is another shard set"):
        copy_shards(tmp_path / "other", URL)
    assert copied() == wanted(built)


def test_what_did_not_arrive_as_it_was_sent_is_removed(built, monkeypatch):
    put = FaultyFileSystem.pipe_file

    def flipped(self, path, value, mode="overwrite", **kwargs):
        return put(
            self, path, value[:-1] + b"?" if path.endswith("park-00000.tar") else value, mode
        )

    monkeypatch.setattr(FaultyFileSystem, "pipe_file", flipped)
    with pytest.raises(StorageError, match=r"park-00000\.tar did not arrive as it was sent"):
        copy_shards(built, URL)
    assert "park-00000.tar" not in copied()
    assert "dataset.json" not in copied()


@pytest.mark.parametrize("name", ["park-00000.tar", QUALITY_FILE, DATASET_FILE])
def test_a_deep_copy_reads_what_a_killed_one_had_sent(built, s3_folder, name):
    """S3 keeps the sha256 that came with an object, which says nothing of the bytes."""
    store, whole = open_store(s3_folder), wanted(built)
    store.create(name, b"torn", sha256=whole[name])
    with pytest.raises(StorageError, match=f"{name} did not arrive as it was sent, and was remov"):
        copy_shards(built, s3_folder)
    copy_shards(built, s3_folder)
    assert {found.key: store.sha256(found.key, is_read=True) for found in store.list()} == whole
    assert copy_shards(built, s3_folder).files_copied == 0


def test_what_a_killed_copy_was_writing_is_removed(built, tmp_path):
    there = tmp_path / "there"
    for name in (".tmp-1-0a-park-00000.tar", "receipts/.tmp-1-0a-x", "layers/depth/.tmp-1-0a-y"):
        (there / name).parent.mkdir(parents=True, exist_ok=True)
        (there / name).write_bytes(b"half")
    (there / "theirs").mkdir()
    (there / "theirs" / ".tmp-1-0a-z").write_bytes(b"in work")
    copy_shards(built, there)
    left = {path.name for path in there.rglob(".*") if path.is_file()}
    assert left == {".tmp-1-0a-z"}


def test_of_two_copies_at_once_into_one_folder_none_removes_what_the_other_writes(built, tmp_path):
    there = tmp_path / "there"
    half = there / ".tmp-1-0a-street-00000.tar"

    def copy_too(item, done, total):
        if not half.exists():
            half.write_bytes(b"as the first would be writing it")
            assert copy_shards(built, there).files == 8
            assert (there / ".wtours-copy.lock").exists()  # the first still needs it
        assert half.exists()

    assert copy_shards(built, there, on_progress=copy_too).files == 8
    assert not (there / ".wtours-copy.lock").exists()
    assert copy_shards(there, tmp_path / "third").files_left == ()
    copy_shards(built, there)
    assert not half.exists()


def test_a_copy_that_waited_for_a_lock_file_that_was_removed_takes_the_new_one(tmp_path):
    """Else a third copy would lock a file of that name alone, and sweep what the second writes."""
    old = (tmp_path / ".wtours-copy.lock").open("a")
    fcntl.flock(old, fcntl.LOCK_EX)
    half = tmp_path / ".tmp-1-0a-street-00000.tar"
    begun, end = threading.Event(), threading.Event()

    def second():
        with _swept(tmp_path):
            half.write_bytes(b"in work")
            begun.set()
            assert end.wait(30)

    thread = threading.Thread(target=second)
    thread.start()
    assert not begun.wait(0.2)
    (tmp_path / ".wtours-copy.lock").unlink()
    old.close()
    assert begun.wait(30)
    with _swept(tmp_path):
        assert half.exists()
    end.set()
    thread.join()
    assert [path.name for path in tmp_path.iterdir()] == [half.name]


def test_what_is_no_set_or_the_same_place_is_refused(built, tmp_path):
    with pytest.raises(ShardError, match="is not a finished shard set"):
        copy_shards(tmp_path, URL)
    with pytest.raises(UsageError, match="cannot be copied onto itself"):
        copy_shards(built, built)
