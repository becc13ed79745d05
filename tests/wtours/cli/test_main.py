"""The command line as a user meets it: exit codes, one-line errors, help."""

import html
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from tests.support.analyze_cases import write_scenes
from tests.support.command_line import SCRIPT, run_here, wtours
from tests.support.shard_set import write_shard_set
from training.config.presets import ABOUT, PRESETS, resolve_config
from wtours import __version__
from wtours.cli import console
from wtours.cli.app import COMMANDS, app
from wtours.cli.train import default_run_name
from wtours.errors import UsageError
from wtours.workspace.layout import checked_name

pytestmark = pytest.mark.medium  # whole stages: left out of the inner loop

REPOSITORY = Path(__file__).resolve().parents[3]
NAMES = [
    [*(group.name for group in app.registered_groups if group.typer_instance is owner), name]
    for owner, _, name, *_ in COMMANDS
]


def test_the_built_in_manifest_is_listed_as_json_without_anything_else(tmp_path):
    result = wtours("list", "--json", "--root", tmp_path)
    assert result.returncode == 0, result.stderr
    states = json.loads(result.stdout)
    assert [state["id"] for state in states][:2] == ["amsterdam", "bangkok"]
    assert len(states) == 10


def test_the_root_comes_from_the_environment_too(tmp_path):
    result = wtours("list", WTOURS_ROOT=str(tmp_path / "elsewhere"))
    assert str(tmp_path / "elsewhere") in result.stdout.replace("\n", "")


@pytest.mark.parametrize("words", NAMES, ids=" ".join)
def test_every_command_has_help_with_an_example_that_shows_what_is_written(words):
    command: Any = typer.main.get_command(app)
    for word in words:
        command = command.commands[word]
    result = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert f"wtours {' '.join(words)}" in result.stdout.split("Usage:")[1].partition("\n")[2]
    texts = [command.help, *(getattr(parameter, "help", None) for parameter in command.params)]
    for bracketed in re.findall(r"\[[a-z]+\]", " ".join(filter(None, texts))):
        assert bracketed in result.stdout  # no part of a text is taken for markup
    assert {"--verbose", "--quiet"} <= {name for p in command.params for name in p.opts}


def test_the_help_names_panels_and_exit_codes_and_the_version_is_printed():
    text = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "120"}).stdout
    for panel in ("Data", "Shards", "Training", "Evaluation", "Tools"):
        assert f"─ {panel} ─" in text
    assert "3 finished, with a list of" in text
    assert CliRunner().invoke(app, ["--version"]).stdout == f"wtours {__version__}\n"


def test_a_shell_completes_a_command():
    environment = {
        "_WTOURS_COMPLETE": "complete_bash",
        "COMP_WORDS": "wtours est",
        "COMP_CWORD": "1",
    }
    assert wtours(**environment).stdout.split() == ["estimate"]


@pytest.mark.parametrize(
    ("words", "level"),
    [
        (("verify",), "lines"),
        (("verify", "-q"), "nothing"),
        (("--quiet", "verify"), "nothing"),
        (("verify", "-v"), "lines"),
        (("-v", "verify"), "lines"),
    ],
)
def test_without_a_terminal_lines_tell_the_progress_unless_it_is_quiet(tmp_path, words, level):
    write_shard_set(tmp_path / "shards" / "default")
    result = run_here(*words, "--root", tmp_path)
    assert result.returncode == 0
    assert "1 shard, 24 frames" in result.stdout
    done = re.findall(r"^verify \S+: (.+?)( of .+)?$", result.stderr, re.MULTILINE)
    assert bool(done) is (level == "lines"), result.stderr
    assert "\x1b" not in result.stderr


def test_without_a_terminal_a_stage_is_never_silent(monkeypatch, capsys):
    monkeypatch.setenv("WTOURS_PROGRESS_SECONDS", "0.01")
    with console.progress_bars("analyze", "percent"):  # its first segment takes minutes
        said = ""
        while "analyze: 0:00:00 so far\n" not in said:
            said += capsys.readouterr().err
    monkeypatch.setenv("WTOURS_PROGRESS_SECONDS", "often")
    with pytest.raises(UsageError, match="=often must be a number of seconds"):
        console.Lines()


def test_verbose_names_the_module_that_logs_and_video_has_no_short_name(tmp_path):
    quiet, verbose = (
        run_here("pretrain", "--video", "x", *words, "--root", tmp_path) for words in ([], ["-v"])
    )
    assert quiet.returncode == verbose.returncode == 2  # pretrain knows no --video
    assert run_here("list", "-v", "venice", "--root", tmp_path).returncode == 2


