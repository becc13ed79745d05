"""What commands report: JSON for scripts, few lines for people, said at the right time."""

import json
from pathlib import Path

import pytest
import typer

from tests.support.analyze_cases import write_scenes
from tests.support.command_line import exit_code_of
from tests.support.shard_set import write_shard_set
from wtours.cli import console
from wtours.cli.app import COMMANDS
from wtours.cli.command import as_command
from wtours.cli.options import finish
from wtours.text import DOCS, docs_page, rate_text

WITHOUT_JSON = {"demo"}
"""Its steps are commands, which have it."""


def test_every_command_that_reports_has_json():
    for _, _, name, function, _ in COMMANDS:
        app = typer.Typer(add_completion=False)
        app.command()(as_command(function))
        options = {name for p in typer.main.get_command(app).params for name in p.opts}
        assert "--json" in options or name in WITHOUT_JSON, name


def test_many_failures_of_one_reason_are_one_line(capsys):
    failed = {name: f"{name} is not there: run `get --video {name}`" for name in "abcde"}
    with pytest.raises(typer.Exit) as end:
        finish({**failed, "walk": "cut in the middle", "a.mp4": "a.mp4 is no video"}, "not done")
    assert end.value.exit_code == 3
    assert capsys.readouterr().err.splitlines() == [
        "error: a, b, c and 2 more: VIDEO is not there: run `get --video VIDEO`",
        "error: walk: cut in the middle",
        "error: a.mp4 is no video",
        "7 not done: fix what is named above and rerun the command",
    ]


def test_a_narrow_table_breaks_a_long_text_and_no_number_from_its_unit(capsys, monkeypatch):
    row = ("vid_20260511_143022", "11.8 MB", "a long text " * 9, "")
    columns = ("video", "bytes", "what", "left out")
    monkeypatch.setattr(console.out, "_width", 80)
    console.print_table("T", columns, [row])
    shown = capsys.readouterr().out
    assert "│ 11.8 MB │" in shown
    assert "left out" not in shown
    monkeypatch.setattr(console.out, "_width", 30)
    console.print_table("T", columns, [row])
    assert "left out" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rate", "text"),
    [("15/1", "15 frames/s"), ("60000/1001", "59.94 frames/s"), ("30", "30 frames/s")],
)
def test_a_rate_is_a_number_for_people(rate, text):
    assert rate_text(rate) == text


def test_help_names_the_documentation_of_the_projects_metadata():
    repository = Path(__file__).parents[3]
    assert f'Documentation = "{DOCS}"' in (repository / "pyproject.toml").read_text()
    for page in ("reference/tables", "reference/evaluation", "howto/detectors"):
        assert (repository / "docs" / f"{page}.md").is_file()
        assert docs_page(page).startswith(DOCS)


@pytest.mark.medium
def test_own_videos_are_reported_without_the_paper_and_nothing_measured_is_said(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    write_scenes(tmp_path / "walk.mp4", seconds=(1, 1), size="96x64")
    exit_code_of(monkeypatch, "add", "walk.mp4")
    capsys.readouterr()
    assert exit_code_of(monkeypatch, "report", "-q") == 3
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "error: nothing is measured of 1 video: run `wtours analyze`\n"

    exit_code_of(monkeypatch, "analyze", "--json", "-q")
    assert json.loads(capsys.readouterr().out)["done"] == ["walk"]
    assert exit_code_of(monkeypatch, "report", "-q") == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("Summary\n")
    assert "#objects" not in shown.out  # no empty column
    assert shown.out.endswith(f"{(tmp_path / 'data/reports/report.html').as_uri()}\n")
    text = (tmp_path / "data/reports/table6.md").read_text()
    assert "paper" not in text.lower()
    assert "Table 6" not in text
    exit_code_of(monkeypatch, "report", "--json", "-q")
    content = json.loads(capsys.readouterr().out)
    assert content["videos"][0]["measured"]["cuts"] == 1
    assert any(path.endswith("report.html") for path in content["files"])

    # Sharding says at once what training would meet: 2 s give no clip of 8 frames, 1 s apart.
    exit_code_of(monkeypatch, "shard", "--json")
    shown = capsys.readouterr()
    assert json.loads(shown.out)["videos"] == ["walk"]
    exit_code_of(monkeypatch, "shard")
    shown = capsys.readouterr()
    assert "no clip of 8 frames 1 s apart in walk" in shown.err
    assert "next: " not in shown.err  # nothing to train on


@pytest.mark.medium
def test_clips_across_cuts_that_nothing_looked_for_are_said_when_sharded(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    write_scenes(tmp_path / "walk.mp4", seconds=(1, 1), size="96x64")
    exit_code_of(monkeypatch, "add", "walk.mp4")
    exit_code_of(monkeypatch, "shard")
    assert "clips go across the cuts of walk" in capsys.readouterr().err


def test_a_table_without_anything_measured_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "runs" / "walk").mkdir(parents=True)
    assert exit_code_of(monkeypatch, "eval", "table", "walk", "--root", tmp_path) == 3
    shown = capsys.readouterr()
    assert shown.out == ""
    said = (
        f"error: nothing is measured of walk: run `wtours eval knn walk --root {tmp_path} --train"
    )
    assert shown.err.startswith(said)
    assert exit_code_of(monkeypatch, "eval", "table", "walk", "--json", "--root", tmp_path) == 3
    shown = capsys.readouterr()
    assert all(each["measured"] for each in json.loads(shown.out))  # a row of nulls
    assert shown.err.startswith(said)


def test_too_little_gpu_memory_and_no_amount_are_one_line(tmp_path, monkeypatch, capsys):
    write_shard_set(tmp_path / "shards" / "default")
    words = ("pretrain", "--root", tmp_path, "--preset", "demo", "--gpu-memory")
    assert exit_code_of(monkeypatch, *words, "lots") == 2
    assert "--gpu-memory 'lots': write for example 24GB" in capsys.readouterr().err
