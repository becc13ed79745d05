"""What text from outside can do to a terminal, a table or a page: nothing."""

import json
import logging
import subprocess
import sys

import pytest

from wtours.cli.console import LogHandler
from wtours.text import (
    counted,
    escape_csv,
    escape_json,
    escape_markdown,
    listed,
    plain,
    plain_lines,
)

HOSTILE = "a\x1b[31mb\x1b]0;title\x07c\x9bd\u202ee\u2066f\udcffg"


def test_control_and_direction_characters_are_taken_out():
    assert plain(f" {HOSTILE}\r\n h\ti ") == "a b ]0;title c d e f g h i"
    assert plain_lines(f"{HOSTILE}\r\n\th") == "a�b�]0;title�c�d�e�f�g�\n\th"


def test_json_keeps_its_values_and_shows_no_control_character():
    text = json.dumps({"title": HOSTILE}, ensure_ascii=False, indent=1)
    assert json.loads(escape_json(text)) == {"title": HOSTILE}
    assert plain_lines(escape_json(text)) == escape_json(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<script>|x|", r"\<script\>\|x\|"),
        ("[a](b) &lt; `c` *d* _e_ ~f~", r"\[a\]\(b\) \&lt; \`c\` \*d\* \_e\_ \~f\~"),
        ("- no list", r"\- no list"),
        ("2026-11-29", "2026-11-29"),
        ("# two\n# lines", r"\# two \# lines"),
    ],
)
def test_markdown_shows_text_as_it_is(text, shown):
    assert escape_markdown(text) == shown


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x"])
def test_a_spreadsheet_takes_no_text_for_a_formula(text):
    assert escape_csv(text) == f"'{text}"
    assert escape_csv("walk") == "walk"


def test_a_log_line_and_its_traceback_hold_no_control_characters(capsys):
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        record = logging.LogRecord("x", 20, "", 1, "%s", (HOSTILE,), sys.exc_info())
    LogHandler(names=True).emit(record)
    text = capsys.readouterr().err
    assert "ValueError" in text
    assert plain_lines(text) == text


def test_what_a_command_prints_of_a_hostile_manifest_is_plain(tmp_path):
    manifest = tmp_path / "m.toml"
    manifest.write_text(
        'format = 1\nname = "m"\n[[video]]\nid = "a"\ntitle = "A\\u202ewalk"\n'
        'sources = ["file:\\u202ex.mp4"]\n'
    )
    for arguments in (["list"], ["list", "--json"], ["--verbose", "download"]):
        command = [sys.executable, "-m", "wtours", *arguments, "--manifest", str(manifest)]
        result = subprocess.run(
            [*command, "--root", str(tmp_path / "root")],
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == (3 if "download" in arguments else 0)
        shown = result.stdout + result.stderr
        assert "walk" in shown or "x.mp4" in shown
        assert plain_lines(shown) == shown


def test_of_many_names_those_that_look_like_the_wrong_one_come_first():
    names = [f"walk_{number:02d}" for number in range(30)]
    assert listed(names[:3]) == "walk_00, walk_01, walk_02"
    assert listed(names).endswith(" and 18 more")
    assert listed([*names, "venice"], like="venise").startswith("venice, walk_00, ")
    assert listed(["venice"], like="x" * 10_000) == "venice"


def test_one_of_a_kind_has_no_plural():
    assert [counted(n, "shard") for n in (0, 1, 1200)] == ["0 shards", "1 shard", "1,200 shards"]
    assert [counted(n, "class", "classes") for n in (1, 2)] == ["1 class", "2 classes"]
