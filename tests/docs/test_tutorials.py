"""The tutorials are notebooks, and every cell of them runs, in order, in an empty folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from wtours.synthetic.render import render_walk
from wtours.synthetic.spec import WalkSpec

ROOT = Path(__file__).resolve().parents[2]
TUTORIALS = ROOT / "docs" / "tutorials"


def cells(page: Path) -> list[str]:
    jupytext = pytest.importorskip("jupytext")
    return [cell.source for cell in jupytext.read(page).cells if cell.cell_type == "code"]


@pytest.mark.parametrize("name", ["demo", "own_walk", "train_anything"])
def test_a_page_is_a_notebook(name):
    code = cells(TUTORIALS / f"{name}.md")
    assert len(code) >= 3
    for source in code:
        if not source.startswith("%%bash"):
            compile(source, name, "exec")


@pytest.mark.slow
def test_tutorials_run_as_notebooks(tmp_path):
    """In the order in which a reader takes them: the third uses what the first has left."""
    jupytext = pytest.importorskip("jupytext")
    pytest.importorskip("nbmake")
    render_walk(WalkSpec(seconds=20, seed=3), tmp_path / "walk.mp4")
    names = [
        f"{place}_{name}.ipynb" for place, name in enumerate(("demo", "train_anything", "own_walk"))
    ]
    for name in names:
        jupytext.write(jupytext.read(TUTORIALS / f"{name[2:-6]}.md"), tmp_path / name)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    options = ["--nbmake", "--nbmake-timeout=1200", "-p", "no:cacheprovider", "-q", "-x"]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *options, f"--rootdir={tmp_path}", *names],
        cwd=tmp_path,
        env=os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-2000:]
