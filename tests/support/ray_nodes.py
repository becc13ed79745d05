"""Tasks that are disturbed in the worker, for the tests of `--executor ray` and their table."""

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import ray

from wtours.execution.ray import RayExecutor

NODE: dict[str, Any] = {
    "num_cpus": 1,
    "object_store_memory": 80 * 2**20,
    "include_dashboard": False,
    "include_log_monitor": False,
    "no_monitor": True,  # the autoscaler's
}
WAIT_SECONDS = 600


class DisturbedExecutor(RayExecutor):
    """Does something in the worker before each task."""

    def __init__(self, first: Callable[[Any], None], **options: Any) -> None:
        super().__init__(**options)
        self.first = first

    def map(self, function: Any, tasks: Any) -> Any:
        """Run tasks after what comes first; see `Executor`."""
        return super().map(partial(_after, self.first, function), tasks)


def _after(first: Callable[[Any], None], function: Callable[[Any], Any], task: Any) -> Any:
    first(task)
    return function(task)


def crash_at_the_second_minute_of_two(task: Any) -> None:
    """Die of SIGSEGV at one segment."""
    if task.video_id == "two" and task.number == 1:
        os.kill(os.getpid(), signal.SIGSEGV)


def wait_for_file(path: Path, task: Any) -> None:
    """Say by a file which node works, and wait for another file."""
    Path(f"{path}.{ray.get_runtime_context().get_node_id()}").touch()
    until(path.exists)


def until(condition: Callable[[], bool], *, pause_seconds: float = 0.02) -> None:
    """Wait for what always comes.

    Args:
        condition: Whether it has come.
        pause_seconds: Between two looks; more where a look costs something.

    Raises:
        TimeoutError: it has not.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(pause_seconds)


def kill_once_it_works(cluster: Any, node: Any, go: Path) -> None:
    """Kill a node in the middle of a task, then let all others go on; see `wait_for_file`."""
    until(Path(f"{go}.{node.node_id}").exists)
    cluster.remove_node(node, allow_graceful=False)
    go.touch()
