"""A segment that fills a node's memory, as Ray sees it: named after the retries, others done."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray")
pytestmark = pytest.mark.medium
REPOSITORY = Path(__file__).resolve().parents[2]
# Above one percent of the memory everything is too much: each task is ended by Ray itself.
FULL = {
    "RAY_memory_usage_threshold": "0.01",
    "RAY_memory_monitor_refresh_ms": "100",
    "RAY_task_oom_retries": "1",
    "RAY_worker_niceness": "0",
}
SCRIPT = """
import time
from wtours.errors import WorkerDiedError
from wtours.execution.ray import RayExecutor

def work(task):
    time.sleep(600)

with RayExecutor(jobs=1) as executor:
    try:
        list(executor.map(work, ["a segment"]))
    except WorkerDiedError as error:
        print(error.tasks, error.reason("a segment"))
"""


def test_what_fills_the_memory_of_a_node_is_named_after_its_retries():
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, **FULL, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ended.returncode == 0, ended.stderr
    assert "a segment" in ended.stdout
    assert "the node's memory was full" in ended.stdout
