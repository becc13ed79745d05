"""Options and help: one spelling for one idea, values with names, whole words at any width."""

import dataclasses
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.text import Text
from typer.testing import CliRunner

from tests.support.shard_set import write_shard_set
from tests.support.sharded_videos import publish_video
from tests.support.video_clips import write_clip
from training.config.presets import resolve_config
from wtours.cli.app import COMMANDS, app
from wtours.cli.command import OLD_SPELLINGS, OLD_VALUES
from wtours.cli.train import _note_next
from wtours.errors import UsageError
from wtours.sharding.build import build_shards
from wtours.shards.params import OPTIONS, ShardParams, in_words
from wtours.text import docs_page
from wtours.workspace.layout import Layout

SPELLINGS = {
    "--shards": ("--name", "--set-name", "--shard-set", "--dataset"),
    "--run": ("--run-dir", "--run-name", "--workdir"),
    "--out": (
        "--output",
        "--output-dir",
        "--out-dir",
        "--dest",
        "--pictures",
        "--masks",
        "--to-dir",
    ),
    "--from-dir": ("--source-dir", "--input", "--input-dir", "--videos-dir"),
    "--video": ("--videos", "--video-id", "--only"),
    "--manifest": ("--manifest-file", "--list"),
    "--root": ("--data-dir", "--workspace", "--root-dir"),
    "--jobs": ("--num-jobs", "--processes-per-node", "--threads", "--num-workers"),
    "--json": ("--as-json", "--format"),
    "--fps": ("--frame-rate", "--rate"),
    "--seed": ("--random-seed",),
}
"""The one spelling of an idea, and others that people give it."""
KINDS = {"FILE", "DIR", "PATH", "URL", "NAME", "TAR"}
"""Where a value of a kind may stand for another, an option's metavar may differ by command."""


def commands(command: Any, name: str = "wtours") -> Iterator[tuple[str, Any]]:
    yield name, command
    for word, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, f"{name} {word}")


TREE = dict(commands(typer.main.get_command(app)))


def options(command: Any) -> list[Any]:
    return [p for p in command.params if p.param_type_name == "option" and not p.hidden]


def test_one_idea_has_one_spelling():
    wrong = {other: name for name, others in SPELLINGS.items() for other in others}
    metavars: dict[str, set[str]] = {}
    for name, command in TREE.items():
        for option in options(command):
            for spelling in option.opts:
                assert spelling not in wrong, f"{name} {spelling} is {wrong[spelling]} elsewhere"
                assert spelling not in OLD_SPELLINGS, f"{name} {spelling} is an old spelling"
            long = max(option.opts, key=len)
            words = set((option.metavar or "").split("|"))
            metavars.setdefault(long, set()).add("kind" if words <= KINDS else option.metavar or "")
    assert {name: found for name, found in metavars.items() if len(found) > 1} == {}


def test_every_value_has_a_name_for_people():
    for name, command in TREE.items():
        for parameter in command.params:
            if not (getattr(parameter, "is_flag", False) or getattr(parameter, "hidden", False)):
                metavar = parameter.metavar
                assert metavar, f"{name}: {parameter.name}"
                assert metavar not in ("TEXT", "STR", "PATH") or parameter.name == "out", name
                assert len(metavar) <= 12, f"{name}: {metavar} leaves no room for the help"


@pytest.mark.parametrize(
    ("words", "old", "new"),
    [
        ("shard", ["--name", "x"], ["--shards", "x"]),
        ("shard", ["--name=x"], ["--shards=x"]),
        ("prepare", ["-n", "x", "--video", "a"], ["--shards", "x", "--video", "a"]),
        ("prepare", ["-nx"], ["--shards", "x"]),
        ("sync", ["a.lock", "-n", "x"], ["a.lock", "--shards", "x"]),
        ("eval discover", ["r", "--voc", "v", "--pictures", "p"], ["r", "--voc", "v", "-o", "p"]),
        ("eval vos", ["r", "--davis", "d", "--masks", "m"], ["r", "--davis", "d", "-o", "m"]),
        ("shards overlap", ["a", "b", "--every", "2"], ["a", "b", "--every-seconds", "2"]),
        *(
            ("visualize", ["r", "--video", "v", *old], ["r", "--video", "v", *new])
            for old, new in (
                (["--palette", "colourblind"], ["--palette", "colorblind"]),
                (["--palette=colourblind"], ["--palette=colorblind"]),
            )
        ),
    ],
)
def test_old_spellings_mean_the_same_and_are_shown_nowhere(words, old, new):
    command = TREE[f"wtours {words}"]
    with command.make_context("x", list(old)) as first, command.make_context("x", new) as second:
        assert first.params == second.params
    shown = CliRunner().invoke(app, [*words.split(), "--help"], env={"COLUMNS": "120"}).stdout
    for word in set(old) & {*OLD_SPELLINGS, *(value for _, value in OLD_VALUES)}:
        assert not re.search(rf"{word}\b(?!-)", shown), shown


