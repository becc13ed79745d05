"""The table of docs/howto/scaling.md: `prepare`, disturbed in each way, against one quiet process.

Each row prepares two small videos and compares the sha256 of everything published under analysis/
and shards/ with what `analyze` and then `shard` publish in one process.
"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from tests.support.prepared import (
    apart,
    entries,
    prepare_options,
    published,
    workspace,
    write_walk,
)
from wtours.execution.executor import SERIAL, Executor
from wtours.execution.parts import Part
from wtours.execution.processes import ProcessExecutor
from wtours.execution.ray import RayExecutor
from wtours.prepare.pipeline import prepare_videos
from wtours.workspace.layout import Layout

PAGE = Path(__file__).resolve().parents[1] / "docs" / "howto" / "scaling.md"
_BEGIN, _END = "<!-- faults -->", "<!-- end of faults -->"
_VIDEOS = ("one", "two")
_NODE: dict[str, Any] = {
    "num_cpus": 1,
    "object_store_memory": 80 * 2**20,
    "include_dashboard": False,
}
_WAIT_SECONDS = 600.0


class Disturbed(RayExecutor):
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


def _prepare(layout: Layout, executor: Executor, part: Part | None = None) -> str:
    report = prepare_videos(
        layout, entries(*_VIDEOS), prepare_options(), executor=executor, part=part
    )
    return "; ".join((report.shards.failed | report.analysis.failed).values())


def serial(layout: Layout, cluster: Cluster) -> str:
    """One process."""
    return _prepare(layout, SERIAL)


def processes(layout: Layout, cluster: Cluster) -> str:
    """Two processes."""
    with ProcessExecutor(2) as executor:
        return _prepare(layout, executor)


def parts(layout: Layout, cluster: Cluster) -> str:
    """Three parts, in another order."""
    return "".join(_prepare(layout, SERIAL, Part(number, 3)) for number in (3, 1, 2))


def two_nodes(layout: Layout, cluster: Cluster) -> str:
    """Ray, two nodes."""
    with RayExecutor(shared=layout.root) as executor:
        return _prepare(layout, executor)


def _wait_for(path: Path, task: object) -> None:
    Path(f"{path}.{ray.get_runtime_context().get_node_id()}").touch()
    _until(path.exists)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _WAIT_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.02)


def killed_node(layout: Layout, cluster: Cluster) -> str:
    """Ray, a node killed in mid-task."""
    lost, go = cluster.add_node(**_NODE), layout.root / "go"

    def kill() -> None:
        _until(Path(f"{go}.{lost.node_id}").exists)
        cluster.remove_node(lost, allow_graceful=False)
        go.touch()

    killer = threading.Thread(target=kill)
    killer.start()
    with Disturbed(partial(_wait_for, go), shared=layout.root) as executor:
        failed = _prepare(layout, executor)
    killer.join()
    return failed


def killed_driver(layout: Layout, cluster: Cluster) -> str:
    """Ray, the driver killed in mid-run, run again."""
    command = [sys.executable, "-m", "benchmarks.scale_faults", str(layout.root), cluster.address]
    driver = subprocess.Popen(command)
    _until(lambda: any(layout.shards_dir("default").glob("receipts/*-0*.json")))
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    return "" if subprocess.run(command).returncode == 0 else "the rerun failed"


def _crash(task: Any) -> None:
    if task.video_id == "two" and task.number == 1:
        os.kill(os.getpid(), signal.SIGSEGV)


def poison(layout: Layout, cluster: Cluster) -> str:
    """Ray, a segment that crashes its process; then a run in which it does not."""
    with Disturbed(_crash, shared=layout.root) as executor:
        failed = _prepare(layout, executor)
    if "SIGSEGV" not in failed:
        return "nothing was recorded"
    with RayExecutor(shared=layout.root) as executor:
        return _prepare(layout, executor)


ROWS: tuple[Callable[[Layout, Cluster], str], ...] = (
    *(serial, processes, parts, two_nodes, killed_node, killed_driver, poison),
)


@contextmanager
def _cluster() -> Iterator[Cluster]:
    cluster = Cluster(initialize_head=True, head_node_args=_NODE)
    cluster.add_node(**_NODE)
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()  # type: ignore[no-untyped-call]


def main() -> int:
    """Run every row, write the table into the page; return 1 if a byte differs."""
    lines = ["| disturbance | files | equal sha256 | left over | failed |", "|---|--:|---|---|---|"]
    all_equal = True
    with tempfile.TemporaryDirectory() as folder, _cluster() as cluster:
        walk = write_walk(Path(folder) / "walk.mp4")
        videos = dict.fromkeys(_VIDEOS, walk)
        expected = apart(workspace(Path(folder) / "apart", videos), _VIDEOS)
        for number, row in enumerate(ROWS):
            layout = workspace(Path(folder) / str(number), videos)
            failed = row(layout, cluster)
            found = published(layout)
            left = list(layout.root.rglob(".tmp-*"))
            is_equal = found == expected and not failed
            all_equal &= is_equal
            what = (row.__doc__ or "").rstrip(".")
            cells = (what, str(len(found)), "yes" if is_equal else "NO")
            lines.append(
                f"| {' | '.join(cells)} | {len(left) or 'nothing'} | {failed or 'nothing'} |"
            )
            print(lines[-1], flush=True)
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(_BEGIN)
    after = rest.partition(_END)[2] if _END in rest else rest
    table = "\n".join(lines)
    PAGE.write_text(f"{before}{_BEGIN}\n\n{table}\n\n{_END}{after}", encoding="utf-8")
    return 0 if all_equal else 1


def drive(root: str, address: str) -> int:
    """Prepare the videos of a workspace on the cluster at an address: what is killed."""
    layout = Layout(Path(root))
    with RayExecutor(address, shared=layout.root) as executor:
        return 1 if _prepare(layout, executor) else 0


if __name__ == "__main__":
    # By the module's own name: what goes to a worker's child process is not pickled from __main__.
    from benchmarks import scale_faults

    run = scale_faults.main if len(sys.argv) < 3 else partial(scale_faults.drive, *sys.argv[1:])
    sys.exit(run())
