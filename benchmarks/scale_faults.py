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
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from tests.support.object_stores import copy_into, moto_server, sha256s
from tests.support.prepared import (
    apart,
    entries,
    prepare_options,
    published,
    store_workspace,
    workspace,
    write_walk,
)
from tests.support.ray_nodes import (
    NODE,
    DisturbedExecutor,
    crash_at_the_second_minute_of_two,
    kill_once_it_works,
    until,
    wait_for_file,
)
from wtours.execution.executor import SERIAL, Executor
from wtours.execution.parts import Part
from wtours.execution.processes import ProcessExecutor
from wtours.execution.ray import RayExecutor
from wtours.prepare.pipeline import prepare_videos
from wtours.storage.atomic import TEMP_PREFIX
from wtours.storage.object_store import open_store
from wtours.storage.scratch import SCRATCH
from wtours.storage.store import is_url
from wtours.workspace.layout import Layout

PAGE = Path(__file__).resolve().parents[1] / "docs" / "howto" / "scaling.md"
_VIDEOS = ("one", "two")


@dataclass(frozen=True, slots=True)
class Root:
    """Where a row works: a folder, or a URL and the scratch folder of each machine.

    Attributes:
        place: The folder, or the URL.
        scratch: Below it each machine has a folder of its own.
        cluster: Two nodes, each with its own scratch folder.
    """

    place: str
    scratch: Path
    cluster: Cluster

    def open(
        self, machine: str = "driver", *, is_part: bool = False
    ) -> AbstractContextManager[Layout]:
        """Return a block with the workspace, as a command on this machine has it."""
        return _open(self.place, self.scratch / machine, is_part=is_part)

    def add_node(self, machine: str) -> Any:
        """Return a new node of the cluster."""
        scratch = {SCRATCH: str(self.scratch / machine)}
        return self.cluster.add_node(**NODE, env_vars=scratch)

    def published(self) -> dict[str, str]:
        """Return the sha256 of everything under analysis/ and shards/."""
        if not is_url(self.place):
            return published(Layout(Path(self.place)))
        store = open_store(self.place)
        return sha256s(store, "analysis") | sha256s(store, "shards")

    def has_shards(self) -> bool:
        """Return whether a segment has been published."""
        if not is_url(self.place):
            return any(Layout(Path(self.place)).shards_dir("default").glob("receipts/*-0*.json"))
        return any("-0" in found.key for found in open_store(self.place).list("shards/default"))

    def num_left(self) -> int:
        """Return how many temporary files are left."""
        if not is_url(self.place):
            return sum(1 for _ in Path(self.place).rglob(f"{TEMP_PREFIX}*"))
        return sum(TEMP_PREFIX in found.key for found in open_store(self.place).list())


def _open(place: str, scratch: Path, *, is_part: bool = False) -> AbstractContextManager[Layout]:
    os.environ[SCRATCH] = str(scratch)
    return (
        store_workspace(place, is_part=is_part)
        if is_url(place)
        else nullcontext(Layout(Path(place)))
    )


def _prepare(layout: Layout, executor: Executor, part: Part | None = None) -> str:
    report = prepare_videos(
        layout, entries(*_VIDEOS), prepare_options(), executor=executor, part=part
    )
    return "; ".join((report.shards.failed | report.analysis.failed).values())


def _by_ray(root: Root, first: Callable[[Any], None] | None = None) -> str:
    with root.open() as layout:
        ray_executor = DisturbedExecutor(first, shared=layout.root) if first else None
        with ray_executor or RayExecutor(shared=layout.root) as executor:
            return _prepare(layout, executor)


def serial(root: Root) -> str:
    """One process."""
    with root.open() as layout:
        return _prepare(layout, SERIAL)


def processes(root: Root) -> str:
    """Two processes."""
    with root.open() as layout, ProcessExecutor(2) as executor:
        return _prepare(layout, executor)


def parts(root: Root) -> str:
    """Three parts, in another order."""
    failed = ""
    for number in (3, 1, 2):
        with root.open(f"machine-{number}", is_part=True) as layout:
            failed += _prepare(layout, SERIAL, Part(number, 3))
    return failed


