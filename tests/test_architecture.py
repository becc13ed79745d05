"""Who may import whom. A failure is a design decision, not a nit."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(p for d in ("wtours", "training") for p in (ROOT / d).rglob("*.py"))
HEAVY = {"torch", "cv2", "av", "pyarrow", "yt_dlp", "scenedetect", "onnxruntime", "matplotlib"}
TRAINING_MAY_USE = {"wtours.shards", "wtours.errors", "wtours.fsio", "wtours.progress"}
WITHOUT_VIDEO = {
    f"wtours/shards/{name}.py"
    for name in (
        *("schema", "index", "clips", "reader", "sampler"),
        *("remote", "members", "catalog", "stream", "info"),
    )
}


def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    found: set[str] = set()
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
    return found


def packages(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports(path):
    name = str(path.relative_to(ROOT))
    everywhere, at_top = imports(path), imports(path, top_level_only=True)
    assert "wtours.cli" not in everywhere or name == "wtours/__main__.py"
    if name.startswith("wtours/"):
        assert "torch" not in packages(at_top)
        assert "training" not in packages(at_top)
        assert "training" not in packages(everywhere) or name.startswith("wtours/commands/")
    else:
        assert {m for m in everywhere if m.startswith("wtours")} <= TRAINING_MAY_USE
    if name in WITHOUT_VIDEO:
        assert not {"torch", "cv2", "av"} & packages(everywhere)


def test_the_command_line_imports_nothing_heavy():
    code = f"import sys, wtours.cli; print(sorted({HEAVY!r} & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