@pytest.mark.parametrize(
    "words", [("presets", "diff", "demo"), ("list", "--json"), ("list",), ("prepare", "--help")]
)
def test_a_reader_that_has_seen_enough_is_no_traceback(tmp_path, words):
    process = subprocess.Popen(
        [SCRIPT, *words, "--root", tmp_path] if words[0] == "list" else [SCRIPT, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()  # as `| head` does; Python is still starting
    with process.stderr:
        assert process.stderr.read() == ""
    assert process.wait() == 1


def on_terminal(*words: str, **environment: str) -> str:
    """Return what a command shows on a terminal: escape sequences and all."""
    return shown_on_terminal([SCRIPT, *words], environment)


def shown_on_terminal(command: list[str], environment: dict[str, str]) -> str:
    ours, its = os.openpty()
    try:
        process = subprocess.Popen(
            command, stdin=its, stdout=its, stderr=its, env=os.environ | environment
        )
        os.close(its)
        shown = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # Linux: the other side is closed
                break
            if not part:
                break
            shown += part
        assert process.wait() == 0, shown.decode()
    finally:
        os.close(ours)
    return shown.decode().replace("\r\n", "\n")


# Commands after each other, in one process: quicker by its imports.
EACH_ON_A_TERMINAL = """
import json, sys
import pytest
from tests.support.command_line import exit_code_of

for words in json.loads(sys.argv[1]):
    print("== next", flush=True)
    with pytest.MonkeyPatch.context() as patch:
        assert not exit_code_of(patch, *words)
"""


def each_on_terminal(
    commands: Sequence[Sequence[str]], environment: dict[str, str]
) -> Iterator[tuple[Sequence[str], str]]:
    """Yield each command, and what it shows on a terminal."""
    program = [sys.executable, "-c", EACH_ON_A_TERMINAL, json.dumps(commands)]
    shown = shown_on_terminal(program, {"PYTHONPATH": str(REPOSITORY), **environment})
    _, *of_each = shown.split("== next\n")
    return zip(commands, of_each, strict=True)


@pytest.fixture
def some_commands(tmp_path) -> list[tuple[str, ...]]:
    write_shard_set(tmp_path / "shards" / "default")
    root = ("--root", str(tmp_path))
    return [("list", *root), ("verify", *root), ("presets", "list"), ("shard", "--help")]


def test_a_terminal_without_color_gets_none(some_commands):
    plain = {"COLUMNS": "120", "TERM": "xterm-256color", "NO_COLOR": "1"}
    for words, without_color in each_on_terminal(some_commands, plain):
        assert without_color
        assert not re.search(r"\x1b\[[0-9;]*3[0-9]", without_color), words  # weight, but no color


@pytest.mark.parametrize("columns", [60, 120])
def test_a_dumb_terminal_of_any_width_gets_the_same_words(some_commands, tmp_path, columns):
    dumb = {"COLUMNS": str(columns), "TERM": "dumb"}
    shown: dict[str, str] = {}
    for words, on_dumb in each_on_terminal(some_commands, dumb):
        shown[words[0]] = on_dumb
        assert "\x1b" not in on_dumb, words
        if words[0] != "verify":
            lines = [line for line in on_dumb.splitlines() if str(tmp_path) not in line]
            assert max(map(len, lines)) <= columns
            assert not re.search(r"\w…", on_dumb), on_dumb
    for word in ("kuala_lumpur", "downloaded", "shard sets" if columns > 60 else "shard"):
        assert word in shown["list"]  # no word is broken apart


def test_on_a_narrow_terminal_a_row_is_a_list(tmp_path):
    narrow = on_terminal("list", "--root", str(tmp_path), COLUMNS="40", TERM="dumb")
    assert "kuala_lumpur\n  title: Kuala Lumpur\n  downloaded: no\n" in narrow


def test_ctrl_c_while_the_commands_are_imported_is_no_traceback(tmp_path):
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    result = wtours("list", PYTHONPATH=path)
    assert (result.returncode, result.stdout + result.stderr) == (130, "")


def test_a_closed_output_is_no_traceback(tmp_path):
    for words in ("list --json", "list", "--help"):
        command = f"'{SCRIPT}' {words} >&-"
        result = subprocess.run(
            ["sh", "-c", command], stderr=subprocess.PIPE, text=True, check=False, cwd=tmp_path
        )
        assert (result.returncode, result.stderr) == (0, ""), words


def test_a_folder_that_was_removed_under_the_shell_is_one_line(tmp_path):
    command = f"mkdir gone && cd gone && rmdir ../gone && exec '{SCRIPT}' list"
    result = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert result.returncode == 1
    assert result.stderr == "error: the current folder was removed; change to another one\n"


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_a_terminal_of_few_characters_shows_replacements(tmp_path, encoding):
    for words in (["--help"], ["list"]):
        command = [SCRIPT, *words, *(["--root", tmp_path] if words == ["list"] else [])]
        result = subprocess.run(
            command,
            capture_output=True,
            env={**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": "200"},
            check=False,
        )
        assert result.returncode == 0, result.stderr
        shown = result.stdout.decode(encoding)
        assert "download ? analyze ? report" in shown if words == ["--help"] else "venice" in shown


def test_an_error_of_the_operating_system_is_one_line_with_its_path(tmp_path):
    (tmp_path / "file").write_text("")
    for words in (["render", "--video", "demo_cuts"], ["report", "--manifest", "demo"]):
        result = run_here(*words, "--root", tmp_path / "file")
        assert result.returncode == 1
        assert result.stderr.startswith(f"error: {tmp_path / 'file'}"), result.stderr
        assert "a file where a folder should be" in result.stderr
        assert "Traceback" not in result.stderr


EACH = """
import json, sys
from tests.support.command_line import run_here

for words in json.loads(sys.argv[1]):
    ended = run_here(*words)
    print(json.dumps([ended.returncode, ended.stdout, ended.stderr]))
"""


def instead_of_torch(folder: Path, code: str) -> dict[str, str]:
    """Return an environment in which `import torch` runs this code."""
    (folder / "torch.py").write_text(code)
    path = (str(folder), str(REPOSITORY), os.environ.get("PYTHONPATH", ""))
    return {"PYTHONPATH": os.pathsep.join(path)}


def ends_of_each(commands: Sequence[Sequence[str]], environment: dict[str, str]) -> list[Any]:
    """Return the exit code of each command, and what it wrote to stdout and stderr."""
    result = subprocess.run(
        [sys.executable, "-c", EACH, json.dumps(commands)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_what_cannot_work_is_said_before_torch_is_imported(tmp_path):
    (tmp_path / "runs" / "run").mkdir(parents=True)
    messages = {
        ("pretrain", "--preset", "mine"): "unknown preset 'mine'",
        ("pretrain", "absent"): "absent is not a finished shard set",
        ("estimate", "absent"): "absent is not a finished shard set",
        ("visualize", "absent", "--video", "x"): "absent is not there",
        ("runs", "absent"): "absent is not there",
        ("runs",): "there are no runs yet",
        ("export", "absent"): "absent is not there",
        ("eval", "knn", "absent", "--train", "a", "--val", "b"): "absent is not there",
        ("eval", "knn", "a.pth", "--train", "a", "--val", "b"): "a.pth: no such file or folder",
        ("eval", "knn", "run", "--train", ".", "--val", "a.tar:val"): "a.tar:val: no such file",
        ("eval", "vos", "run", "--davis", "davis"): "davis: no such file or folder",
        ("import", "a.pth", "--run", "run"): "a.pth: no such file or folder; check the path",
        ("replay", "a.json"): "a.json is not there; give a run's nonfinite-step-N.json",
    }
    commands = [(*words, "--root", str(tmp_path)) for words in messages]
    environment = instead_of_torch(tmp_path, "raise SystemExit('torch was imported')")
    ends = ends_of_each(commands, environment)
    for (words, message), (code, _, errors) in zip(messages.items(), ends, strict=True):
        assert message in errors, words
        assert code in (1, 2), words


def test_what_is_started_is_said_before_torch_is_imported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in ("nonfinite-step-7.json", "dino.pth"):
        (tmp_path / file).touch()
    write_shard_set(tmp_path / "root" / "shards" / "walks")
    (tmp_path / "root" / "runs" / "run").mkdir(parents=True)
    root = ("--root", str(tmp_path / "root"))
    commands: list[tuple[str, ...]] = [
        ("pretrain", "walks", *root),
        ("estimate", "walks", *root),
        ("replay", "nonfinite-step-7.json", *root),
        ("rewind", "run", *root),
        ("export", "run", *root),
        ("import", "dino.pth", "--run", "dino", *root),
        ("visualize", "run", *root),
        ("eval", "knn", "run", "--train", ".", "--val", ".", *root),
    ]
    quiet = ("export", "run", "-q", *root)  # how it is said is one for all
    environment = instead_of_torch(tmp_path, "raise SystemExit")
    terminal = {"TERM": "xterm-256color", "COLUMNS": "100", **environment}
    *shown, (_, of_quiet) = each_on_terminal([*commands, quiet], terminal)
    assert of_quiet == ""
    *ends, (_, _, said_by_quiet) = ends_of_each([*commands, quiet], environment)
    assert said_by_quiet == ""
    for (words, on_a_terminal), (_, out, errors) in zip(shown, ends, strict=True):
        assert "loading torch" in on_a_terminal, words
        assert re.fullmatch(rf"{words[0]} \S+: loading torch …\n", errors), words
        assert out == "", words  # a script may read JSON there


def test_another_module_named_training_is_one_line_and_not_found_by_the_console_script(tmp_path):
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "__init__.py").write_text("")
    words = ("presets", "diff", "demo", "--json")
    module = subprocess.run(
        [sys.executable, "-m", "wtours", *words],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert module.returncode == 1
    assert module.stderr.startswith(f"error: {tmp_path / 'training' / '__init__.py'} hides")
    assert module.stderr.count("\n") == 1
    script = subprocess.run(
        [SCRIPT, *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert script.returncode == 0, script.stderr
    assert "optim.lr" in json.loads(script.stdout)


def test_of_several_processes_the_first_prints_and_the_first_of_a_node_says_errors(tmp_path):
    ranks = {"first": ("0", "0"), "second": ("1", "1"), "other node": ("8", "0")}
    for name, (rank, local_rank) in ranks.items():
        place = {"RANK": rank, "LOCAL_RANK": local_rank, "PYTHONPATH": str(REPOSITORY)}
        commands = (
            ("list", "--json", "--root", str(tmp_path)),
            ("list", "--manifest", "absent.toml"),
        )
        (done, out, _), (failed, _, errors) = ends_of_each(commands, place)
        assert (done, failed) == (0, 2)
        assert bool(out) is (name == "first")
        assert bool(errors) is (name != "second")


def test_presets_are_listed_and_one_is_shown_as_yaml_that_gives_it_again(tmp_path):
    listed = json.loads(CliRunner().invoke(app, ["presets", "list", "--json"]).stdout)
    assert listed.keys() == PRESETS.keys() == ABOUT.keys()
    assert listed["official"]["fields"] == 0 < listed["demo"]["fields"]
    shown = CliRunner().invoke(app, ["presets", "show", "demo", "--set", "optim.steps=7"]).stdout
    old = CliRunner().invoke(
        app, ["pretrain", "--preset", "demo", "--set", "optim.steps=7", "--print-config"]
    )
    assert old.stdout == shown
    (tmp_path / "config.yaml").write_text(shown)
    given = resolve_config("official", tmp_path / "config.yaml", [])
    assert given == resolve_config("demo", None, ["optim.steps=7"])


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (["download", "--video", "venise"], 2, "no video 'venise' in manifest walking_tours"),
        (["list", "--manifest", "absent.toml"], 2, "cannot read manifest absent.toml"),
        (["shard", "--speed", "9"], 2, "No such option"),
        (["shard", "--quality", "0"], 2, "error: --quality (0) must be 1 to 100"),
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
    result = run_here(*arguments, "--root", tmp_path / "root")
    assert result.returncode == exit_code, result.stderr
    assert message in result.stderr.replace("\n", " ")
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.rglob("*.tar"))


@pytest.mark.parametrize("said", [{}, {"OMP_WAIT_POLICY": "active"}])
def test_threads_of_torch_leave_the_cores_to_others_unless_it_is_said(tmp_path, said):
    result = wtours("doctor", "--root", tmp_path, OMP_DISPLAY_ENV="true", **said)
    policy = re.search("OMP_WAIT_POLICY = '(.*)'", result.stderr)
    assert policy is not None
    assert policy[1] == said.get("OMP_WAIT_POLICY", "passive").upper()


def test_what_the_report_says_to_run_works_when_it_is_pasted(tmp_path):
    write_scenes(tmp_path / "walk.mp4", seconds=(1, 1), size="96x64")
    manifest, root = tmp_path / "my walks.toml", tmp_path / "my root"
    manifest.write_text(
        'format = 1\nname = "m"\n'
        'video = [{id = "walk", title = "W", sources = ["file:walk.mp4"]}]\n'
    )
    for command in ("download", "analyze"):
        result = run_here("report", "-m", manifest, "--root", root)
        assert result.returncode == 3
        assert f"run `wtours {command} --manifest '{manifest}' " in result.stderr
        page = html.unescape((root / "reports" / "report.html").read_text())
        (remedy,) = re.findall(r"W is not measured: run <code>wtours (.+?)</code>", page)
        assert remedy.startswith(f"{command} --manifest '{manifest}' ")
        result = run_here(*shlex.split(remedy))
        assert result.returncode == 0, result.stderr
    assert run_here("report", "-m", manifest, "--root", root).returncode == 0
    assert "is not measured: run" not in (root / "reports" / "report.html").read_text()


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
