"""The command line as a user meets it: exit codes, one-line errors, help."""

import html
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.analyze_cases import write_scenes
from wtours.cli.app import app
from wtours.cli.train import default_run_name
from wtours.workspace.layout import checked_name

pytestmark = pytest.mark.medium  # whole stages: left out of the inner loop

COMMANDS = [
    command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands
]


def wtours(*args: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "wtours", *map(str, args)],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "100", "TERM": "dumb", **environment},
        check=False,
    )


def test_the_built_in_manifest_is_listed_as_json_without_anything_else(tmp_path):
    result = wtours("list", "--json", "--root", tmp_path)
    assert result.returncode == 0, result.stderr
    states = json.loads(result.stdout)
    assert [state["id"] for state in states][:2] == ["amsterdam", "bangkok"]
    assert len(states) == 10


def test_the_root_comes_from_the_environment_too(tmp_path):
    result = wtours("list", WTOURS_ROOT=str(tmp_path / "elsewhere"))
    assert str(tmp_path / "elsewhere") in result.stdout.replace("\n", "")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name):
    result = wtours(name, "--help")
    assert result.returncode == 0
    assert f"wtours {name}" in result.stdout or name == "demo"


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (["download", "--video", "venise"], 2, "no video 'venise' in manifest walking_tours"),
        (["list", "--manifest", "absent.toml"], 2, "cannot read manifest absent.toml"),
        (["shard", "--speed", "9"], 2, "No such option"),
        (["shard", "--quality", "0"], 2, "quality (0) must be 1 to 100"),
        (["pretrain", "--set", "optim.lrr=1"], 2, "unknown config key 'optim.lrr'"),
        (["pretrain", "--preset", "mine"], 2, "unknown preset 'mine'"),
        (["verify", "absent"], 1, "absent"),
        (["pretrain", "absent"], 1, "absent"),
        (["analyze", "--detector", "magic:1"], 2, "magic"),
        (["analyze", "--from-dir", ".", "--video", "venice"], 2, "no --manifest, no --video"),
        (["analyze", "--video", "venice"], 3, "wtours download --video venice"),
        (["eval", "knn", "absent", "--train", "a", "--val", "b"], 1, "absent"),
    ],
)
@pytest.mark.medium
def test_an_error_is_one_line_with_the_right_exit_code(tmp_path, arguments, exit_code, message):
    result = wtours(*arguments, "--root", tmp_path / "root")
    assert result.returncode == exit_code, result.stderr
    assert message in result.stderr.replace("\n", " ")
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.rglob("*.tar"))


def test_what_the_report_says_to_run_works_when_it_is_pasted(tmp_path):
    write_scenes(tmp_path / "walk.mp4", seconds=(1, 1), size="96x64")
    manifest, root = tmp_path / "my walks.toml", tmp_path / "my root"
    manifest.write_text(
        'format = 1\nname = "m"\n'
        'video = [{id = "walk", title = "W", sources = ["file:walk.mp4"]}]\n'
    )
    for command in ("download", "analyze"):
        assert wtours("report", "-m", manifest, "--root", root).returncode == 0
        page = html.unescape((root / "reports" / "report.html").read_text())
        (remedy,) = re.findall(r"walk is not measured: run `wtours (.+?)`", page)
        assert remedy.startswith(f"{command} --manifest '{manifest}' ")
        result = wtours(*shlex.split(remedy))
        assert result.returncode == 0, result.stderr
    assert wtours("report", "-m", manifest, "--root", root).returncode == 0
    assert "walk is not measured" not in (root / "reports" / "report.html").read_text()


@pytest.mark.parametrize(
    ("shards", "expected"),
    [
        ("venice_30", "venice_30"),
        ("sets/venice.v2.1", "venice-v2-1"),
        ("photos.tar", "photos"),
        ("/data/photos.2024.tar", "photos-2024"),
        ("my walks/", "my-walks"),
    ],
)
def test_a_run_is_named_as_all_of_its_shard_set(shards, expected):
    assert default_run_name(shards) == expected
    assert checked_name(expected, "run") == expected
