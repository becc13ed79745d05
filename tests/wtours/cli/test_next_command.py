"""Each stage of the pipeline ends with the command that comes next, to be pasted."""

import shlex
from pathlib import Path

import pytest

from tests.support.command_line import exit_code_of
from tests.support.video_clips import write_clip
from training.reproduce.progress import in_a_process
from wtours.cli.next_command import none_said, note_next, note_pretrain


def told(capsys) -> list[str]:
    lines = capsys.readouterr().err.splitlines()
    return [line.removeprefix("next: ") for line in lines if line.startswith("next: ")]


@pytest.mark.medium
def test_commands_that_another_runs_in_processes_of_their_own_do_not_say_it(tmp_path, capfd):
    clip = write_clip(tmp_path / "walk.mp4", source="testsrc2=size=64x48:rate=5:duration=2")
    words = ("add", str(clip), "--manifest", str(tmp_path / "walks.toml"), "--root", str(tmp_path))
    with none_said():
        assert in_a_process(words) == 0
    assert told(capfd) == []
    assert in_a_process(words) == 0
    assert len(told(capfd)) == 1


@pytest.mark.medium
def test_pasting_what_comes_next_goes_from_a_file_to_training(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WTOURS_MANIFEST", raising=False)
    write_clip(tmp_path / "my walk.mp4", source="testsrc2=size=64x48:rate=5:duration=9")
    command = "wtours add 'my walk.mp4' --manifest 'my walks.toml' --root 'my root'"
    stages = []
    while not command.startswith("wtours pretrain"):
        words = shlex.split(command)[1:]
        assert exit_code_of(monkeypatch, *words) == 0
        (command,) = told(capsys)
        stages.append(words[0])
    assert stages == ["add", "analyze", "report", "shard"]
    assert command == "wtours pretrain default --root 'my root'"
    for option in ("--json", "--quiet"):
        assert exit_code_of(monkeypatch, *words, option) == 0
        assert told(capsys) == []
    assert exit_code_of(monkeypatch, *words, "--video", "absent") == 2
    assert told(capsys) == []


def test_the_videos_are_named_again_and_a_set_on_a_store_by_its_url(capsys):
    note_next("report", manifest=Path("demo"), videos=["demo_day", "demo_cuts"])
    note_pretrain("walks", Path("s3://bucket/my root/"))
    note_next("shard", root=Path("s3://bucket/walks"))
    with none_said():
        note_next("shard")
    assert told(capsys) == [
        "wtours report --manifest demo --video demo_day --video demo_cuts",
        "wtours pretrain 's3://bucket/my root/shards/walks'",
        "wtours shard --root s3://bucket/walks",
    ]
