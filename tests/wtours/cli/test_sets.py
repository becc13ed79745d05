"""Commands on shard sets as a user types them: list, lock, sync, attest, copy, split, export."""

import json
import shutil
from pathlib import Path

from tests.support.command_line import exit_code_of
from tests.support.shard_set import write_shard_set


def test_a_set_is_locked_and_compared_from_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one = write_shard_set(tmp_path / "one", num_frames=3)
    shutil.copytree(one, tmp_path / "copy")
    other = write_shard_set(tmp_path / "other", num_frames=2)
    root = ("--root", tmp_path / "root")
    assert exit_code_of(monkeypatch, "lock", one, *root) == 0
    shown = capsys.readouterr().out
    locked = json.loads((tmp_path / "one.lock").read_text())
    assert f"set sha256 {locked['set_sha256']}" in shown

    assert exit_code_of(monkeypatch, "attest", one, tmp_path / "copy", *root) == 0
    assert "the same frames, byte for byte" in capsys.readouterr().out
    assert exit_code_of(monkeypatch, "attest", one, other, "--json", *root) == 3
    found = json.loads(capsys.readouterr().out)
    assert (found["same"], found["videos"][0]["paired"]) == (False, 2)

    # The set's video is nowhere: it is named, with the lock's own name for it.
    assert exit_code_of(monkeypatch, "sync", "one.lock", *root) == 3
    captured = capsys.readouterr()
    assert "0 of 1 shard as in one.lock" in captured.out
    assert "differs: street: its source None cannot be used" in captured.err
    assert exit_code_of(monkeypatch, "sync", "absent.lock", *root) == 1
    assert capsys.readouterr().err.startswith("error: absent.lock is not there")


def test_a_copy_is_named_as_its_source_is(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_shard_set(tmp_path / "data" / "shards" / "walks", num_frames=2)
    assert exit_code_of(monkeypatch, "copy", "walks", "walks") == 2
    assert "data/shards/walks cannot be copied onto itself" in capsys.readouterr().err
    assert exit_code_of(monkeypatch, "copy", "walks", "others") == 0
    assert capsys.readouterr().out.startswith("data/shards/others: ")
    assert exit_code_of(monkeypatch, "copy", "walks", "./here") == 0
    assert exit_code_of(monkeypatch, "verify", "./here") == 0
    assert exit_code_of(monkeypatch, "verify", "./here", "--repair") == 2
    capsys.readouterr()
    assert exit_code_of(monkeypatch, "copy", "here", "walks") == 0  # what lies here comes first
    assert "0 copied" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "here"]
    assert sorted(path.name for path in (tmp_path / "data" / "shards").iterdir()) == [
        "others",
        "walks",
    ]


def test_the_sets_under_a_root_are_listed(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert exit_code_of(monkeypatch, "shards", "list") == 0
    assert "no shard set under data: `wtours shard` makes one" in capsys.readouterr().out
    write_shard_set(tmp_path / "data" / "shards" / "walks", num_frames=2, videos=("a", "b"))
    (tmp_path / "data" / "shards" / "begun").mkdir()
    assert exit_code_of(monkeypatch, "lock", "walks", "--json") == 0
    locked = json.loads(capsys.readouterr().out)
    assert exit_code_of(monkeypatch, "shards", "list", "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["name"], found["videos"], found["frames"]) == ("walks", ["a", "b"], 4)
    assert found["set_sha256"] == locked["set_sha256"]
    assert found["params"]["frames_per_second"] == "1"
    assert exit_code_of(monkeypatch, "shards", "list") == 0
    shown = capsys.readouterr().out
    assert "1 shard set under data" in shown
    assert "walks" in shown


def test_a_split_and_an_export_are_told_to_scripts_too(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_shard_set(tmp_path / "data" / "shards" / "walks", num_frames=4, videos=("a", "b"))
    assert exit_code_of(monkeypatch, "shards", "split", "walks", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["parts"]["val"] == {"frames": 4, "stretches": 1}
    assert json.loads(Path(found["file"]).read_text())["format"] == 1
    assert exit_code_of(monkeypatch, "shards", "split", "walks") == 0
    assert "train: 4 frames in 1 stretch; val:" in capsys.readouterr().out
    words = ("shards", "export", "walks", "--out", "frames", "--by-split", "--json", "--quiet")
    assert exit_code_of(monkeypatch, *words) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["out"], found["frames"], found["kept"]) == ("frames", 8, 0)
    assert len(list(Path("frames").rglob("*.jpg"))) == 8
