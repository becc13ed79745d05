"""The second table of docs/howto/scaling.md: what wtours and other engines leave after a fault.

Each makes images of two small videos, a minute a task, on a cluster of its own of two nodes: in its
own environment, and with what it has to resume. `PEERS=/path/to/bin/python` is that of the others:
`pip install 'ray[data]' daft av simplejpeg`.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.peers.segments import SECONDS
from benchmarks.scale_faults import write_table
from tests.support.prepared import SECONDS as SCENES
from tests.support.prepared import workspace, write_walk

PEERS = "PEERS"
REPOSITORY = Path(__file__).resolve().parents[1]
VIDEOS = ("one", "two")
_LIMIT_SECONDS = 600
"""After it a run counts as one that does not end; a quiet one takes less than a minute."""
_NUM_SEGMENTS = -(-sum(SCENES) // SECONDS)


@dataclass(frozen=True, slots=True)
class System:
    """A program of `benchmarks.peers`, and the Python that has its engine."""

    name: str
    program: str
    python: str

    def start(self, address: str, folder: Path, fault: str) -> subprocess.Popen[bytes]:
        """Start a run."""
        with (folder / "log.txt").open("ab") as log:
            return subprocess.Popen(
                [*self._command(self.program), address, str(folder), fault],
                cwd=REPOSITORY,
                env=_environment(),
                stdout=log,
                stderr=log,
            )

    @contextlib.contextmanager
    def cluster(self) -> Iterator[tuple[str, Callable[[str], None]]]:
        """Run a cluster; yield its address, and what kills the node of an id."""
        with subprocess.Popen(
            self._command("cluster"),
            cwd=REPOSITORY,
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            written = process.stdin

            def kill(node: str) -> None:
                written.write(f"{node}\n")
                written.flush()

            address = process.stdout.readline().strip()
            if not address:
                raise RuntimeError(f"{self.name}: no cluster could be started")
            yield address, kill
            written.close()

    def _command(self, program: str) -> list[str]:
        return [self.python, "-m", f"benchmarks.peers.{program}"]


def _environment() -> dict[str, str]:
    quiet = {"RAY_DEDUP_LOGS": "0", "DAFT_ANALYTICS_ENABLED": "0", "DO_NOT_TRACK": "1"}
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), **quiet}


@dataclass
class Trial:
    """Runs of a system in a folder, with what each has left."""

    system: System
    folder: Path
    address: str
    kill_node: Callable[[str], None]
    told: tuple[str, ...] = ()

    def run(
        self, fault: str, disturb: Callable[[subprocess.Popen[bytes]], None] | None = None
    ) -> None:
        """Run the program to its end, and note it."""
        process = self.system.start(self.address, self.folder, fault)
        if disturb is not None:
            disturb(process)
        try:
            ended = f"exit {process.wait(_LIMIT_SECONDS)}"
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            ended = f"no end in {_LIMIT_SECONDS} s"
        self.told += (f"{ended}, {_left(self.folder)}",)

    def begun(self, count: int) -> list[Path]:
        """Wait until so many segments are begun; return their marks."""
        deadline = time.monotonic() + _LIMIT_SECONDS
        while time.monotonic() < deadline:
            marks = list((self.folder / "begun").glob("[!.]*"))
            if len(marks) >= count:
                return marks
            time.sleep(0.05)
        raise TimeoutError(f"{self.system.name}: nothing is begun")


def quiet(trial: Trial) -> None:
    """Nothing; then the same command again."""
    trial.run("")
    trial.run("")


def worker(trial: Trial) -> None:
    """A worker killed in mid-task (SIGKILL)."""
    trial.run("worker")


def node(trial: Trial) -> None:
    """A node killed in mid-task."""
    trial.run("node", lambda _: trial.kill_node(trial.begun(1)[0].read_text()))


def driver(trial: Trial) -> None:
    """The driver killed in mid-run (SIGKILL), run again."""

    def kill(process: subprocess.Popen[bytes]) -> None:
        trial.begun(4)
        process.send_signal(signal.SIGKILL)

    trial.run("", kill)
    trial.run("")


def poison(trial: Trial) -> None:
    """A segment that crashes its process (SIGSEGV); then a run in which it does not."""
    trial.run("poison")
    trial.run("")


ROWS: tuple[Callable[[Trial], None], ...] = (quiet, worker, node, driver, poison)


def _left(folder: Path) -> str:
    """Return what stands in a folder as finished, in words."""
    times, damaged = Counter[str](), 0
    for path in folder.glob("out/**/*.parquet"):
        try:
            times.update(pq.ParquetFile(path).read(["segment"])["segment"].to_pylist())
        except (pa.ArrowException, OSError):
            damaged += 1
    times.update(path.stem for path in folder.glob("root/shards/default/receipts/*-*.parquet"))
    twice = sum(count > 1 for count in times.values())
    words = f"{len(times)} of {_NUM_SEGMENTS * len(VIDEOS)}"
    return (
        words + (f", {twice} twice" if twice else "") + (f", {damaged} damaged" if damaged else "")
    )


def main() -> int:
    """Run every row on every system, and write the table into the page."""
    systems = [System("wtours", "wtours_shard", sys.executable)]
    python = os.environ.get(PEERS)
    if python is None:
        sys.exit(f"{PEERS} names no Python of the other engines: see the beginning of this file")
    systems += [System("Ray Data", "ray_data", python), System("Daft", "daft_ray", python)]
    cells: dict[str, list[str]] = {(row.__doc__ or "").rstrip("."): [] for row in ROWS}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        walk = write_walk(Path(name) / "walk.mp4")
        for system in systems:
            with system.cluster() as (address, kill):
                for row, found in zip(ROWS, cells.values(), strict=True):
                    folder = Path(name) / f"{system.program}-{row.__name__}"
                    _prepare(folder, walk)
                    trial = Trial(system, folder, address, kill)
                    row(trial)
                    found.append("; ".join(trial.told))
                    print(f"{system.name}: {row.__doc__} {found[-1]}", flush=True)
    lines = [f"| disturbance | {' | '.join(system.name for system in systems)} |"]
    lines += [f"|{'---|' * (1 + len(systems))}"]
    lines += [f"| {what} | {' | '.join(found)} |" for what, found in cells.items()]
    write_table("peers", lines)
    return 0


def _prepare(folder: Path, walk: Path) -> None:
    """Write what a run needs: a workspace for wtours, a table of the segments for the others."""
    layout = workspace(folder / "root", dict.fromkeys(VIDEOS, walk))
    (folder / "segments").mkdir()
    for video_id in VIDEOS:
        path = str(layout.video_dir(video_id) / f"{video_id}.mp4")
        for number in range(_NUM_SEGMENTS):
            segment = f"{video_id}-{number}"
            row = pa.table({"segment": [segment], "path": [path], "number": [number]})
            pq.write_table(row, folder / "segments" / f"{segment}.parquet")


if __name__ == "__main__":
    sys.exit(main())
