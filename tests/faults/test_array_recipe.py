"""The Slurm recipe of docs/howto/scaling.md, with a stand-in for `sbatch` on one machine."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.prepared import workspace, write_walk

pytestmark = pytest.mark.medium

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs" / "howto" / "scaling.md"
MANIFEST = """
format = 1
name = "walk"
[[video]]
id = "walk"
title = "walk"
sources = ["file:walk.mp4"]
"""
SBATCH = """#!/bin/bash
# sbatch --array=LIST SCRIPT: each task after the other; the one named in KILLED does not finish.
list=${1#--array=}
for range in ${list//,/ }; do
  for task in $(seq ${range%-*} ${range#*-}); do
    [ "$task" = "$KILLED" ] || SLURM_ARRAY_TASK_ID=$task bash "$2" || true
  done
done
"""


def test_the_lines_of_the_page_finish_a_set_of_which_one_task_was_killed(tmp_path):
    root = tmp_path / "walks"
    workspace(root, {"walk": write_walk(tmp_path / "walk.mp4")})
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    part, submit = blocks[0], blocks[1]
    assert "SLURM_ARRAY_TASK_ID" in part
    binaries = tmp_path / "bin"
    binaries.mkdir()
    scripts = {
        binaries / "sbatch": SBATCH,
        binaries / "wtours": f'#!/bin/bash\nexec {sys.executable} -m wtours "$@"\n',
        tmp_path / "part.sh": part.replace("64", "3").replace("--jobs 8", "--executor serial"),
        tmp_path / "walks.toml": MANIFEST,
    }
    for path, text in scripts.items():
        path.write_text(text.replace("/shared/walks", str(root)))
        path.chmod(0o755)
    lines = submit.replace("64", "3").replace("/shared/walks", str(root)).splitlines()
    commands = [line for line in lines if line and not line.startswith(("#", "wtours download"))]
    first, missing, again = commands
    environment = {
        **os.environ,
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
    }

    def run(line: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", line],
            cwd=tmp_path,
            env={**environment, **variables},
            capture_output=True,
            text=True,
            timeout=600,
        )

    run(first, KILLED="2")
    named = run(missing)
    assert (named.returncode, named.stdout.strip()) == (3, "2"), named.stderr
    result = run(again)
    assert "1 analyzed" in result.stdout, result.stderr
    assert (root / "shards" / "default" / "index.parquet").exists()
    assert run(missing).returncode == 0
