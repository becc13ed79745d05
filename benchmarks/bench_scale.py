"""Past one machine: what one decode saves, what the scheduler costs, how long listing takes.

Ratios of runs made one after the other, by CPU seconds where other work on the machine would decide
the wall clock. `--tasks` and `--segments` make it shorter; times are then said for 600,000 of each.
"""

import argparse
import os
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from benchmarks.bench_analyze import IDLE_SHARE, share_of_cores
from benchmarks.clips import Cost, best, clip, cost_here, cost_of, cost_of_tree
from benchmarks.rows import Row, publish_rows
from wtours.analyze.pipeline import analyze_videos
from wtours.execution.executor import SERIAL, Executor
from wtours.execution.processes import ProcessExecutor
from wtours.execution.ray import RayExecutor
from wtours.media.probe import probe_video
from wtours.prepare.pipeline import prepare_videos
from wtours.prepare.plan import PrepareOptions
from wtours.sharding.build import build_shards
from wtours.sharding.missing import missing_segments
from wtours.shards.params import ShardParams
from wtours.storage.hashing import sha256_file
from wtours.storage.receipts import FileRecord, Receipt, write_receipt
from wtours.workspace.layout import Layout
from wtours.workspace.manifest import VideoEntry

ALL = 600_000
"""Segments of a minute in 10,000 hours of video."""
_GOALS = {"4K60": 0.62, "1080p60": 0.70}
_SECONDS = {"4K60": 30, "1080p60": 30}
_SEGMENTS_OF_A_VIDEO = 60


