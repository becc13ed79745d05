"""`--root s3://…`: the stages as a user types them, beside the same on a disk."""

import concurrent.futures
import hashlib
import json
from pathlib import Path

import pytest

from tests.support.command_line import exit_code_of, wtours
from tests.support.object_stores import OF_S3_CLIENTS, copy_into, sha256s
from tests.support.video_clips import write_clip
from wtours.cli.sets.places import needs_receipts, workspace
from wtours.storage.object_store import open_store

MANIFEST = """
format = 1
name = "mine"
[[video]]
id = "walk"
title = "A walk"
sources = ["file:walk.mp4"]
domain = "Test"
license_claimed = "CC0"
[[video]]
id = "lane"
title = "Another walk"
sources = ["file:lane.mp4"]
domain = "Test"
license_claimed = "CC0"
"""
pytestmark = [pytest.mark.medium, OF_S3_CLIENTS]
SHARD = ("--shard-seconds", "1", "--short-side", "32", "--fps", "10")


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    write_clip(folder / "walk.mp4", source="testsrc2=size=64x48:rate=30:duration=3")
    write_clip(folder / "lane.mp4", source="testsrc=size=64x48:rate=25:duration=2")
    (folder / "mine.toml").write_text(MANIFEST)
    return folder


def stages(sources, root):
    own = ("--manifest", sources / "mine.toml", "--root", root)
    return [
        ("download", *own, "--from-dir", sources),
        ("analyze", *own, "--jobs", "1"),
        ("shard", *own, *SHARD, "--jobs", "1"),
        ("report", *own),
    ]


@pytest.fixture(scope="module")
def on_disk(sources, tmp_path_factory):
    """The root of a disk after all stages."""
    root = tmp_path_factory.mktemp("disk") / "root"
    with pytest.MonkeyPatch.context() as patch:
        for stage in stages(sources, root):
            assert exit_code_of(patch, *stage) == 0
    return root


