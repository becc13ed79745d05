import dataclasses
import json
import multiprocessing
import pickle
import shutil
from pathlib import Path

import pytest

from tests.support.object_stores import OF_S3_CLIENTS, FaultyFileSystem, copy_into
from tests.support.shard_set import write_shard_set
from wtours.errors import ShardError
from wtours.shards import ClipDataset, FetchPolicy, ShardIndex
from wtours.storage import remote_calls
from wtours.storage.hashing import sha256_file

URL = "faulty://bucket/set"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards") / "set"
    write_shard_set(folder, videos=("street", "park"), size=(96, 128))
    return folder


@pytest.fixture
def remote(built, monkeypatch):
    monkeypatch.setattr(remote_calls, "_FIRST_PAUSE_SECONDS", 0.001)
    FaultyFileSystem.reset()
    copy_into(URL, built)
    FaultyFileSystem.counts.clear()
    return built


def policy(**changes):
    return dataclasses.replace(FetchPolicy(cache_dir=None, memory_bytes=0), **changes)


def dataset(place, **changes):
    index = ShardIndex.open(place, policy=policy(**changes))
    return ClipDataset(index, clip_length=3, frame_interval_seconds=2.0)


def clips(clips_of):
    return [clips_of[number] for number in range(len(clips_of))]


@pytest.mark.parametrize("place", [URL, URL + "/", Path(URL)], ids=repr)
def test_the_same_clips_in_the_same_order_as_on_a_disk(remote, place):
    local = dataset(remote)
    assert len(local) == 40
    assert clips(dataset(place)) == clips(local) == clips(dataset(str(remote)))


def test_frames_that_lie_close_together_come_by_one_request(remote):
    together, apart = dataset(URL), dataset(URL, coalesce_bytes=0)
    FaultyFileSystem.counts.clear()
    clip = together[0]
    assert FaultyFileSystem.counts["get"] == 1
    assert apart[0] == clip
    assert FaultyFileSystem.counts["get"] == 1 + 3
    own = sum(map(len, clip.jpegs))
    assert apart.index.remote.bytes_read == own + 3 * 512
    assert together.index.remote.bytes_read > own + 3 * 512


def test_what_was_read_is_read_again_from_memory_or_the_disk(remote, tmp_path):
    first = dataset(URL, cache_dir=tmp_path)
    expected = clips(first)
    FaultyFileSystem.counts.clear()
    again = dataset(URL, cache_dir=tmp_path)
    at_opening = FaultyFileSystem.counts["get"]
    assert clips(again) == expected
    assert FaultyFileSystem.counts["get"] == at_opening
    assert again.index.remote.requests == 0
    in_memory = dataset(URL, memory_bytes=2**30)
    assert clips(in_memory) == expected
    FaultyFileSystem.counts.clear()
    assert clips(in_memory) == expected
    assert FaultyFileSystem.counts["get"] == 0


