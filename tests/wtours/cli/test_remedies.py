"""After every list of failures one line says what to do, and "rerun" only where that helps."""

import re

import pytest
import typer

from tests.support.command_line import exit_code_of
from tests.support.shard_set import write_shard_set
from training.reproduce.plan import Step
from training.reproduce.progress import StepState
from wtours.cli.evaluation.reproduce import _finish
from wtours.text import counted

FIX = "fix what is named above and rerun the command"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a broken file, a damaged shard set and a run without a step."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    directory = write_shard_set(tmp_path / "data" / "shards" / "walks")
    (tar,) = directory.glob("*.tar")
    tar.write_bytes(tar.read_bytes()[:-512])
    (tmp_path / "data" / "runs" / "begun").mkdir(parents=True)
    (tmp_path / "data" / "runs" / "begun" / "config.yaml").write_text("seed: 0\n")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "count", "remedy"),
    [
        ("download --video venice --from-dir .", "1 could not be downloaded", FIX),
        (
            "download --video venice --from-dir . --dry-run",
            "1 could not be downloaded",
            "fix what is named above; the others can be downloaded now",
        ),
        ("add broken.mp4", "1 could not be added", FIX),
        ("analyze --video venice", "1 not (fully) analyzed", FIX),
        ("shard --video venice --shards new", "1 not sharded", FIX),
        ("prepare --video venice --from-dir . --shards new", "1 not (fully) prepared", FIX),
        (
            "verify walks",
            "1 damaged",
            "`wtours verify walks --repair` rebuilds them from the downloaded videos",
        ),
        ("verify walks --repair", "1 damaged", FIX),
        (
            "verify --all",
            "1 damaged",
            "`wtours verify NAME --repair` rebuilds shards; remove the rest, and rerun the "
            "commands that made it",
        ),
        ("runs", "1 shown in part", "the rest of the page is whole; it shows what it can"),
    ],
)
def test_the_last_line_says_what_to_do(here, monkeypatch, capsys, words, count, remedy):
    assert exit_code_of(monkeypatch, *words.split(), "--quiet") == 3
    *listed, last = capsys.readouterr().err.splitlines()
    assert last == f"{count}: {remedy}"
    assert [line for line in listed if line.startswith("error: ")], listed


def test_a_plan_with_failed_steps_says_it_too(capsys):
    step = Step("dora", ("pretrain",), run="dora")
    lacking = Step("dora: knn", ("eval", "knn"), lacks=("--imagenet DIR",), run="dora")
    with pytest.raises(typer.Exit) as end:
        _finish(
            [StepState(step, "failed", "ended with code 1"), StepState(lacking, "lacks", "")],
            as_json=False,
        )
    assert end.value.exit_code == 3
    err = capsys.readouterr().err.splitlines()
    assert err[0] == "error: dora: ended with code 1"
    assert re.fullmatch(r"1 step failed, 1 lack something: .* rerun the command", err[-1])


def test_a_doctor_with_problems_says_it_too(here, monkeypatch, capsys):
    assert exit_code_of(monkeypatch, "doctor", "--root", "broken.mp4") == 1
    captured = capsys.readouterr()
    problems = [line for line in captured.out.splitlines() if line.startswith("problem")]
    assert problems
    assert all("; " in line for line in problems)
    assert captured.err.splitlines()[-1] == (
        f"{counted(len(problems), 'problem')}: do what their lines say and rerun the command"
    )


@pytest.mark.parametrize(
    "words",
    [
        "shards split",
        "shards card",
        "lock",
    ],
)
def test_what_works_on_a_disk_alone_says_so_of_a_url(here, monkeypatch, capsys, words):
    assert exit_code_of(monkeypatch, *words.split(), "s3://bucket/walks") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: s3://bucket/walks is on an object store, and this works on a")


@pytest.mark.parametrize("words", ["analyze", "shard", "report", "shard --root other"])
def test_where_no_video_was_ever_brought_two_commands_that_bring_one_are_named(
    tmp_path, monkeypatch, capsys, words
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WTOURS_MANIFEST", raising=False)
    assert exit_code_of(monkeypatch, *words.split(), "--quiet") == 3
    root = " --root other" if "other" in words else ""
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .endswith(
            f": `wtours download{root}` fetches the Walking Tours, `wtours add PATH{root}` takes "
            f"videos of your own"
        )
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("verify --all --root other", "nothing was made yet under other: check --root"),
        ("pin", "wtours.toml is not there; `wtours add` makes one"),
    ],
)
def test_where_there_is_nothing_to_work_on_is_an_error(here, monkeypatch, capsys, words, said):
    assert exit_code_of(monkeypatch, *words.split()) in (1, 2)
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {said}"


@pytest.mark.parametrize(
    ("words", "known"),
    [
        ("eval knn wlak --train a --val b", "runs beside it: walk"),
        ("eval table wlak", "runs beside it: walk"),
        ("visualize wlak --video x", "runs beside it: walk"),
        ("rewind data/runs/wlak", "runs beside it: walk"),
        ("export wlak", "runs beside it: walk"),
        ("runs wlak", "runs beside it: walk"),
        ("replay data/runs/walk/nonfinite-step-8.json", "beside it: nonfinite-step-7.json"),
        ("estimate wlaks", "beside it: walks"),
        ("pretrain wlaks", "beside it: walks"),
        ("verify wlaks", "beside it: walks"),
        ("layer list --shards wlaks", "beside it: walks"),
        ("shards missing wlaks", "beside it: walks"),
        ("shards split data/shards/wlaks", "beside it: walks"),
    ],
)
def test_a_name_that_is_not_there_is_answered_with_those_that_are(
    here, monkeypatch, capsys, words, known
):
    run = here / "data" / "runs" / "walk"
    (run / "checkpoints").mkdir(parents=True)
    (run / "nonfinite-step-7.json").write_text("{}")
    assert exit_code_of(monkeypatch, *words.split()) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert known in line


@pytest.mark.parametrize(
    ("words", "option"),
    [
        ("shards export walks --to imagefolder --out file/there", "--out"),
        ("render --root file", "--root"),
        ("lock walks --out file/there.json", "--out"),
        ("copy walks file/there", "NAME|DIR|URL"),
    ],
)
def test_a_place_that_cannot_be_written_is_called_as_it_was_given(
    tmp_path, monkeypatch, capsys, words, option
):
    monkeypatch.chdir(tmp_path)
    write_shard_set(tmp_path / "data" / "shards" / "walks")
    (tmp_path / "file").write_bytes(b"")
    assert exit_code_of(monkeypatch, *words.split(), "--quiet") == 1
    assert f"choose another {option}" in capsys.readouterr().err
