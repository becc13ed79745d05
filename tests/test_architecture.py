"""Who may import whom. A failure is a design decision, not a nit."""

import ast
import functools
import subprocess
import sys
from collections.abc import Iterable
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"torch", "cv2", "av", "pyarrow", "yt_dlp", "scenedetect", "onnxruntime", "matplotlib"}
LAYERS = {
    "wtours": (
        *("errors", "progress", "text", "storage", "execution", "media", "workspace", "shards"),
        *(
            "comparison",
            "exporting",
            "acquire",
            "analyze",
            "sharding",
            "layers",
            "lockfile",
            "hub",
            "prepare",
            "synthetic",
            "report",
            "diagnostics",
            "cli",
        ),
        "__main__",
    ),
    "training": (
        *(
            "rng",
            "schedules",
            "transfer",
            "config",
            "flops",
            "distributed",
            "models",
            "losses",
            "data",
            "methods",
            "engine",
        ),
        *("weights", "evaluation", "visualization", "monitors", "reproduce"),
        *("estimate", "gpu_memory", "nan_replay", "rewind", "pretrain"),
    ),
}
"""A package may import itself and what stands before it."""
FORBIDDEN = (  # on top of the order: a package, and what no module of it imports anywhere
    ("wtours.shards", {"wtours.execution", "wtours.media", "wtours.workspace"}),
    ("wtours.shards", {"torch", "av", "cv2"}),  # a trainer elsewhere can use it
    ("wtours.sharding", {"wtours.analyze", "wtours.acquire"}),  # reads published tables by file
    ("wtours.analyze", {"wtours.shards", "wtours.acquire"}),
    ("wtours.report", {"wtours.shards", "wtours.acquire"}),
    ("training.config", {"torch"}),
    ("training.losses", {"training.config", "training.data"}),
    ("training.models", {"training.config"}),
    ("training.engine", {"training.weights", "training.evaluation", "training.monitors"}),
)
OF_WTOURS = {"errors", "progress", "text", "execution", "shards", "storage", "media"}
"""The packages of wtours that training may import."""


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(p): p for top in LAYERS for p in sorted((ROOT / top).rglob("*.py"))}


@functools.cache
def imports(name: str) -> tuple[set[str], set[str]]:
    """Return the modules that a module imports when it is imported, and lazy ones beside them.

    Ours by their full names.
    """
    tree = ast.parse(MODULES[name].read_text())
    return _imported(name, tree.body), _imported(name, ast.walk(tree))


def _imported(name: str, nodes: Iterable[ast.AST]) -> set[str]:
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else node.module)
    return found


def package(module: str) -> str:
    return ".".join(module.split(".")[:2])


def is_within(module: str, packages: set[str]) -> bool:
    return any(module == p or module.startswith(f"{p}.") for p in packages)


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down(name):
    top, _, rest = name.partition(".")
    at_once, everywhere = imports(name)
    for other in everywhere & MODULES.keys():
        if other.partition(".")[0] == top and "." in other and rest:
            order = LAYERS[top]
            above, here = other.split(".")[1], rest.split(".")[0]
            assert order.index(above) <= order.index(here), f"{name} imports {other}"
    if top == "wtours":
        assert not is_within("torch", at_once)
        if package(name) != "wtours.cli":
            assert not {m for m in everywhere if is_within(m, {"training"})}
    else:
        ours = {package(m) for m in everywhere if is_within(m, {"wtours"})}
        assert ours <= {f"wtours.{p}" for p in OF_WTOURS}, f"{name} imports {ours}"
    for importer, forbidden in FORBIDDEN:
        if is_within(name, {importer}):
            assert not {m for m in everywhere if is_within(m, forbidden)}


def test_no_module_cycles():
    graph = {name: imports(name)[1] & MODULES.keys() for name in MODULES}
    TopologicalSorter(graph).prepare()  # raises CycleError, with the cycle


@pytest.mark.parametrize("top", LAYERS)
def test_packages_are_small(top):
    for folder in {path.parent for path in (ROOT / top).rglob("*.py")}:
        modules = [p for p in folder.glob("*.py") if p.name != "__init__.py"]
        assert len(modules) <= 14, f"{folder.relative_to(ROOT)} has {len(modules)} modules"


@pytest.mark.parametrize("top", LAYERS)
def test_every_package_has_its_paragraph(top):
    text = (ROOT / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")
    missing = [name for name in LAYERS[top] if f"`{top}.{name}`" not in text]
    assert not missing


def test_the_command_line_imports_nothing_heavy():
    code = f"import sys, wtours.cli.app; print(sorted({HEAVY!r} & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