def test_a_set_with_the_same_index_and_other_images_is_not_given_those_of_the_first(
    remote, tmp_path
):
    other = shutil.copytree(remote, tmp_path / "other")
    first = ShardIndex.open(remote).frame(0)
    path = other / f"{first.shard}.tar"
    data = bytearray(path.read_bytes())
    data[first.offset + first.size // 2] ^= 1
    path.write_bytes(data)
    described = json.loads((other / "dataset.json").read_text())
    for shard in described["shards"]:
        shard["sha256"] = sha256_file(other / f"{shard['shard']}.tar")
    (other / "dataset.json").write_text(json.dumps(described))
    copy_into("faulty://bucket/other", other)
    for url, folder in ((URL, remote), ("faulty://bucket/other", other)):
        assert clips(dataset(url, cache_dir=tmp_path / "cache")) == clips(dataset(folder))
    assert clips(dataset(other)) != clips(dataset(remote))


def test_a_torn_cache_is_read_from_the_store_again(remote, tmp_path):
    expected = clips(dataset(URL, cache_dir=tmp_path))
    for path in tmp_path.rglob("*.frames"):
        with path.open("r+b") as file:
            file.seek(path.stat().st_size // 2)
            file.write(bytes(4096))
    damaged = dataset(URL, cache_dir=tmp_path)
    assert clips(damaged) == expected
    assert 0 < damaged.index.remote.requests < len(expected)
    mended = dataset(URL, cache_dir=tmp_path)
    assert clips(mended) == expected
    assert mended.index.remote.requests == 0


def test_the_disk_has_a_bound_and_other_sets_make_room_first(remote, tmp_path, monkeypatch):
    monkeypatch.setattr("wtours.shards.range_reads.frame_cache._CHECK_BYTES", 4096)
    older = tmp_path / "shards-of-another-set"
    older.mkdir()
    (older / "x-00000.frames").write_bytes(bytes(100_000))
    bounded = dataset(URL, cache_dir=tmp_path, cache_bytes=60_000)
    assert clips(bounded) == clips(dataset(remote))
    assert not older.exists()
    used = sum(path.stat().st_blocks * 512 for path in tmp_path.rglob("*.frames"))
    assert 0 < used < 60_000 + 3 * 4096


def test_a_disk_that_cannot_be_written_is_said_once_and_does_not_stop(remote, tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    assert clips(dataset(URL, cache_dir=blocked)) == clips(dataset(remote))
    assert [record.message for record in caplog.records if "no more frames" in record.message]


def test_a_range_is_tried_again_and_then_the_shard_is_named(remote):
    opened = dataset(URL)
    FaultyFileSystem.tell("get", "torn", OSError("503 SlowDown"))
    assert opened[0] == dataset(remote)[0]
    FaultyFileSystem.tell("get", *["torn"] * 3)
    with pytest.raises(ShardError, match=r"bucket/set/street-00000\.tar: .*given up after 3"):
        opened[1]


def test_an_answer_that_does_not_come_is_asked_for_again(remote):
    opened = dataset(URL, timeout_seconds=0.2)
    FaultyFileSystem.tell("get", 5.0)
    assert opened[0] == dataset(remote)[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda store: store.pop("/bucket/set/dataset.json"), "is not a finished shard set"),
        (lambda store: store.pop("/bucket/set/park-00000.tar"), r"park-00000\.tar is missing"),
        (lambda store: store.pop("/bucket/set/index.parquet"), r"index\.parquet is missing"),
    ],
)
def test_what_is_missing_is_named(remote, change, message):
    change(FaultyFileSystem.store)
    with pytest.raises(ShardError, match=message):
        ShardIndex.open(URL)


def test_other_files_than_dataset_json_describes_are_named(remote):
    files = FaultyFileSystem()
    data = files.cat_file("/bucket/set/index.parquet")
    files.pipe_file("/bucket/set/index.parquet", data[:-1] + b"x")
    with pytest.raises(ShardError, match=r"index\.parquet is not the index that dataset\.json"):
        ShardIndex.open(URL)
    files.pipe_file("/bucket/set/index.parquet", data)
    tar = files.cat_file("/bucket/set/park-00000.tar")
    files.pipe_file("/bucket/set/park-00000.tar", tar[:-512])
    with pytest.raises(ShardError, match=rf"has {len(tar) - 512} bytes instead of {len(tar)}"):
        ShardIndex.open(URL)


def test_a_frame_that_is_another_one_is_named_and_not_kept(remote, tmp_path):
    opened = dataset(URL, cache_dir=tmp_path)
    files = FaultyFileSystem()
    tar = files.cat_file("/bucket/set/street-00000.tar")
    files.pipe_file("/bucket/set/street-00000.tar", bytes(len(tar)))
    with pytest.raises(ShardError, match=r"street-00000\.tar: frame street-0\d+ is damaged"):
        opened[0]
    files.pipe_file("/bucket/set/street-00000.tar", tar)
    assert opened[0] == dataset(remote)[0]


def first_clip(opened):
    return opened[0]


@pytest.mark.medium
@OF_S3_CLIENTS
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_processes_that_are_forked_or_spawned_read_a_bucket(built, s3_folder, tmp_path):
    copy_into(s3_folder, built)
    opened = dataset(s3_folder, cache_dir=tmp_path / "cache")
    local = dataset(built)
    assert opened[5] == local[5]  # the client is open when the process forks
    assert pickle.loads(pickle.dumps(opened))[6] == local[6]
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            assert pool.apply(first_clip, [opened]) == local[0]
