import concurrent.futures
import errno
import os
import threading
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tests.support.object_stores import OF_S3_CLIENTS, FaultyFileSystem, sha256s
from wtours.errors import ConflictError, StorageError, UsageError
from wtours.storage import remote_calls
from wtours.storage.atomic import write_bytes
from wtours.storage.hashing import sha256_bytes
from wtours.storage.object_store import ObjectStore, open_store
from wtours.storage.store import LocalStore, as_location, publish
from wtours.workspace.layout import Layout


@pytest.fixture
def faulty(monkeypatch):
    monkeypatch.setattr(remote_calls, "_FIRST_PAUSE_SECONDS", 0.001)
    FaultyFileSystem.reset()
    store = ObjectStore("faulty://bucket/root")
    store.require_put_if_absent()
    FaultyFileSystem.counts.clear()
    return store


@pytest.fixture(
    params=["disk", "memory", pytest.param("s3", marks=[pytest.mark.medium, OF_S3_CLIENTS])]
)
def store(request, tmp_path):
    if request.param == "s3":
        return open_store(request.getfixturevalue("s3_folder"))
    FaultyFileSystem.reset()
    return open_store(tmp_path / "root" if request.param == "disk" else "faulty://bucket/root")


def test_every_store_keeps_the_same_promises(store, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"of a file")
    assert store.stat("a/one") is None
    assert list(store.list()) == []
    assert store.create("a/one", b"first")
    assert store.create("a/b/two", file, sha256=sha256_bytes(b"of a file"))
    assert not store.create("a/one", b"second")
    assert not store.create("a/one", file)
    assert store.get("a/one") == b"first"
    assert [(found.key, found.bytes) for found in store.list()] == [("a/b/two", 9), ("a/one", 5)]
    assert [found.key for found in store.list("a/b")] == ["a/b/two"]
    assert store.sha256("a/b/two") == sha256_bytes(b"of a file")
    assert store.sha256("a/one") == sha256_bytes(b"first")
    store.fetch("a/b/two", tmp_path / "copies" / "two")
    assert (tmp_path / "copies" / "two").read_bytes() == b"of a file"

    seen = store.stat("a/one")
    assert store.replace("a/one", b"third", seen.version)
    assert store.get("a/one") == b"third"
    assert not store.replace("a/one", b"late", seen.version)
    assert not store.replace("a/none", b"late", seen.version)
    assert store.get("a/one") == b"third"
    store.delete("a/one")
    store.delete("a/one")
    assert [found.key for found in store.list()] == ["a/b/two"]
    with pytest.raises(StorageError, match=r"a/one is missing"):
        store.get("a/one")
    with pytest.raises(StorageError, match=r"a/one is missing"):
        store.fetch("a/one", tmp_path / "copies" / "one")
    assert sorted(p.name for p in (tmp_path / "copies").iterdir()) == ["two"]


def test_of_several_that_publish_at_once_one_wins(store):
    start = threading.Barrier(8)

    def create(number):
        start.wait()
        return store.create("receipt.json", str(number).encode())

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        won = list(pool.map(create, range(8)))
    assert won.count(True) == 1
    assert store.get("receipt.json") == str(won.index(True)).encode()
    assert [found.key for found in store.list()] == ["receipt.json"]


def test_the_same_bytes_may_be_published_again_and_others_not(store):
    assert publish(store, "one.tar", b"ours") == "created"
    assert publish(store, "one.tar", b"ours") == "equal"
    with pytest.raises(ConflictError, match=r"one\.tar is there with other bytes .* than ours"):
        publish(store, "one.tar", b"theirs")
    assert store.get("one.tar") == b"ours"


