"""How fast lightness and cuts are, against decoding alone and against the tools used today.

Every row is a ratio of two runs made one after the other. CPU seconds say what the code costs,
whatever else the machine does; wall-clock rows are judged on an idle machine only. Today's tools
decode on every core, so their wall clock is held against `--jobs` of as many.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.clips import ENCODERS, FFMPEG, SIZES, Cost, best, clip, cost_here, cost_of
from benchmarks.rows import Row, publish_rows
from wtours.analyze.pipeline import analyze_videos
from wtours.analyze.video_folder import folder_videos
from wtours.execution.processes import ProcessExecutor
from wtours.workspace.layout import Layout

_LONG_SECONDS = 120
"""Of the clip that two processes share: starting them must not count."""
_ROUNDS = 2
"""Of a short clip, in turn with its peers: the best of each counts."""
IDLE_SHARE = 0.9


def main() -> int:
    """Measure every clip and print the table."""
    # First, while this process is small: a child's peak is never below that of its parent.
    rows = [_memory_row(codec, clip("4K60", codec)) for codec in ENCODERS]
    for size in SIZES:
        for codec in ENCODERS:
            rows += _clip_rows(f"{size} {codec}", clip(size, codec))
            print(*(f"{row.name}: {row.value:.2f}" for row in rows[-4:]), sep="\n", flush=True)
    rows += _jobs_rows(clip("1080p60", "H.264", _LONG_SECONDS))
    return publish_rows("analyze", rows)


def _memory_row(codec: str, clip: Path) -> Row:
    command = [sys.executable, "-m", "wtours", "analyze", "--jobs", "1"]
    with tempfile.TemporaryDirectory() as root:
        cost = cost_of([*command, "--root", root, "--from-dir", str(clip.parent)])
    return Row(
        name=f"4K60 {codec}: peak memory, --jobs 1",
        value=cost.peak_mib,
        unit="MiB",
        goal="< 1024",
        holds=cost.peak_mib < 1024,
    )


def share_of_cores() -> float:
    """Return how much of every core a process gets: what other work leaves over, 0 to 1."""
    spin = "import time\nw, c = time.perf_counter(), time.process_time()\n"
    spin += "while time.perf_counter() - w < 0.5: pass\nprint((time.process_time() - c) / 0.5)"
    command = [sys.executable, "-c", spin]
    cores = range(len(os.sched_getaffinity(0)))
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in cores]
    return min(float(process.communicate()[0]) for process in running)


def _clip_rows(name: str, clip: Path) -> list[Row]:
    """Compare one clip's analysis in one process, on one decoding thread, with its peers."""
    share = share_of_cores()
    rounds = [
        (
            cost_here(lambda: _analyze(clip, jobs=1, segment_seconds=60)),
            cost_of([FFMPEG, "-v", "error", "-threads", "1", "-i", str(clip), "-f", "null", "-"]),
            *_todays_tools(clip),
        )
        for _ in range(_ROUNDS)
    ]
    ours, decode, cuts, light = (best(costs) for costs in zip(*rounds, strict=True))
    what = "rate, of ffmpeg -threads 1 -f null"
    return [
        _row(f"{name}: {what}, CPU", decode.cpu / ours.cpu, 0.45, share=1.0),
        _row(f"{name}: {what}, wall", decode.wall / ours.wall, 0.45, share=share),
        _row(
            f"{name}: rate, of scenedetect then signalstats, CPU",
            (cuts.cpu + light.cpu) / ours.cpu,
            3.0,
            share=1.0,
        ),
        _row(f"{name}: rate, of scenedetect alone, CPU", cuts.cpu / ours.cpu, 1.0, share=1.0),
    ]


def _todays_tools(clip: Path) -> tuple[Cost, Cost]:
    """Return what scenedetect and ffmpeg's signalstats take, each on as many cores as it likes."""
    scenedetect = [sys.executable, "-m", "scenedetect", "-q", "-b", "pyav"]
    cuts = _less(
        cost_of([*scenedetect, "-i", str(clip), "detect-adaptive"]),
        cost_of([*scenedetect, "version"]),
    )
    light = cost_of(
        [FFMPEG, "-v", "error", "-i", str(clip), "-vf", "signalstats", "-f", "null", "-"]
    )
    return cuts, light


def _less(cost: Cost, start: Cost) -> Cost:
    """Return the cost without that of starting the program: ours is measured without it too."""
    return Cost(cost.wall - start.wall, cost.cpu - start.cpu)


def _jobs_rows(clip: Path) -> list[Row]:
    share = share_of_cores()
    one = cost_here(lambda: _analyze(clip, jobs=1, segment_seconds=10))
    two = cost_here(lambda: _analyze(clip, jobs=2, segment_seconds=10))
    cuts, light = _todays_tools(clip)
    name = "1080p60 H.264: --jobs 2, of"
    share = min(share, share_of_cores())
    return [
        _row(
            f"{name} --jobs 1, twice by CPU: two free cores",
            2 * one.cpu / two.cpu,
            1.6,
            share=1.0,
        ),
        _row(f"{name} --jobs 1, wall", one.wall / two.wall, 1.6, share=share),
        _row(
            f"{name} scenedetect then signalstats, wall",
            (cuts.wall + light.wall) / two.wall,
            3.0,
            share=share,
        ),
        _row(f"{name} scenedetect alone, wall", cuts.wall / two.wall, 1.0, share=share),
    ]


def _row(name: str, ratio: float, goal: float, *, share: float) -> Row:
    judged = share >= IDLE_SHARE
    return Row(
        name=name,
        value=ratio,
        unit="times",
        goal=f">= {goal:g}",
        holds=ratio >= goal if judged else None,
        reason="" if judged else f"busy: other work takes {1 - share:.0%} of a core",
    )


def _analyze(clip: Path, *, jobs: int, segment_seconds: int) -> None:
    files = {i: path for i, path in folder_videos(clip.parent).items() if path == clip.resolve()}
    with tempfile.TemporaryDirectory() as root:
        layout = Layout(Path(root))
        if jobs == 1:
            report = analyze_videos(layout, files, segment_seconds=segment_seconds)
        else:
            with ProcessExecutor(jobs) as executor:
                report = analyze_videos(
                    layout, files, executor=executor, segment_seconds=segment_seconds
                )
    if not report.done:
        raise RuntimeError(f"{clip}: {report.failed}")


if __name__ == "__main__":
    sys.exit(main())
