from pathlib import Path

import pytest

from wtours.errors import ManifestError
from wtours.workspace.manifest import load_manifest

VALID = """
format = 1
name = "mine"
[selections]
both = ["walk", "run"]
[[video]]
id = "walk"
title = "A walk"
sources = ["https://example.org/walk.mp4"]
[[video]]
id = "run"
title = "A run"
sources = ["file:run.mp4"]
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


def test_default_manifest_is_the_ten_walking_tours_with_table_6():
    manifest = load_manifest()
    figures = [video.published for video in manifest.videos if video.published]
    assert len(manifest.videos) == len(figures) == 10
    # The paper's own last row of Table 6.
    assert sum(f.frames_thousands for f in figures) / 10 == pytest.approx(153.2, abs=0.05)
    assert sum(f.minutes for f in figures) / 10 == pytest.approx(82.8, abs=0.05)
    assert sum(f.shots for f in figures) / 10 == pytest.approx(1.6)
    assert sum(f.objects_per_frame for f in figures) / 10 == pytest.approx(38.5)
    assert sum(f.classes for f in figures) / 10 == pytest.approx(636)
    assert [v.id for v in manifest.select(["wt_venice"])] == ["venice"]
    assert len(manifest.select(["wt_all"])) == 10


def test_selections_and_ids_give_each_video_once_in_manifest_order(tmp_path):
    manifest = load_manifest(write(tmp_path, VALID))
    assert [v.id for v in manifest.select(["run", "both"])] == ["walk", "run"]
    assert [v.id for v in manifest.select()] == ["walk", "run"]


def test_builtin_manifests_are_found_by_name():
    assert load_manifest(Path("demo")).name == "demo"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('id = "walk"', 'id = "Walk.1"', r"video 'Walk.1': id: 'Walk.1' is no id: use "),
        ('id = "run"', 'id = "walk"', "video walk: the id is used twice"),
        ('title = "A run"', 'title = "A run"\nspeed = 3', "video 'run': speed: unknown key"),
        ("https://example.org/walk.mp4", "ftp://example.org/walk.mp4", "video 'walk': sources"),
        ("https://example.org/walk.mp4", "--exec=touch x", "video 'walk': sources"),
        ("file:run.mp4", "file:../run.mp4", "video 'run': sources.*inside the given folder"),
        ("file:run.mp4", "file:/etc/passwd", "video 'run': sources.*inside the given folder"),
        ("file:run.mp4", "file:a/../../b", "video 'run': sources.*inside the given folder"),
        ('title = "A run"', 'title = "A\\u001b[2Jrun"', "video 'run': title.*control characters"),
        ('["walk", "run"]', '["walk", "jog"]', "selection both names 'jog'"),
        ("format = 1", "format = 2", "format"),
        ("[[video]]", "[[video]", "is not TOML"),
    ],
)
def test_a_bad_manifest_is_refused_in_one_line_that_names_the_entry(tmp_path, old, new, message):
    path = write(tmp_path, VALID.replace(old, new, 1))
    with pytest.raises(ManifestError, match=message) as caught:
        load_manifest(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("x = " + "[" * 100_000, "nested too deeply"),
        ("x = " + "{a = " * 100_000, "nested too deeply"),
        ("x = " + "9" * 100_000, "is not TOML"),
        (".".join("a" * 50_000) + " = 1", "nested too deeply"),
        ("['" + "'.'".join("a" * 50_000) + "']", "nested too deeply"),
        ("a.b.c = 1", "a: unknown key"),
        ("x = '\xff'", "is not TOML"),
    ],
    ids=["arrays", "tables", "number", "dotted key", "dotted table", "short key", "no UTF-8"],
)
def test_a_hostile_manifest_is_refused_in_one_short_line(tmp_path, line, message):
    path = tmp_path / "mine.toml"
    path.write_bytes(f"{line}\n{VALID}".encode("latin-1"))
    with pytest.raises(ManifestError, match=message) as caught:
        load_manifest(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_an_unknown_video_is_named_with_what_there_is(tmp_path):
    with pytest.raises(ManifestError, match=r"no video 'venise'.*walk, run, both"):
        load_manifest(write(tmp_path, VALID)).select(["venise"])


def test_a_missing_manifest_says_which_are_built_in(tmp_path):
    with pytest.raises(ManifestError, match="built in are: demo, walking_tours"):
        load_manifest(tmp_path / "absent.toml")