def test_a_failed_write_leaves_nothing_on_a_disk(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(StorageError, match="disk full"):
        LocalStore(tmp_path).create("one", b"bytes")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_hard_links_is_written_too(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert LocalStore(tmp_path).create("one", b"bytes")
    assert not LocalStore(tmp_path).create("one", b"others")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"bytes"]


@pytest.mark.parametrize(
    "faults",
    [
        [OSError(errno.EBUSY, "Please reduce your request rate. (503 SlowDown)")] * 2,
        [OSError(errno.EIO, "ConditionalRequestConflict (409)")],
        ["torn", "torn"],
        [0.05],
        [TimeoutError("read timed out")],
    ],
    ids=["503", "409", "torn", "slow", "timeout"],
)
def test_what_passes_is_tried_again(faulty, faults):
    FaultyFileSystem.tell("put", *faults)
    assert publish(faulty, "one.tar", b"bytes") == "created"
    assert faulty.get("one.tar") == b"bytes"


def test_a_put_whose_answer_was_lost_is_found_to_be_our_own(faulty):
    FaultyFileSystem.tell("put", "lost")
    assert publish(faulty, "one.tar", b"bytes") == "equal"
    assert sha256s(faulty) == {"one.tar": sha256_bytes(b"bytes")}


def test_a_412_is_the_other_ones_object(faulty):
    FaultyFileSystem.tell("put", "lost")
    faulty.create("one.tar", b"theirs")
    with pytest.raises(ConflictError, match=r"faulty://bucket/root/one\.tar is there with other"):
        publish(faulty, "one.tar", b"ours")
    assert faulty.get("one.tar") == b"theirs"


def test_what_does_not_pass_is_named_and_nothing_is_there(faulty):
    FaultyFileSystem.tell("put", *["torn"] * 6)
    with pytest.raises(StorageError, match=r"root/one\.tar: the connection .*after 6 attempts"):
        faulty.create("one.tar", b"bytes")
    assert FaultyFileSystem.counts["put"] == 6
    assert faulty.stat("one.tar") is None


def test_refused_access_is_not_tried_again(faulty):
    FaultyFileSystem.tell("put", PermissionError("Access Denied"))
    with pytest.raises(StorageError, match=r"one\.tar: access is refused \(Access Denied\)"):
        faulty.create("one.tar", b"bytes")
    assert FaultyFileSystem.counts["put"] == 1


def test_a_listing_that_lags_costs_work_and_loses_nothing(faulty):
    assert publish(faulty, "one.tar", b"bytes") == "created"
    FaultyFileSystem.hidden.add("one.tar")
    assert list(faulty.list()) == []
    assert publish(faulty, "one.tar", b"bytes") == "equal"


def test_a_range_that_comes_short_is_asked_for_again(faulty, monkeypatch, tmp_path):
    monkeypatch.setattr("wtours.storage.object_store._BLOCK_BYTES", 4)
    faulty.create("one.tar", b"0123456789")
    FaultyFileSystem.tell("get", OSError("2 bytes came"), None, "torn")
    faulty.fetch("one.tar", tmp_path / "one.tar")
    assert (tmp_path / "one.tar").read_bytes() == b"0123456789"
    FaultyFileSystem.tell("get", None, *["torn"] * 6)
    with pytest.raises(StorageError, match=r"one\.tar: .*given up after 6 attempts"):
        faulty.fetch("one.tar", tmp_path / "two.tar")
    assert [path.name for path in tmp_path.iterdir()] == ["one.tar"]


def test_a_store_that_overwrites_is_refused_in_one_line():
    FaultyFileSystem.reset()
    FaultyFileSystem.ignores_create = True
    with pytest.raises(StorageError, match=r"bucket/root does not refuse a second object"):
        open_store("faulty://bucket/root").create("one.tar", b"bytes")
    assert list(open_store("faulty://bucket/root").list()) == []


def test_a_client_that_only_looks_before_it_writes_is_refused():
    class Looks(MemoryFileSystem):  # type: ignore[misc]
        protocol = "looks"
        pipe_file = fsspec.AbstractFileSystem.pipe_file

    fsspec.register_implementation("looks", Looks, clobber=True)
    with pytest.raises(StorageError, match="put-if-absent"):
        open_store("looks://bucket/root").create("one.tar", b"bytes")


@pytest.mark.medium
@OF_S3_CLIENTS
def test_a_bucket_that_is_not_there_is_named(s3_folder):
    with pytest.raises(StorageError, match="no such bucket"):
        open_store("s3://no-such-bucket-of-walks/root").create("one", b"bytes")


@pytest.mark.medium
@OF_S3_CLIENTS
def test_a_large_file_is_sent_in_parts_and_created_once(s3_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("wtours.storage.object_store._WHOLE_BYTES", 2**20)
    monkeypatch.setattr("s3fs.core.calculate_chunksize", lambda size, chunksize=None: 5 * 2**20)
    path = tmp_path / "large"
    path.write_bytes(os.urandom(12 * 2**20))
    store = open_store(s3_folder)
    assert store.create("large", path)
    assert not store.create("large", path)
    store.fetch("large", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == path.read_bytes()


def test_places_are_paths_or_urls_however_they_are_written(tmp_path):
    assert as_location("s3://bucket/root/") == "s3://bucket/root"
    assert as_location("data/shards") == Path("data/shards")
    assert as_location(f"file://{tmp_path}") == tmp_path
    assert as_location(Path(f"file://{tmp_path}")) == tmp_path  # which has lost two slashes
    assert as_location(tmp_path / "s3:") == tmp_path / "s3:"
    assert as_location(Path("s3://bucket/root")) == "s3://bucket/root"


def test_a_url_never_becomes_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StorageError, match=r"s3:/bucket/grid\.png is a URL"):
        write_bytes(Path("s3://bucket/grid.png"), b"PNG")
    with pytest.raises(UsageError, match=r"s3://bucket/root is an object store, and this works on"):
        Layout(Path("s3://bucket/root"))
    assert list(tmp_path.iterdir()) == []
