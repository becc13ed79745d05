"""Damaged and hostile files of every kind: one line, 20 s and 512 MiB at most (`make fuzz`)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.targets import LIGHT

ROOT = Path(__file__).resolve().parents[2]
MAX_BYTES = 512 * 2**20
RUNS = int(os.environ.get("WTOURS_FUZZ_RUNS", "150")) // 10
"""Of each target and seed: there are seventeen, and a run of some takes half a second."""
TORCH = ("run", "weights", "heads", "images", "saved", "labels", "results", "settings")
GROUPS = {"light": tuple(LIGHT), "torch": TORCH, "web": ("answers", "downloads"), "hub": ("hub",)}
"""Of one process each."""
SHORT = {"light": 12, "torch": 4}
"""Mutants of each target in the normal suite."""


def faults(folder: Path, runs: int, seed: int, names: tuple[str, ...]) -> list[str]:
    """Return what was wrong with the readers of so many mutants of each target."""
    command = [sys.executable, "-m", "tests.fuzz.fuzz_files", str(folder), str(runs), str(seed)]
    ended = subprocess.run(
        [*command, *names], cwd=ROOT, capture_output=True, text=True, check=False
    )
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    found = [
        f"{line['target']}, seed {seed}, run {line['run']}, {line['file']}:\n{line['problem']}"
        for line in lines
        if "problem" in line
    ]
    found += [
        f"{line['target']} took {line['bytes']} bytes of memory"
        for line in lines
        if line.get("bytes", 0) > MAX_BYTES
    ]
    if ended.returncode:
        found.append(f"ended at {(folder / 'now').read_text()}:\n{ended.stderr[-3000:]}")
    elif {line["target"] for line in lines if "bytes" in line} != set(names):
        found.append(f"not every target was read: {ended.stdout[-1000:]}")
    return found


@pytest.mark.medium
@pytest.mark.parametrize("group", SHORT)
def test_a_few_mutants_of_each_kind_of_file_are_read_or_refused(group, tmp_path):
    assert faults(tmp_path, SHORT[group], 0, GROUPS[group]) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("group", GROUPS)
def test_no_mutant_of_any_kind_of_file_breaks_a_reader(group, seed, tmp_path):
    assert faults(tmp_path, RUNS, seed, GROUPS[group]) == []