def published(root: Path) -> dict[str, str]:
    """The sha256 of each published file; locks and the cache of identities are not published."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.relative_to(root).parts[0] not in ("locks", "cache")
    }


@pytest.fixture
def url(request, s3_folder, monkeypatch, tmp_path):
    monkeypatch.setenv("WTOURS_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.chdir(tmp_path)
    return s3_folder


def test_a_store_gets_the_bytes_of_a_disk(on_disk, sources, url, monkeypatch, tmp_path, capsys):
    for stage in stages(sources, url):
        assert exit_code_of(monkeypatch, *stage) == 0, capsys.readouterr().err
    store = open_store(url)
    assert sha256s(store) == published(on_disk)
    said = capsys.readouterr().out
    assert f"{url}/shards/default: 52 frames in 5 shards" in said
    assert f"{url}/reports/report.html" in said

    # Another machine finds all of it done, and copies no video.
    versions = {found.key: found.version for found in store.list()}
    monkeypatch.setenv("WTOURS_SCRATCH", str(tmp_path / "another"))
    for stage in stages(sources, url)[:3]:
        assert exit_code_of(monkeypatch, *stage) == 0, capsys.readouterr().err
    assert {found.key: found.version for found in store.list()} == versions
    assert "0 segments written, 5 kept" in capsys.readouterr().out

    assert exit_code_of(monkeypatch, "verify", "--root", url, "--json") == 0
    assert json.loads(capsys.readouterr().out)["num_frames"] == 52
    listed = ("list", "--manifest", sources / "mine.toml", "--root", url, "--json")
    assert exit_code_of(monkeypatch, *listed) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["download"], row["analysed"], row["shard_sets"]) for row in rows] == [
        ("done", True, ["default"])
    ] * 2
    assert exit_code_of(monkeypatch, "shards", "info", "--root", url, "--json") == 0
    assert json.loads(capsys.readouterr().out)["frames"] == 52
    store.delete("shards/default/walk-00001.tar")
    assert exit_code_of(monkeypatch, "verify", "--root", url) == 3
    assert "walk-00001.tar: is missing" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["another", "scratch"]


def test_what_works_on_a_disk_only_says_so_in_one_line(url, sources, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    for command in (
        ("pretrain", "default", "--root", url),
        ("eval", "table", "default", "--root", url),
        ("render", "--root", url),
        ("doctor", "--root", url),
        ("pin", "--manifest", sources / "mine.toml", "--root", url),
        ("verify", f"{url}/shards/default", "--repair"),
        ("demo", "--root", url),
        ("shards", "sample", f"{url}/none", "--out", "s3://bucket/grid.png"),
    ):
        assert exit_code_of(monkeypatch, *command) in (1, 2), command
        said = capsys.readouterr().err.splitlines()
        lines = [line for line in said if not line.startswith("127.0.0.1")]  # moto's own
        assert len(lines) == 1, (command, lines)
        assert lines[0].startswith("error: "), (command, lines)
    assert list(tmp_path.iterdir()) == []


def test_videos_leave_a_store_once_their_shards_are_whole_there(
    on_disk, sources, url, monkeypatch, capsys
):
    store = copy_into(url, on_disk)
    expected = sha256s(store)
    shard = ("shard", "--manifest", sources / "mine.toml", "--root", url, *SHARD, "--jobs", "1")
    key = "shards/default/walk-00001.tar"
    whole = store.get(key)
    for tar, ended in ((whole[:-1] + b"?", 1), (whole, 0)):
        store.delete(key)
        store.create(key, tar)
        assert exit_code_of(monkeypatch, *shard, "--delete-source") == ended
        if ended:
            assert "no video is deleted, since walk-00001.tar" in capsys.readouterr().err
            assert sha256s(store).keys() == expected.keys()
            store.delete("videos/lane/lane.mp4")  # another file of its name, as large
            store.create("videos/lane/lane.mp4", bytes((sources / "lane.mp4").stat().st_size))
    said = capsys.readouterr().out
    assert f"deleted {url}/videos/walk/walk.mp4: its shards are whole" in said
    assert "lane.mp4" not in said
    assert expected.keys() - sha256s(store).keys() == {"videos/walk/walk.mp4"}
    assert exit_code_of(monkeypatch, *shard, "--video", "walk") == 0
    assert "0 segments written, 3 kept" in capsys.readouterr().out


def test_what_only_reads_works_beside_a_stage(on_disk, sources, url, monkeypatch, tmp_path, capsys):
    store = copy_into(url, on_disk)
    before = {found.key: found.version for found in store.list()}
    with workspace(Path(url), "videos", "analysis", "shards", needs=needs_receipts) as stage:
        folders = ("cache", "locks", "videos", "analysis", "shards")
        here = {path for folder in folders for path in (stage.root / folder).rglob("*")}
        for command in (
            ("list", "--manifest", sources / "mine.toml"),
            ("verify",),
            ("verify", "--all"),
            ("lock", "--out", tmp_path / "default.lock"),
            ("shards", "info"),
            ("shards", "missing"),
        ):
            assert exit_code_of(monkeypatch, *command, "--root", url) == 0, capsys.readouterr().err
        assert {path for folder in folders for path in (stage.root / folder).rglob("*")} == here
    assert {found.key: found.version for found in store.list()} == before
    assert not list((tmp_path / "scratch" / "readers").glob("[!.]*"))
    assert "missing: 0 segments" in capsys.readouterr().out


def test_two_machines_on_one_root_end_with_one_set_of_bytes(
    on_disk, sources, url, monkeypatch, tmp_path
):
    copy_into(f"{url}/videos", on_disk / "videos")
    copy_into(f"{url}/analysis", on_disk / "analysis")
    command = ("shard", "--manifest", sources / "mine.toml", "--root", url, *SHARD, "--jobs", "2")

    def shard(name):
        return wtours(*command, WTOURS_SCRATCH=str(tmp_path / name))

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        one, two = pool.map(shard, ["one", "two"])
    assert (one.returncode, two.returncode) == (0, 0), one.stderr + two.stderr
    expected = {k: v for k, v in published(on_disk).items() if not k.startswith("reports/")}
    assert sha256s(open_store(url)) == expected


def test_prepare_publishes_the_same_there(on_disk, sources, url, monkeypatch, capsys):
    own = ("--manifest", sources / "mine.toml", "--root", url, "--from-dir", sources)
    assert exit_code_of(monkeypatch, "prepare", *own, *SHARD, "--executor", "serial") == 0
    assert f"{url}/shards/default: 52 frames in 5 shards" in capsys.readouterr().out
    expected = {k: v for k, v in published(on_disk).items() if not k.startswith("reports/")}
    assert sha256s(open_store(url)) == expected


def test_a_set_is_copied_there_and_back(on_disk, url, monkeypatch, tmp_path, capsys):
    local, there = on_disk / "shards" / "default", f"{url}/copies/one"
    assert exit_code_of(monkeypatch, "copy", local, there, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["files_copied"] == report["files"] == len(published(local))
    assert sha256s(open_store(there)) == published(local)
    assert exit_code_of(monkeypatch, "copy", local, there, "--json") == 0
    assert json.loads(capsys.readouterr().out)["files_copied"] == 0
    assert exit_code_of(monkeypatch, "copy", there, tmp_path / "back") == 0
    back = published(tmp_path / "back")
    assert back == published(local)
    assert exit_code_of(monkeypatch, "verify", there) == 0


def test_a_set_there_is_exported_and_compared_as_one_here(
    on_disk, url, monkeypatch, tmp_path, capsys
):
    local, there = on_disk / "shards" / "default", f"{url}/copies/one"
    assert exit_code_of(monkeypatch, "copy", local, there) == 0
    for of in ("hf", "mp4", "imagefolder"):
        assert exit_code_of(monkeypatch, "shards", "export", local, "--to", of) == 0
        capsys.readouterr()
        export = ("shards", "export", there, "--to", of, "--json")
        assert exit_code_of(monkeypatch, *export) == 0
        report = json.loads(capsys.readouterr().out)
        assert (report["out"], report["kept"]) == (f"one-{of}", 0)
        here, mine = (published(tmp_path / f"{name}-{of}") for name in ("default", "one"))
        del here[".wtours-export.lock"], mine[".wtours-export.lock"]  # the process
        assert mine == here
        assert exit_code_of(monkeypatch, *export) == 0
        report = json.loads(capsys.readouterr().out)
        assert 0 < report["kept"] == report["units"]
    assert not [path for path in (tmp_path / "scratch").rglob("*") if path.is_file()]
    assert exit_code_of(monkeypatch, "shards", "overlap", there, local, "--json") == 3
    found = json.loads(capsys.readouterr().out)
    assert {one[0] for one in found["same_videos"]} == {"walk", "lane"}


def test_damage_on_a_store_is_found_by_its_bytes(on_disk, url, monkeypatch, capsys):
    store = copy_into(url, on_disk)
    there = ("--root", url)
    assert exit_code_of(monkeypatch, "verify", "--all", *there) == 0
    assert f"{url}: 2 videos, 2 analyses, 4 measurements, 1 shard set, " in capsys.readouterr().out

    damaged = ("shards/default/walk-00001.tar", "analysis/lane/shots.parquet")
    for key in damaged:
        whole = store.get(key)
        store.delete(key)
        store.create(key, whole[:-1] + b"?", sha256=hashlib.sha256(whole).hexdigest())
    store.delete("shards/default/lane-00000.tar")
    assert exit_code_of(monkeypatch, "verify", "--all", *there) == 3
    said = capsys.readouterr().err
    assert "analysis/lane/shots.parquet: has another sha256 than its receipt says" in said
    assert "shards/default/walk-00001.tar: disagrees with the index" in said
    assert "shards/default/lane-00000.tar: is missing" in said


@pytest.mark.parametrize("executor", ["serial", "processes"])
def test_a_repair_on_a_store_ends_in_the_bytes_of_before(
    executor, on_disk, url, monkeypatch, capsys
):
    store = copy_into(url, on_disk)
    before = sha256s(store)
    rotten = ("walk-00001.tar", "receipts/walk-00002.parquet", "index.parquet")
    for key in (f"shards/default/{name}" for name in rotten):
        whole = store.get(key)
        store.delete(key)  # other bytes under the digest of the whole
        store.create(key, whole[:-1] + b"?", sha256=hashlib.sha256(whole).hexdigest())
    store.delete("shards/default/lane-00000.tar")
    repair = ("verify", "--repair", "--root", url, "--executor", executor, "--jobs", "1")
    assert exit_code_of(monkeypatch, *repair) == 0, capsys.readouterr().err
    assert sha256s(store) == before
    said = capsys.readouterr().err
    for name in ("walk-00001", "walk-00002", "lane-00000"):
        assert f"rebuilt, byte-identical: {name}.tar" in said
    assert exit_code_of(monkeypatch, *repair) == 0
    assert "rebuilt" not in capsys.readouterr().err


def test_a_lock_of_a_store_is_made_again_on_another(
    on_disk, sources, url, monkeypatch, tmp_path, capsys
):
    copy_into(url, on_disk)
    assert exit_code_of(monkeypatch, "lock", "--root", url, "--deep", "--out", "there.lock") == 0
    assert exit_code_of(monkeypatch, "lock", "--root", on_disk, "--out", "here.lock") == 0
    assert Path("there.lock").read_bytes() == Path("here.lock").read_bytes()

    other = f"{url}-of-another"
    command = ("sync", "there.lock", "--root", other, "--from-dir", sources, "--jobs", "1")
    assert exit_code_of(monkeypatch, *command) == 0, capsys.readouterr().err
    assert f"{other}/shards/default: 5 of 5 shards as in" in capsys.readouterr().out
    tars = {key: sha256 for key, sha256 in published(on_disk).items() if key.endswith(".tar")}
    assert tars.items() <= sha256s(open_store(other)).items()
    store = open_store(other)
    whole = store.get("shards/default/walk-00000.tar")
    store.delete("shards/default/walk-00000.tar")
    store.create("shards/default/walk-00000.tar", whole[:-1] + b"?")
    assert exit_code_of(monkeypatch, *command) == 3
    assert "walk-00000.tar: as many bytes as the lock's, but sha256" in capsys.readouterr().err


def test_a_walk_of_ones_own_is_added_to_a_store(sources, url, monkeypatch, tmp_path, capsys):
    command = ("add", sources / "lane.mp4", "--root", url, "--manifest", tmp_path / "mine.toml")
    assert exit_code_of(monkeypatch, *command) == 0, capsys.readouterr().err
    keys = sha256s(open_store(url))
    of_file = hashlib.sha256((sources / "lane.mp4").read_bytes()).hexdigest()
    assert keys["videos/lane/lane.mp4"] == of_file
    assert "videos/lane/receipt.json" in keys
    monkeypatch.setenv("WTOURS_SCRATCH", str(tmp_path / "another"))
    assert exit_code_of(monkeypatch, *command) == 0
    assert "there already" in capsys.readouterr().out


def test_the_s3_of_the_tests_says_nothing_that_a_command_would_show(url, monkeypatch, capsys):
    assert exit_code_of(monkeypatch, "list", "-q", "--root", url) == 0
    assert capsys.readouterr().err == ""
