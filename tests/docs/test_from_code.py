"""What the site makes of the code is whole, and says what the code says."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from PIL import Image

from training.config.train import TrainConfig, flatten
from wtours.cli.app import app

DOCS = Path(__file__).resolve().parents[2] / "docs"
FROM_CODE = runpy.run_path(str(DOCS / "_ext" / "from_code.py"))


def test_every_command_and_option_is_in_the_reference():
    text = FROM_CODE["commands"]()
    commands = list(FROM_CODE["all_commands"](typer.main.get_command(app)))
    assert len(commands) > 30
    for name, command in commands:
        _, heading, rest = text.partition(f"## `{name}`\n")
        assert heading, name
        section = rest.partition("\n## ")[0]
        options = {option for p in command.params if not p.hidden for option in p.opts[:1]}
        missing = {option for option in options if option.startswith("-") and option not in section}
        assert not missing, name


def test_the_site_is_made_without_what_only_the_extras_bring():
    """Read the Docs installs wtours with its extra docs alone (.readthedocs.yaml)."""
    code = f"""
import runpy, sys
for name in ("torch", "timm", "matplotlib", "PIL", "scenedetect", "yt_dlp", "onnxruntime"):
    sys.modules[name] = None
for part in runpy.run_path({str(DOCS / "_ext" / "from_code.py")!r})["PARTS"].values():
    part()
import wtours.errors, wtours.shards
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_hidden_commands_and_options_are_not():
    text = FROM_CODE["commands"]()
    for old in ("--seal", "--print-config"):  # spellings that still work
        assert old not in text


def test_every_setting_is_in_the_reference_with_its_default():
    lines = FROM_CODE["settings"]().splitlines()
    rows = {}
    for line in lines:
        if line.startswith("| `"):
            name, _, default, about = (cell.strip() for cell in line[1:-1].split(" | "))
            rows[name.strip("`")] = default.strip("`"), about
    defaults = flatten(TrainConfig().model_dump(mode="json"))
    assert rows.keys() == defaults.keys()
    assert all(about for _, about in rows.values())
    assert rows["optim.lr"][0] == "0.0005"
    assert rows["data.clips_per_epoch"][0] == "null"
    assert rows["method"][0] == "dora"


@pytest.mark.parametrize("name", ["paper", "demo"])
def test_every_preset_is_in_the_reference(name):
    assert f"## `{name}`" in FROM_CODE["presets"]()


def test_the_disk_table_adds_up():
    rows = [line.strip("| ").split(" | ") for line in FROM_CODE["disk"]().splitlines()[2:]]
    *videos, total = [[float(cell.removesuffix(" GB")) for cell in row[1:]] for row in rows]
    assert len(videos) == 10
    for column, of_all in zip(zip(*videos, strict=True), total, strict=True):
        assert sum(column) == pytest.approx(of_all, abs=5 if of_all > 500 else 0.6)


def test_the_picture_of_the_readme_is_small_and_of_two_figures(tmp_path):
    compose = runpy.run_path(str(DOCS / "_ext" / "picture.py"))["compose"]
    for name, size in (("figure2", (400, 100)), ("clip", (200, 100))):
        Image.new("RGB", size, "navy").save(tmp_path / f"{name}.png")
    sheet = compose(tmp_path / "figure2.png", tmp_path / "clip.png")
    assert sheet.mode == "P"
    assert sheet.height == 24 + round(sheet.width / 4) + round(sheet.width / 2)
    assert (DOCS / "walks.png").stat().st_size < 300_000
