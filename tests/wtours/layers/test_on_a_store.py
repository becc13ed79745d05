"""Layers beside frames on an object store: copied with them, and read there as on a disk."""

import json
import pickle

import numpy as np
import pytest

from tests.support.command_line import run_here
from tests.support.object_stores import OF_S3_CLIENTS, FaultyFileSystem
from tests.support.shard_set import write_shard_set
from tests.support.sharded_videos import files_of
from wtours.errors import ConflictError, ShardError
from wtours.layers.files import ArraySource
from wtours.layers.make import drop_layer, make_layer
from wtours.layers.verify import verify_layer
from wtours.progress import no_progress
from wtours.sharding.copy_set import copy_shards, files_of_set
from wtours.shards import ClipDataset, ShardIndex
from wtours.shards.layers.layer import Layer
from wtours.shards.layers.places import UrlPlace
from wtours.storage import remote_calls
from wtours.storage.object_store import open_store

FRAMES, VIDEOS = 12, ("oslo", "venice")
pytestmark = OF_S3_CLIENTS


@pytest.fixture
def frames(tmp_path, monkeypatch):
    """Return a shard set of two videos with the layer "depth"."""
    monkeypatch.setenv("WTOURS_SCRATCH", str(tmp_path / "scratch"))
    folder = write_shard_set(tmp_path / "set", num_frames=FRAMES, videos=VIDEOS)
    (tmp_path / "depth").mkdir()
    for number, video_id in enumerate(VIDEOS):
        values = np.arange(FRAMES * 12, dtype=np.float32).reshape(FRAMES, 3, 4)
        np.save(tmp_path / "depth" / f"{video_id}.npy", values + 1000 * number)
    index = ShardIndex.open(folder)
    make_layer(index, "depth", ArraySource(index, tmp_path / "depth"), origin="external:depth")
    return folder


def clips_of(place):
    return ClipDataset(
        ShardIndex.open(place), clip_length=3, frame_interval_seconds=2.0, layers=["depth"]
    )


def test_a_layer_goes_with_the_set_and_is_read_there(frames, s3_folder, tmp_path):
    (frames / "layers" / "half").mkdir()  # not finished: no layer.json
    (frames / "layers" / "half" / "oslo-00000.tar").write_bytes(b"half")
    report = copy_shards(frames, s3_folder)
    assert report.files_left == ("layers/.depth.lock", "layers/half/oslo-00000.tar")
    here, there = clips_of(frames), pickle.loads(pickle.dumps(clips_of(s3_folder)))
    for number in range(len(here)):
        one, other = here[number], there[number]
        assert one.jpegs == other.jpegs
        np.testing.assert_array_equal(one.layers["depth"], other.layers["depth"])
    assert len(here) == 2 * (FRAMES - 4)
    copy_shards(s3_folder, tmp_path / "back")
    back = ShardIndex.open(tmp_path / "back")
    assert verify_layer(back, "depth") == []
    here = {*files_of(frames)} - {*report.files_left}
    assert {*files_of(tmp_path / "back")} == {*here}
    # A push to the Hub takes the frames alone.
    keys = {found.key for found in files_of_set(open_store(frames), back.dataset)}
    assert not [key for key in keys if key.startswith("layers/")]


def test_a_layer_made_after_the_set_was_copied_is_added(frames, s3_folder, tmp_path):
    copy_shards(frames, s3_folder)
    with pytest.raises(ShardError, match="has no finished layer 'pose'; make it on a disk, and `w"):
        Layer.open(ShardIndex.open(s3_folder), "pose")
    index = ShardIndex.open(frames)
    values = np.arange(len(index) * 2.0).reshape(len(index), 2)
    for video in index.videos:
        np.save(tmp_path / f"{video.video_id}.npy", values[video.start : video.stop])
    make_layer(index, "pose", ArraySource(index, tmp_path), origin="external:pose")
    assert copy_shards(frames, s3_folder).files_copied == 8  # 2 tars, 4 of receipts, 2 files
    assert copy_shards(frames, s3_folder).files_copied == 0
    found = Layer.open(ShardIndex.open(s3_folder), "pose").read(range(len(index)))
    np.testing.assert_array_equal(np.array(found), values)