def main() -> int:
    """Measure what is asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=ALL, help="stub tasks for the scheduler")
    parser.add_argument("--segments", type=int, default=ALL, help="receipts to list")
    parser.add_argument("--seconds", type=int, default=540, help="of 1080p60 for Ray's wall clock")
    parser.add_argument("--rounds", type=int, default=2, help="of decoding; the best counts")
    sections: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
        "memory": lambda _: [_memory_row()],
        "decode": lambda options: [r for s in _GOALS for r in _decode_rows(s, options.rounds)],
        "scheduler": lambda options: _scheduler_rows(options.tasks),
        "receipts": lambda options: [_receipts_row(options.segments)],
        "ray": lambda options: _ray_rows(options.seconds),
    }
    parser.add_argument("--only", nargs="*", choices=sections, default=list(sections))
    options = parser.parse_args()
    # Memory first, while this process is small: a child's peak is never below its parent's. The
    # receipts' rows come after the scheduler's, which are of this process too.
    rows = [row for name in sections if name in options.only for row in sections[name](options)]
    return publish_rows("scale", rows)


def _workspace(root: Path, video: Path) -> Layout:
    """Return a workspace in which a video is downloaded."""
    layout = Layout(root)
    folder = layout.video_dir("walk")
    folder.mkdir(parents=True)
    shutil.copyfile(video, folder / "walk.mp4")
    record = FileRecord(path="walk.mp4", bytes=video.stat().st_size, sha256=sha256_file(video))
    facts = {**probe_video(video).to_json(), "source": "file:walk.mp4", "title": "walk"}
    receipt = Receipt(stage="download", key="walk", files=(record,), facts=facts)
    write_receipt(layout.video_receipt("walk"), receipt)
    return layout


def _prepare(layout: Layout, executor: Executor = SERIAL) -> None:
    entry = VideoEntry(id="walk", title="walk", sources=("file:walk.mp4",))
    options = PrepareOptions(params=ShardParams())
    report = prepare_videos(layout, [entry], options, executor=executor)
    if report.shards.dataset is None or report.analysis.failed or report.num_decoded_apart:
        raise RuntimeError(str(report))


def _apart(layout: Layout) -> None:
    analyzed = analyze_videos(layout, ["walk"])
    if analyzed.failed or build_shards(layout, ["walk"], params=ShardParams()).failed:
        raise RuntimeError(str(analyzed))


def _fresh(
    video: Path,
    work: Callable[[Layout], None],
    cost: Callable[[Callable[[], object]], Cost] = cost_here,
) -> Cost:
    with tempfile.TemporaryDirectory() as root:
        layout = _workspace(Path(root), video)
        return cost(lambda: work(layout))


def _memory_row() -> Row:
    manifest = 'format = 1\nname = "walk"\n[[video]]\nid = "walk"\ntitle = "walk"\n'
    manifest += 'sources = ["file:walk.mp4"]\n'
    with tempfile.TemporaryDirectory() as root:
        _workspace(Path(root), clip("4K60", "H.264", _SECONDS["4K60"]))
        (Path(root) / "walk.toml").write_text(manifest)
        command = [sys.executable, "-m", "wtours", "prepare", "--executor", "serial"]
        cost = cost_of([*command, "--root", root, "--manifest", f"{root}/walk.toml"])
    return Row(
        name="4K60 H.264: peak memory of prepare, one process",
        value=cost.peak_mib,
        unit="MiB",
        goal="< 600",
        holds=cost.peak_mib < 600,
    )


def _decode_rows(size: str, num_rounds: int) -> list[Row]:
    seconds = _SECONDS[size]
    video = clip(size, "H.264", seconds)
    rounds = [(_fresh(video, _prepare), _fresh(video, _apart)) for _ in range(num_rounds)]
    once, apart = (best(costs) for costs in zip(*rounds, strict=True))
    ratio, goal = once.cpu / apart.cpu, _GOALS[size]
    of_peer = Row(
        name=f"{size} H.264: CPU of prepare, of analyze then shard",
        value=ratio,
        unit="times",
        goal=f"<= {goal:g}",
        holds=ratio <= goal,
    )
    of_video = Row(
        name=f"{size} H.264: core-seconds of prepare for a second of video",
        value=once.cpu / seconds,
        unit="s",
        holds=True,
    )
    return [of_peer, of_video]


def _receipts_row(count: int) -> Row:
    """Measure how long it takes to find out that nothing is missing of a finished set."""
    with tempfile.TemporaryDirectory() as root:
        directory = _finished_set(Layout(Path(root)), count)
        cost = cost_here(lambda: missing_segments(directory))
        if missing_segments(directory):
            raise RuntimeError("the set is finished")
    seconds = cost.cpu * ALL / count
    return Row(
        name=f"receipts of {ALL:,} segments, local (CPU; {count:,} measured)",
        value=seconds,
        unit="s",
        goal="< 60",
        holds=seconds < 60,
    )


def _finished_set(layout: Layout, count: int) -> Path:
    """Write the receipts and (empty) files of a set of so many segments, from one that was made."""
    video = clip("1080p60", "H.264", 16)
    with tempfile.TemporaryDirectory() as root:
        made = build_shards(_workspace(Path(root), video), ["walk"], params=ShardParams()).directory
        receipts = made / "receipts"
        plan = (receipts / "walk.json").read_text().replace('"segments": 1', '"segments": 60')
        segment = (receipts / "walk-00000.json").read_text()
        tar_bytes = (made / "walk-00000.tar").stat().st_size
        rows_bytes = (receipts / "walk-00000.parquet").stat().st_size
    directory = layout.shards_dir("default")
    (directory / "receipts").mkdir(parents=True)
    for number in range(count // _SEGMENTS_OF_A_VIDEO):
        video_id = f"walk{number:06d}"
        own_plan = plan.replace('"key": "walk"', f'"key": "{video_id}"')
        (directory / "receipts" / f"{video_id}.json").write_text(own_plan)
        for index in range(_SEGMENTS_OF_A_VIDEO):
            name = f"{video_id}-{index:05d}"
            text = segment.replace("walk-00000", name)
            (directory / "receipts" / f"{name}.json").write_text(text)
            for path, size in (
                (directory / f"{name}.tar", tar_bytes),
                (directory / "receipts" / f"{name}.parquet", rows_bytes),
            ):
                with path.open("wb") as file:
                    os.truncate(file.fileno(), size)  # sparse: only its size is looked at
    return directory


@dataclass(frozen=True, slots=True)
class _Stub:
    video_id: str
    number: int


def _nothing(task: _Stub) -> int:
    return task.number


def _stubs(count: int) -> Iterator[_Stub]:
    return (_Stub(f"v{i // _SEGMENTS_OF_A_VIDEO}", i) for i in range(count))


def _scheduler_rows(count: int) -> list[Row]:
    share, memory, done = share_of_cores(), [], 0
    with RayExecutor(jobs=2) as executor:
        list(executor.map(_nothing, _stubs(200)))  # starts the workers
        start = perf_counter()
        for number, _ in enumerate(executor.map(_nothing, _stubs(count)), start=1):
            done += 1
            if number % (count // 10) == 0:
                memory.append(_resident_mib())
        rate = count / (perf_counter() - start)
    if done != count:
        raise RuntimeError(f"{done} of {count} tasks came back")
    is_idle = share >= IDLE_SHARE
    holds = True if rate >= 500 else (False if is_idle else None)
    growth = memory[-1] - memory[0]
    return [
        Row(
            name=f"scheduler: {count:,} stub tasks by Ray, 2 CPUs",
            value=rate,
            unit="tasks/s",
            goal=">= 500",
            holds=holds,
            reason="" if holds is not None else f"busy: {share:.0%} of a core was free",
        ),
        Row(
            name="scheduler: memory of the driver, at the end",
            value=memory[-1],
            unit="MiB",
            goal="< 500",
            holds=memory[-1] < 500,
        ),
        Row(
            name="scheduler: growth of the driver over the last nine tenths",
            value=growth,
            unit="MiB",
            goal="< 20",
            holds=growth < 20,
        ),
    ]


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def _ray_rows(seconds: int) -> list[Row]:
    """Compare Ray on this machine with processes, the cluster's start apart."""
    share, video = share_of_cores(), clip("1080p60", "H.264", seconds)
    with ProcessExecutor(2) as processes:
        list(processes.map(_nothing, _stubs(4)))
        local = _fresh(video, lambda layout: _prepare(layout, processes), cost_of_tree)
    with RayExecutor(jobs=2) as ray:
        list(ray.map(_nothing, _stubs(80)))
        by_ray = _fresh(video, lambda layout: _prepare(layout, ray), cost_of_tree)
    wall, cpu, is_idle = by_ray.wall / local.wall, by_ray.cpu / local.cpu, share >= IDLE_SHARE
    return [
        Row(
            name=f"Ray, 2 CPUs: wall of prepare, of --jobs 2 ({local.wall:.0f} s)",
            value=wall,
            unit="times",
            goal="<= 1.15",
            holds=wall <= 1.15 if is_idle else None,
            reason="" if is_idle else f"busy: {share:.0%} of a core was free",
        ),
        Row(
            name=f"Ray, 2 CPUs: CPU of all processes, of --jobs 2 ({local.cpu:.0f} s)",
            value=cpu,
            unit="times",
            goal="<= 1.15",
            holds=cpu <= 1.15,
        ),
    ]


if __name__ == "__main__":
    if shutil.disk_usage(tempfile.gettempdir()).free < 20 * 10**9:
        sys.exit("needs 20 GB of free space in the temporary folder")
    sys.exit(main())
