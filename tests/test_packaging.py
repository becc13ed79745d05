"""What a fresh machine installs is what was tested."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml
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


@pytest.fixture(scope="module")
def distributions(tmp_path_factory) -> Path:
    """A folder with the sdist and the wheel, built as `make dist` builds them."""
    pytest.importorskip("sphinx")
    folder: Path = tmp_path_factory.mktemp("dist")
    make_man = [sys.executable, "-m", "sphinx", "-b", "man", "-q", "docs", "docs/_build/man"]
    subprocess.run(make_man, cwd=ROOT, check=True)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    result = subprocess.run(build, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


@pytest.fixture(scope="module")
def installed(distributions, tmp_path_factory) -> Path:
    """`bin/` of an environment that has the wheel, and the packages that the tests run with.

    These come by a .pth file, in which no editable install of this checkout is looked up.
    """
    folder: Path = tmp_path_factory.mktemp("fresh")
    python = folder / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (wheel,) = distributions.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    options = ("-q", "--no-deps", "--no-index", "--no-compile")
    subprocess.run([*pip, "install", *options, str(wheel)], check=True)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    (site_packages / "tested.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def run_installed(installed: Path, *command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    program = [str(installed / command[0]), *command[1:]]
    return subprocess.run(program, cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.mark.medium
def test_the_distributions_are_fit_for_pypi(distributions):
    from twine.commands.check import check

    assert not check([str(path) for path in distributions.iterdir()], strict=True)
    (wheel,) = distributions.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        fields = Parser().parsestr(archive.read(metadata).decode())
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.startswith("wtours-")} == {"wtours", "training"}
    assert {"wtours/py.typed", "training/py.typed", "wtours/manifests/walking_tours.toml"} <= {
        *names
    }
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert any(name.endswith(".data/data/share/man/man1/wtours.1") for name in names)
    assert fields["Author"] == "wtours contributors"
    assert len(fields.get_all("Project-URL", [])) == len(PROJECT["urls"])
    (sdist,) = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        within = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "docs/index.md", "tests/conftest.py"} <= within


@pytest.mark.medium
def test_the_wheel_works_outside_the_repository(installed, tmp_path):
    where = "import wtours, training; print(wtours.__file__, training.__file__)"
    found = run_installed(installed, "python", "-c", where, cwd=tmp_path).stdout.split()
    assert all(Path(path).is_relative_to(installed.parent) for path in found)
    version = run_installed(installed, "wtours", "--version", cwd=tmp_path)
    assert version.stdout.strip() == f"wtours {PROJECT['version']}"
    helped = run_installed(installed, "wtours", "demo", "--help", cwd=tmp_path)
    assert helped.returncode == 0
    assert "two rendered walks" in helped.stdout
    listed = run_installed(installed, "wtours", "list", "--json", cwd=tmp_path)
    assert len(json.loads(listed.stdout)) == 10  # the built-in manifest is in the wheel


@pytest.mark.medium
def test_all_extras_are_met_by_the_versions_that_were_tested(installed, distributions, tmp_path):
    """`pip install 'wtours[all]'`, without an index: nothing is missing, nothing contradicts."""
    (wheel,) = distributions.glob("*.whl")
    options = ["--dry-run", "--no-index", "--report", "-", "-q"]
    result = run_installed(
        installed, "python", "-m", "pip", "install", *options, f"{wheel}[all]", cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert [item["metadata"]["name"] for item in json.loads(result.stdout)["install"]] == []


@pytest.mark.slow
def test_the_demo_runs_from_the_wheel(installed, tmp_path):
    result = run_installed(installed, "wtours", "demo", cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert (tmp_path / "demo-data" / "reports" / "report.html").is_file()


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    assert citation["repository-code"] == PROJECT["urls"]["Repository"]
    assert f"## {PROJECT['version']} " in (ROOT / "CHANGELOG.md").read_text()


def test_the_dockerfile_copies_what_the_wheel_is_built_of():
    """A file of pyproject.toml that is not in the image's context would fail only there."""
    text = (ROOT / "Dockerfile").read_text()
    wanted = {
        "pyproject.toml",
        "hatch_build.py",
        "constraints.txt",
        PROJECT["readme"],
        *PROJECT["license-files"],
    }
    copied = {
        word for line in re.findall(r"^COPY (?!--)(.+) ", text, re.M) for word in line.split()
    }
    assert wanted | {"manifests", "wtours", "training"} == copied
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    assert {line[1:] for line in allowed if line.startswith("!")} == copied


@pytest.mark.parametrize("name", ["ci", "release"])
def test_a_workflow_calls_targets_that_exist(name):
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text())
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    called = {t for step in steps for t in re.findall(r"\bmake ([a-z-]+)", step.get("run", ""))}
    assert called
    assert called <= targets
