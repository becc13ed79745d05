"""What a shell offers where a name stands: videos, shard sets, runs, layers, presets."""

import os

import pytest
import typer
from typer.testing import CliRunner

from wtours.cli.app import app

ENTRY = '[[video]]\nid = "{}"\ntitle = "Walk"\nsources = ["file:walk.mp4"]\n'


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with two walks in its manifest, two shard sets, a layer and a run."""
    monkeypatch.chdir(tmp_path)
    for name in ("WTOURS_MANIFEST", "WTOURS_ROOT"):
        monkeypatch.delenv(name, raising=False)
    entries = "\n".join(map(ENTRY.format, ("oslo_1", "oslo_2")))
    (tmp_path / "wtours.toml").write_text(f'format = 1\nname = "own"\n{entries}')
    for folder in ("shards/walks_30/layers/flow", "shards/begun", "shards/.hidden", "runs/first"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    (tmp_path / "elsewhere" / "runs" / "second").mkdir(parents=True)
    return tmp_path


def offered(words: str) -> list[str]:
    """Return what bash is offered after TAB, behind these words."""
    environment = {
        "_WTOURS_COMPLETE": "complete_bash",
        "COMP_WORDS": f"wtours {words}",
        "COMP_CWORD": str(len(words.split(" "))),
    }
    result = CliRunner().invoke(app, [], prog_name="wtours", env=environment)
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout.split()


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("shard --video ", ["oslo_1", "oslo_2"]),
        ("analyze --video oslo_1 --video oslo_2", ["oslo_2"]),
        ("list --manifest demo ", []),
        ("download --manifest demo --video demo_d", ["demo_day"]),
        ("download --manifest nowhere.toml --video ", []),
        ("shards info w", ["walks_30"]),
        ("shards missing ", ["begun", "walks_30"]),
        ("attest walks_30 b", ["begun"]),
        ("verify --root s3://bucket/walks ", []),
        ("visualize ", ["first"]),
        ("eval table first --root elsewhere ", ["second"]),
        ("layer drop --shards walks_30 ", ["flow"]),
        ("layer drop ", []),
        ("presets show sim", ["simclr"]),
    ],
)
def test_names_that_are_there_are_offered(here, words, names):
    assert offered(words) == names


def test_from_below_the_walks_of_the_folder_above_are_offered(here):
    (here / "footage").mkdir()
    os.chdir(here / "footage")
    assert offered("shard --video oslo_2") == ["oslo_2"]
    assert offered("export ") == ["first"]


def test_wherever_a_set_a_run_a_layer_or_a_video_is_named_names_are_offered(here):
    (here / "data" / "shards" / "default" / "layers" / "flow").mkdir(parents=True)
    tree = [("", typer.main.get_command(app))]
    for name, command in tree:
        tree += [(f"{name} {word}", sub) for word, sub in getattr(command, "commands", {}).items()]
        for parameter in command.params:
            is_named = parameter.metavar in ("RUN", "BACKBONE", "LAYER")
            if is_named or {"--video", "--shards", "--preset"} & {*parameter.opts}:
                with command.make_context(name, [], resilient_parsing=True) as context:
                    assert parameter.shell_complete(context, ""), f"{name} {parameter.name}"