def two_nodes(root: Root) -> str:
    """Ray, two nodes."""
    return _by_ray(root)


def killed_node(root: Root) -> str:
    """Ray, a node killed in mid-task."""
    lost, go = root.add_node("lost"), root.scratch / "go"
    killer = threading.Thread(target=kill_once_it_works, args=(root.cluster, lost, go))
    killer.start()
    failed = _by_ray(root, partial(wait_for_file, go))
    killer.join()
    return failed


def killed_driver(root: Root) -> str:
    """Ray, the driver killed in mid-run, run again."""
    command = [sys.executable, "-m", "benchmarks.scale_faults", root.cluster.address, root.place]
    driver = subprocess.Popen([*command, str(root.scratch / "driver")])
    until(root.has_shards)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    again = subprocess.run([*command, str(root.scratch / "another")])
    return "" if again.returncode == 0 else "the rerun failed"


def poison(root: Root) -> str:
    """Ray, a segment that crashes its process; then a run in which it does not."""
    failed = _by_ray(root, crash_at_the_second_minute_of_two)
    return _by_ray(root) if "SIGSEGV" in failed else "nothing was recorded"


ROWS: tuple[Callable[[Root], str], ...] = (
    *(serial, processes, parts, two_nodes, killed_node, killed_driver, poison),
)


@contextmanager
def two_nodes_of_a_cluster(scratch: Path) -> Iterator[Cluster]:
    """Run a head without CPUs and two nodes, each with its own scratch folder; connect to it."""
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0})
    for number in (1, 2):
        cluster.add_node(**NODE, env_vars={SCRATCH: str(scratch / f"node-{number}")})
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()  # type: ignore[no-untyped-call]


def main() -> int:
    """Run every row on both kinds of root, write the table into the page; 1: a byte differs."""
    lines = [
        "| disturbance | root | files | equal sha256 | left over | failed |",
        "|---|---|--:|---|---|---|",
    ]
    all_equal = True
    with (
        tempfile.TemporaryDirectory() as folder,
        moto_server("walks"),
        two_nodes_of_a_cluster(Path(folder)) as cluster,
    ):
        walk = write_walk(Path(folder) / "walk.mp4")
        videos = dict.fromkeys(_VIDEOS, walk)
        of_apart = workspace(Path(folder) / "apart", videos)
        expected = apart(of_apart, _VIDEOS)
        for number, row in enumerate(ROWS):
            on_disk = workspace(Path(folder) / f"{number}-disk", videos)
            url = f"s3://walks/{number}"
            copy_into(f"{url}/videos", of_apart.root / "videos")
            for kind, place in (("disk", str(on_disk.root)), ("store", url)):
                scratch = Path(folder) / f"{number}-{kind}-scratch"
                scratch.mkdir()
                root = Root(place, scratch, cluster)
                failed = row(root)
                found, left = root.published(), root.num_left()
                is_equal = found == expected and not failed
                all_equal &= is_equal
                what = (row.__doc__ or "").rstrip(".")
                cells = (what, kind, str(len(found)), "yes" if is_equal else "NO")
                lines.append(
                    f"| {' | '.join(cells)} | {left or 'nothing'} | {failed or 'nothing'} |"
                )
                print(lines[-1], flush=True)
    write_table("faults", lines)
    return 0 if all_equal else 1


def write_table(name: str, lines: list[str]) -> None:
    """Put a table into the page, between the comments of its name."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(begin)
    after, table = rest.partition(end)[2], "\n".join(lines)
    PAGE.write_text(f"{before}{begin}\n\n{table}\n\n{end}{after}", encoding="utf-8")


def drive(address: str, place: str, scratch: str) -> int:
    """Prepare the videos of a root on the cluster at an address: what is killed."""
    with (
        _open(place, Path(scratch)) as layout,
        RayExecutor(address, shared=layout.root) as executor,
    ):
        return 1 if _prepare(layout, executor) else 0


if __name__ == "__main__":
    # By the module's own name: what goes to a worker's child process is not pickled from __main__.
    from benchmarks import scale_faults

    run = scale_faults.main if len(sys.argv) < 3 else partial(scale_faults.drive, *sys.argv[1:])
    sys.exit(run())