def test_damage_there_is_named(frames, s3_folder):
    copy_shards(frames, s3_folder)
    store, tar = open_store(s3_folder), "layers/depth/oslo-00000.tar"
    whole = store.get(tar)
    opened = Layer.open(ShardIndex.open(s3_folder), "depth")

    def put(data):
        store.delete(tar)
        assert store.create(tar, data)

    put(whole[:-1024])
    with pytest.raises(
        ShardError, match=r"depth/oslo-00000\.tar has \d+ bytes instead of \d+; copy"
    ):
        Layer.open(ShardIndex.open(s3_folder), "depth")
    put(b"\0" * len(whole))
    with pytest.raises(
        ShardError, match=r"s3://.*/layers/depth/oslo-00000\.tar: the value of oslo a"
    ):
        opened.read([0])
    put(whole)
    assert opened.read([0])[0] is not None  # what was damaged is not kept
    store.delete(tar)
    with pytest.raises(ShardError, match=r"layers/depth/oslo-00000\.tar"):
        opened.read([1])
    with pytest.raises(ShardError, match=r"depth/oslo-00000\.tar is missing instead of"):
        Layer.open(ShardIndex.open(s3_folder), "depth")
    index = "layers/depth/index.parquet"
    put(whole)
    num_bytes = len(store.get(index))
    store.delete(index)
    assert store.create(index, b"PAR1" * (num_bytes // 4) + b"1" * (num_bytes % 4))
    with pytest.raises(ShardError, match=r"layers/depth/index\.parquet cannot be used"):
        Layer.open(ShardIndex.open(s3_folder), "depth")


def test_values_that_were_read_are_read_again_from_the_disk(frames, s3_folder, tmp_path):
    copy_shards(frames, s3_folder)
    rows = range(2 * FRAMES)

    def read():
        layer = Layer.open(ShardIndex.open(s3_folder), "depth")
        assert isinstance(layer.place, UrlPlace)
        return np.array(layer.read(rows)), layer.place.remote.requests

    expected = Layer.open(ShardIndex.open(frames), "depth").read(rows)
    values, requests = read()
    np.testing.assert_array_equal(values, expected)
    assert requests == 2  # values that lie close together come by one request
    values, requests = read()
    np.testing.assert_array_equal(values, expected)
    assert requests == 0
    # Other values have the same places, and the same index.parquet.
    drop_layer(s3_folder, "depth")
    index = ShardIndex.open(frames)
    for video_id in VIDEOS:
        np.save(tmp_path / f"{video_id}.npy", np.load(tmp_path / "depth" / f"{video_id}.npy") + 1)
    made = make_layer(index, "depth", ArraySource(index, tmp_path), origin="external:depth")
    assert made.num_written == 2
    copy_shards(frames, s3_folder)
    values, requests = read()
    np.testing.assert_array_equal(values, np.array(expected) + 1)
    assert requests == 2


class Killed(Exception):
    """As if the process had died."""


def test_a_layer_is_made_there_as_on_a_disk_and_goes_on(frames, s3_folder, tmp_path):
    copy_shards(frames, s3_folder)
    drop_layer(s3_folder, "depth")
    store, arrays = open_store(s3_folder), tmp_path / "depth"

    def made(on_progress=no_progress):
        index = ShardIndex.open(s3_folder)
        source = ArraySource(index, arrays)
        return make_layer(index, "depth", source, origin="external:depth", on_progress=on_progress)

    def die(item, done, total):
        raise Killed

    making = "layers/depth/making"  # of a process that makes it of other arrays
    assert store.create(making, b"0123456789abcdef")
    with pytest.raises(ConflictError, match="is being made from something else by another process"):
        made()
    assert [found.key for found in store.list("layers")] == [making]
    drop_layer(s3_folder, "depth")
    with pytest.raises(Killed):
        made(die)
    with pytest.raises(ShardError, match="has no finished layer 'depth'"):
        Layer.open(ShardIndex.open(s3_folder), "depth")
    assert (made().num_written, made().num_kept) == (1, 2)
    on_disk = {key: data for key, data in files_of(frames).items() if key.startswith("layers/dep")}
    assert {key: store.get(key) for key in on_disk} == on_disk
    assert {found.key for found in store.list("layers")} == on_disk.keys()
    # Other values of the same size, in one of two shards.
    np.save(arrays / "oslo.npy", np.load(arrays / "oslo.npy") + 1)
    report = made()
    assert (report.directory, report.num_written) == (f"{s3_folder}/layers/depth", 1)
    index = ShardIndex.open(s3_folder)
    assert verify_layer(index, "depth") == []
    np.testing.assert_array_equal(
        np.array(Layer.open(index, "depth").read(range(FRAMES))), np.load(arrays / "oslo.npy")
    )
    assert not list((tmp_path / "scratch" / "layers").glob("[!.]*"))


def test_a_layer_made_again_there_while_it_is_open_gives_no_new_values_as_old(
    frames, s3_folder, tmp_path
):
    copy_shards(frames, s3_folder)
    index, arrays = ShardIndex.open(s3_folder), tmp_path / "depth"

    def made(step):
        for video_id in VIDEOS:
            np.save(arrays / f"{video_id}.npy", np.load(arrays / f"{video_id}.npy") + step)
        make_layer(index, "depth", ArraySource(index, arrays), origin="external:depth")

    layer = Layer.open(index, "depth")
    before = layer.read([0])
    made(1)
    np.testing.assert_array_equal(layer.read([0]), before)  # was kept on this machine
    with pytest.raises(ShardError, match="depth was made again since the layer was opened"):
        layer.read([FRAMES])
    made(-1)  # what was refused is not kept as a value of the first
    again = Layer.open(index, "depth")
    np.testing.assert_array_equal(again.read([FRAMES])[0], np.load(arrays / "venice.npy")[0])
    drop_layer(s3_folder, "depth")
    made(1)
    with pytest.raises(ShardError, match="depth was made again since the layer was opened"):
        again.read([1])


def test_a_layer_is_listed_verified_repaired_and_dropped_there(frames, s3_folder, tmp_path):
    copy_shards(frames, s3_folder)
    store, tar = open_store(s3_folder), "layers/depth/oslo-00000.tar"
    assert verify_layer(ShardIndex.open(s3_folder), "depth") == []
    whole = store.get(tar)
    store.delete(tar)
    store.create(tar, whole[:-2000] + b"x" + whole[-1999:])
    (problem,) = verify_layer(ShardIndex.open(s3_folder), "depth")
    assert problem.file == "oslo-00000.tar"
    assert "its bytes are not those that were published" in problem.message
    listed = run_here("layer", "list", "--shards", s3_folder, "--json")
    assert [found["name"] for found in json.loads(listed.stdout)] == ["depth"]
    origin = ("--from", f"external:{tmp_path / 'depth'}")
    repaired = run_here("layer", "verify", "depth", "--repair", "--shards", s3_folder, *origin)
    assert repaired.returncode == 0, repaired.stderr
    assert store.get(tar) == whole
    dropped = run_here("layer", "drop", "depth", "--shards", s3_folder)
    assert dropped.returncode == 0, dropped.stderr
    assert not list(store.list("layers"))
    assert run_here("layer", "drop", "depth", "--shards", s3_folder).returncode == 1
    with pytest.raises(ShardError, match="has no finished layer 'depth'"):
        verify_layer(ShardIndex.open(s3_folder), "depth")
    # The frames are not touched, and the layer can be copied there again.
    copy_shards(frames, s3_folder)
    assert verify_layer(ShardIndex.open(s3_folder), "depth") == []


def test_a_layer_that_was_made_again_is_not_overwritten(frames, tmp_path, monkeypatch):
    monkeypatch.setattr(remote_calls, "_FIRST_PAUSE_SECONDS", 0.001)
    FaultyFileSystem.reset()
    url = "faulty://bucket/copy"
    copy_shards(frames, url)
    assert FaultyFileSystem.names[-2].endswith("layers/depth/layer.json")
    index = ShardIndex.open(frames)
    values = np.load(tmp_path / "depth" / "oslo.npy") + 1
    np.save(tmp_path / "depth" / "oslo.npy", values)
    make_layer(index, "depth", ArraySource(index, tmp_path / "depth"), origin="external:depth")
    before = open_store(url).get("layers/depth/layer.json")
    with pytest.raises(ConflictError, match=r"layers/depth/.* is there with other bytes"):
        copy_shards(frames, url)
    assert open_store(url).get("layers/depth/layer.json") == before


def test_of_two_tars_the_one_that_went_away_is_named(frames):
    layer = Layer.open(ShardIndex.open(frames), "depth")
    tar = next((frames / "layers" / "depth").glob("venice*.tar"))
    tar.unlink()
    with pytest.raises(ShardError, match=rf"^\S*{tar.name}: the value of venice at "):
        layer.read([0, 2 * FRAMES - 1])
