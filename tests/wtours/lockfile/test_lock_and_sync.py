"""A set is locked, made again elsewhere from the lock, and what differs is named."""

import hashlib
import json
import shutil
import subprocess

import pytest

from tests.support.sharded_videos import files_of, publish_stream, publish_video
from tests.support.video_clips import write_clip, write_two_streams
from wtours.errors import ShardError
from wtours.lockfile.lock import lock_shards, read_lock
from wtours.lockfile.sync import sync_shards
from wtours.sharding.build import build_shards
from wtours.shards.params import ShardParams
from wtours.storage.atomic import write_json
from wtours.storage.hashing import canonical_json
from wtours.workspace.layout import Layout

PARAMS = ShardParams(frames_per_second="10", short_side=32, shard_seconds=1)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a workspace with a set of two videos, the folder of the videos, and the lock."""
    folder = tmp_path_factory.mktemp("made")
    layout = Layout(folder / "root")
    (folder / "videos").mkdir()
    for video_id, picture in (("oslo", "testsrc2"), ("venice", "mandelbrot")):
        clip = write_clip(
            folder / "videos" / f"{video_id}.mp4", source=f"{picture}=size=64x48:rate=30", t=2.5
        )
        publish_video(layout, video_id, clip)
    build_shards(layout, ["venice", "oslo"], name="walks", params=PARAMS)
    lock_shards(layout, layout.shards_dir("walks"), folder / "walks.lock", deep=True)
    return layout, folder / "videos", folder / "walks.lock"


def test_a_lock_makes_the_same_bytes_elsewhere_and_again_does_nothing(made, tmp_path):
    layout, videos, path = made
    lock = read_lock(path)
    there = Layout(tmp_path / "there")
    report = sync_shards(there, lock, from_dir=videos)
    assert (report.differences, report.num_same) == ({}, len(lock.shards))
    assert report.set_sha256 == lock.set_sha256
    tars = [f"{shard.shard}.tar" for shard in lock.shards]
    here = files_of(layout.shards_dir("walks"))
    assert {name: here[name] for name in tars} == {
        name: data for name, data in files_of(report.directory).items() if name.endswith(".tar")
    }
    # The videos may go once the set is whole.
    shutil.rmtree(there.videos_dir)
    assert sync_shards(there, lock, from_dir=tmp_path).differences == {}


def test_the_set_hash_is_what_coreutils_say(made):
    layout, _, path = made
    command = "export LC_ALL=C; sha256sum *.tar | sha256sum"
    folder = layout.shards_dir("walks")
    said = subprocess.run(
        command, shell=True, cwd=folder, capture_output=True, text=True, check=True
    )
    assert said.stdout.split()[0] == read_lock(path).set_sha256


def test_another_video_another_version_and_another_byte_are_named(made, tmp_path):
    _, videos, path = made
    content = json.loads(path.read_text())
    content["versions"]["av"] = ["1.2.3"]
    shard = next(s for s in content["shards"] if s["shard"] == "venice-00000")
    shard["sha256"] = hashlib.sha256(b"made elsewhere").hexdigest()
    content["set_sha256"] = _set_hash(content)
    other = tmp_path / "other.lock"
    write_json(other, content)
    there = Layout(tmp_path / "there")
    publish_video(
        there,
        "oslo",
        write_clip(tmp_path / "oslo.mp4", source="testsrc=size=64x48:rate=30:duration=1"),
    )
    before = files_of(there.video_dir("oslo"))
    report = sync_shards(there, read_lock(other), from_dir=videos)
    assert "the video here is another file" in report.differences["oslo"]
    assert files_of(there.video_dir("oslo")) == before
    assert "as many bytes as the lock's, but sha256" in report.differences["venice-00000.tar"]
    assert "av is" in report.differences["venice-00000.tar"]
    assert report.versions[0].endswith("1.2.3 made the lock's")
    assert report.differences.keys() == {"oslo", "venice-00000.tar"}


def test_a_video_that_cannot_be_had_is_named_and_the_others_go_on(made, tmp_path):
    _, videos, path = made
    only = tmp_path / "only"
    only.mkdir()
    shutil.copy(videos / "oslo.mp4", only)
    report = sync_shards(Layout(tmp_path / "root"), read_lock(path), from_dir=only)
    assert report.differences.keys() == {"venice"}
    assert 0 < report.num_same < report.num_shards
    resumed = sync_shards(Layout(tmp_path / "root"), read_lock(path), from_dir=videos)
    assert resumed.differences == {}


def test_the_stream_of_another_file_is_not_that_of_the_set(made, tmp_path):
    layout, videos, _ = made
    there = Layout(shutil.copytree(layout.root, tmp_path / "root"))
    publish_video(there, "oslo", videos / "oslo.mp4", facts={"stream": 1})
    publish_video(there, "venice", videos / "oslo.mp4", facts={"stream": 1})
    lock = lock_shards(there, there.shards_dir("walks"), tmp_path / "walks.lock")
    assert {video.video_id: video.stream for video in lock.videos} == {"oslo": 1, "venice": None}


def test_of_two_streams_of_one_file_the_one_of_the_set_is_locked_and_made_again(tmp_path):
    (tmp_path / "videos").mkdir()
    path = write_two_streams(tmp_path / "videos" / "walk.mov")
    layout, there = Layout(tmp_path / "root"), Layout(tmp_path / "there")
    publish_stream(layout, "walk", path, 1)
    directory = build_shards(layout, ["walk"], name="walks", params=PARAMS).directory
    publish_stream(layout, "walk", path, 0)  # taken for another set
    lock = lock_shards(layout, directory, tmp_path / "walks.lock")
    assert lock.videos[0].stream == 1

    publish_stream(there, "walk", path, 0)
    other = build_shards(there, ["walk"], name="walks", params=PARAMS).directory
    before = files_of(other)
    report = sync_shards(there, lock, from_dir=tmp_path / "videos")
    assert "another stream of it (sha256" in report.differences["walk"]
    assert "…, stream 0, the lock's" in report.differences["walk"]
    assert files_of(other) == before
    shutil.rmtree(there.videos_dir)
    assert sync_shards(there, lock, from_dir=tmp_path / "videos").differences == {}
    assert files_of(other)["walk-00000.tar"] == files_of(directory)["walk-00000.tar"]


def test_a_damaged_set_is_not_locked(made, tmp_path):
    layout, _, _ = made
    copy = tmp_path / "walks"
    shutil.copytree(layout.shards_dir("walks"), copy)
    tar = copy / "oslo-00000.tar"
    data = bytearray(tar.read_bytes())
    data[700] ^= 1
    tar.write_bytes(data)
    lock_shards(layout, copy, tmp_path / "quick.lock")  # sizes alone do not show it
    with pytest.raises(ShardError, match="a damaged set is not locked"):
        lock_shards(layout, copy, tmp_path / "deep.lock", deep=True)
    assert not (tmp_path / "deep.lock").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.update(lock=2), "lock: "),
        (lambda c: c.update(name="../../etc"), "name: "),
        (lambda c: c["shards"][0].update(shard="../x"), "is not oslo-00000"),
        (lambda c: c["shards"][0].update(sha256="0" * 64), "set_sha256 is not the hash"),
        (lambda c: c["shards"][0].update(frames=10**30), "shards.0.frames"),
        (lambda c: c["shards"].append(c["shards"][0]), "twice|have not"),
        (lambda c: c["videos"].pop(), "is of no video"),
        (lambda c: c["videos"][0].update(frame_rate="1e999999999"), "is not a rate"),
        (lambda c: c["params"].update(quality=101), "quality|damaged parameters"),
        (lambda c: c["params"].update(pixels="another way"), "made other bytes .pixels"),
        (lambda c: c["params"].update(unknown=1), "made other bytes .unknown"),
        (lambda c: c.update(extra="\x1b[2J" * 1000), "extra"),
    ],
)
def test_a_hostile_lock_is_one_line(made, tmp_path, change, said):
    content = json.loads(made[2].read_text())
    change(content)
    path = tmp_path / "hostile.lock"
    path.write_bytes(canonical_json(content))
    with pytest.raises(ShardError, match=said) as refused:
        read_lock(path)
    assert len(str(refused.value)) < 1000
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("data", [b"", b"[" * 100_000, b"\xff\xfe", b"null", b'{"lock": 1}'])
def test_what_is_no_lock_is_one_line(tmp_path, data):
    path = tmp_path / "x.lock"
    path.write_bytes(data)
    with pytest.raises(ShardError, match="is not a lock of format 1") as refused:
        read_lock(path)
    assert "\n" not in str(refused.value)


def test_a_lock_whose_source_is_no_source_fetches_nothing(made, tmp_path):
    content = json.loads(made[2].read_text())
    content["videos"][0]["source"] = "--exec=touch /tmp/x"
    path = tmp_path / "x.lock"
    path.write_bytes(canonical_json(content))
    report = sync_shards(Layout(tmp_path / "root"), read_lock(path), from_dir=made[1])
    assert "cannot be used" in report.differences["oslo"]


def _set_hash(content):
    lines = sorted((f"{s['shard']}.tar", s["sha256"]) for s in content["shards"])
    return hashlib.sha256("".join(f"{h}  {n}\n" for n, h in lines).encode()).hexdigest()
