"""What a fresh machine installs is what was tested."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pinned():
    """Return the versions of constraints.txt by package; one that depends on Python has several."""
    versions: dict[str, list[str]] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        name, _, version = line.partition(";")[0].strip().partition("==")
        if version:
            versions.setdefault(name, []).append(version)
    return versions


def test_every_dependency_has_an_exact_version_that_it_allows():
    versions = pinned()
    extras = PROJECT["optional-dependencies"].values()
    for text in [*PROJECT["dependencies"], *(text for extra in extras for text in extra)]:
        wanted = Requirement(text)
        name = re.sub(r"[-_.]+", "-", wanted.name).lower()
        if name != PROJECT["name"]:
            assert name in versions, f"{name} is not in constraints.txt: make lock"
            assert all(wanted.specifier.contains(version) for version in versions[name]), text


def test_both_locks_hold_the_same_versions():
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    locked: dict[str, list[str]] = {}
    for package in lock["package"]:
        if package["name"] != PROJECT["name"]:
            locked.setdefault(package["name"], []).append(package["version"])
    assert {name: sorted(found) for name, found in pinned().items()} == {
        name: sorted(found) for name, found in locked.items()
    }


def test_the_lock_names_no_registry_but_pypi():
    text = (ROOT / "uv.lock").read_text()
    assert set(re.findall(r"https?://([^/\"]+)", text)) == {"pypi.org", "files.pythonhosted.org"}
    assert not re.search(r"(file:|path = )\"?/", text)
