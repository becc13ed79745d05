"""Own walks on the command line: added by their names, and found without typing the manifest."""

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.support.command_line import exit_code_of
from tests.support.video_clips import write_clip
from wtours.acquire.own_walks import OwnWalk
from wtours.workspace.manifest import load_manifest


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("clips")
    for number, color in enumerate(("red", "blue")):
        source = f"color={color}:size=64x48:rate=10:duration=2"
        write_clip(folder / f"{number}.mp4", source=source, filters="noise=alls=20:allf=t")
    return folder


@pytest.fixture
def here(clips: Path, tmp_path: Path, monkeypatch) -> Path:
    """Return the current folder, with footage: two walks of one name, and a file that is none."""
    (tmp_path / "footage" / "day 2").mkdir(parents=True)
    shutil.copy(clips / "0.mp4", tmp_path / "footage" / "Città (1).mp4")
    shutil.copy(clips / "1.mp4", tmp_path / "footage" / "day 2" / "Città (1).mp4")
    (tmp_path / "footage" / "notes.txt").write_text("")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WTOURS_MANIFEST", raising=False)
    return tmp_path


def test_a_folder_is_added_with_unique_ids_of_the_names_and_one_bad_file_stops_nothing(
    here, monkeypatch, capsys
):
    assert exit_code_of(monkeypatch, "add", "footage", "broken.mp4") == 3
    shown = capsys.readouterr()
    assert "2 of 3 in wtours.toml" in shown.out
    assert "10 frames/s" in shown.out
    assert "error: broken.mp4 cannot be opened as video (" in shown.err
    assert "next: wtours analyze\n" in shown.err
    entries = load_manifest(here / "wtours.toml").videos
    assert [entry.id for entry in entries] == ["citta_1", "citta_1_2"]
    before = (here / "wtours.toml").read_bytes()

    # The same folder again, and a copy of one of the files: nothing is added twice.
    shutil.copy("footage/Città (1).mp4", "copy.mp4")
    assert exit_code_of(monkeypatch, "add", "footage", "copy.mp4", ".", "--json") == 3
    rows = json.loads(capsys.readouterr().out)
    assert [(row.get("id"), row.get("is_new")) for row in rows] == [
        ("citta_1", False),
        ("citta_1_2", False),
        ("citta_1", False),
        (None, None),
    ]
    assert "problem" in rows[-1]
    assert (here / "wtours.toml").read_bytes() == before  # "." left out what lies under the root


def test_a_name_that_no_manifest_can_hold_costs_one_file(here, monkeypatch, capsys):
    source = "color=green:size=64x48:rate=10:duration=2"
    write_clip(here / "footage" / r"a\b.mp4", source=source, filters="noise=alls=20:allf=t")
    assert exit_code_of(monkeypatch, "add", "footage") == 3
    assert r"no manifest can name a\b.mp4" in capsys.readouterr().err
    assert len(load_manifest(here / "wtours.toml").videos) == 2


def test_a_walk_whose_entry_states_no_more_than_it_must_is_shown_too(here, monkeypatch, capsys):
    source = "footage/Città (1).mp4"
    entry = f'[[video]]\nid = "mine"\ntitle = "Mine"\nsources = ["file:{source}"]\n'
    (here / "wtours.toml").write_text(f'format = 1\nname = "own"\n{entry}')
    assert exit_code_of(monkeypatch, "download") == 0
    capsys.readouterr()
    assert exit_code_of(monkeypatch, "add", source) == 0
    shown = capsys.readouterr().out
    assert "there already" in shown
    assert "64x48" in shown


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["footage", "--id", "walk"], "--id and --title are of one walk; 2 are given"),
        (["footage/notes.txt"], "error: notes.txt cannot be opened as video ("),
        (["absent.mp4"], "is no file or folder"),
        (["http://[::1/x.mp4"], "error: 'http://[::1/x.mp4' is no URL: Invalid IPv6 URL"),
        (["--join", "broken.mp4"], "--join takes two or more files"),
        (["broken.mp4", "--manifest", "demo"], "comes with wtours"),
    ],
)
def test_what_cannot_be_added_is_one_line_and_leaves_nothing(
    here, monkeypatch, capsys, words, problem
):
    assert exit_code_of(monkeypatch, "add", *words) in (2, 3)
    assert problem in capsys.readouterr().err
    assert not (here / "wtours.toml").exists()


def test_the_own_manifest_is_found_from_below_with_its_root_and_said(here, monkeypatch, capsys):
    exit_code_of(monkeypatch, "add", "footage/Città (1).mp4", "--id", "mine")
    capsys.readouterr()
    os.chdir("footage/day 2")
    exit_code_of(monkeypatch, "list", "--json")
    shown = capsys.readouterr()
    (state,) = json.loads(shown.out)
    assert (state["id"], state["download"]) == ("mine", "done")
    assert shown.err == f"manifest: {here / 'wtours.toml'}\n"

    exit_code_of(monkeypatch, "add", "Città (1).mp4")
    assert len(load_manifest(here / "wtours.toml").videos) == 2
    assert not Path("data").exists()
    capsys.readouterr()

    # --manifest before WTOURS_MANIFEST before wtours.toml; a built-in one needs no words.
    other = here / "other.toml"
    other.write_text('format = 1\nname = "o"\nvideo = [{id="o", title="O", sources=["file:o"]}]\n')
    monkeypatch.setenv("WTOURS_MANIFEST", str(other))
    exit_code_of(monkeypatch, "list", "--json")
    shown = capsys.readouterr()
    assert [state["id"] for state in json.loads(shown.out)] == ["o"]
    assert str(other) in shown.err
    exit_code_of(monkeypatch, "list", "--json", "--manifest", "walking_tours")
    shown = capsys.readouterr()
    assert (len(json.loads(shown.out)), shown.err) == (10, "")


def test_a_manifest_of_the_old_default_name_is_not_passed_over(here, monkeypatch, capsys):
    (here / "walks.toml").write_text("")
    assert exit_code_of(monkeypatch, "add", "footage") == 2
    assert "rename it to wtours.toml" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "video_id"),
    [("Straße (2).MP4", "strasse_2"), ("IMG_0042.MOV", "img_0042"), ("散歩.mp4", "walk")],
)
def test_an_id_is_made_of_the_letters_of_a_name(name, video_id):
    assert OwnWalk(name, (Path(name),)).id == video_id