def test_a_value_that_is_none_of_those_is_said_plainly():
    shown = CliRunner().invoke(app, ["download", "--codec", "h265"], env={"COLUMNS": "120"})
    assert shown.exit_code == 2
    assert "Invalid value for '--codec': 'h265' is not one of 'h264', 'vp9'" in shown.output


def test_a_parameter_of_a_set_is_said_as_the_option_that_chooses_it():
    assert OPTIONS.keys() == {field.name for field in dataclasses.fields(ShardParams)}
    taken = {name for option in options(TREE["wtours shard"]) for name in option.opts}
    assert {name for text in OPTIONS.values() for name in text.split(" or ")} <= taken
    assert in_words("codec", None, "png") == "with --codec jpeg, not png"
    assert in_words("where", None, {"expression": "x"}) == "without --where"


def test_a_word_after_two_dashes_is_no_option():
    command = TREE["wtours add"]
    with command.make_context("add", ["--", "--name"]) as context:
        assert context.params["sources"] == ["--name"]


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("name", TREE)
def test_help_cuts_no_word_at_any_width(name, columns, monkeypatch, capsys):
    command, words = TREE[name], name.split()[1:]
    monkeypatch.setenv("COLUMNS", str(columns))
    app([*words, "--help"], standalone_mode=False)
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= columns
    assert not re.search(r"<\w+>", text)
    shown = re.sub(r"[│╭╮╰╯─\s]+", " ", text)
    squeezed = shown.replace(" ", "")
    for parameter in command.params:
        if not getattr(parameter, "hidden", False):
            for word in (*parameter.opts, parameter.metavar or ""):
                assert word in shown or word == parameter.name, (word, text)
            for word in Text.from_markup(parameter.help or "").plain.split():
                assert word in squeezed, (word, text)


def test_a_page_that_says_more_is_named_and_is_there():
    docs = Path(__file__).parents[3] / "docs"
    for *_, page in COMMANDS:
        assert (docs / f"{page}.md").is_file(), page
    shown = CliRunner().invoke(app, ["eval", "knn", "-h"], env={"COLUMNS": "120"}).stdout
    assert docs_page("reference/evaluation") in shown


def test_after_training_the_video_to_look_at_is_one_that_has_clips(tmp_path, capsys):
    layout = Layout(tmp_path / "root")
    for video_id, seconds in (("bikes", 3), ("campus", 9)):
        source = "testsrc2=size=96x64:rate=5"
        publish_video(
            layout, video_id, write_clip(tmp_path / f"{video_id}.mp4", source=source, t=seconds)
        )
    params = ShardParams(frames_per_second="5", shard_seconds=5)
    build_shards(layout, ["bikes", "campus"], params=params)
    place, config = layout.shards_dir("default"), resolve_config("demo", None, [])
    _note_next(tmp_path / "run", "default", place, layout.root, config)
    assert "--video campus" in capsys.readouterr().err


def test_after_training_the_next_commands_are_ones_to_copy(tmp_path, capsys):
    place = write_shard_set(tmp_path / "shards" / "walks", videos=("oslo",))
    config = resolve_config("demo", None, [])
    _note_next(tmp_path / "runs" / "first", "walks", place, tmp_path, config)
    _note_next(Path("elsewhere/first"), "default", place, Path("data"), config)
    lines = capsys.readouterr().err.splitlines()
    written = [shlex.split(line)[2:] for line in lines if line.startswith("next: wtours ")]
    assert [words[0] for words in written] == ["runs", "visualize", "export"] * 2
    for name, *words in written:
        with TREE[f"wtours {name}"].make_context(name, list(words)) as context:
            assert context.params["root"] == (tmp_path if "--root" in words else Path("data"))
            if name == "visualize":
                assert context.params["video"] == "oslo"
                assert context.params["run"] in ("first", "elsewhere/first")
    assert lines[-1].endswith(docs_page("howto/measure"))
    assert (Path(__file__).parents[3] / "docs/howto/measure.md").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "shards export set --to hf --clip-seconds 4",
            "--clip-seconds: without effect with --to hf",
        ),
        (
            "shards export set --by-split --clip-seconds 4",
            "--clip-seconds: without effect with --by-split",
        ),
        (
            "layer make boxes --shards set --from detections --interval 2 --allow-missing",
            "--interval, --allow-missing: without effect with --from detections",
        ),
        (
            "layer make flow --shards set --from flow --max-gap 9",
            "--max-gap: without effect with --from flow",
        ),
        (
            "layer make gps --shards set --from external:walk.gpx --short-side 128",
            "--short-side: without effect with --from external:walk.gpx",
        ),
        ("eval segment run --data x --steps 9", "--steps: without effect with frozen probes"),
        ("rewind run --rank --clips 2", "--rank, --clips: without effect with the largest spikes"),
        (
            "layer verify flow --shards set --from flow",
            "--from: without effect with a check alone (no --repair)",
        ),
        ("analyze --detect-fps 2", "--detect-fps: without effect with --detector none"),
        ("prepare --detect-fps 2", "--detect-fps: without effect with --detector none"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(words, said, tmp_path, monkeypatch):
    write_shard_set(tmp_path / "set", num_frames=2)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=re.escape(said)):
        app(words.split(), standalone_mode=False)
