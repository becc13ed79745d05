"""How fast lightness and cuts are, against decoding alone and against the tools used today.

Every row is a ratio of two runs made one after the other. CPU seconds say what the code costs,
whatever else the machine does; wall-clock rows are judged on an idle machine only. Today's tools
decode on every core, so their wall clock is held against `--jobs` of as many.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import imageio_ffmpeg

from benchmarks.rows import OUT, Row, publish_rows
from wtours.analyze.pipeline import analyze_videos
from wtours.analyze.video_folder import folder_videos
from wtours.execution.processes import ProcessExecutor
from wtours.workspace.layout import Layout

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
# Pixels, megabits a second (about the rates of the copies that YouTube serves), seconds encoded,
# and seconds of the clip: so many that what a video costs once hardly counts.
SIZES = {"1080p60": ("1920x1080", 6, 2, 16), "4K60": ("3840x2160", 20, 1, 4)}
ENCODERS = {
    "H.264": ("libx264", "-preset", "veryfast"),
    "VP9": ("libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-row-mt", "1"),
    "AV1": ("libsvtav1", "-preset", "12"),
}
_LONG_SECONDS = 120
"""Of the clip that two processes share: starting them must not count."""
_ROUNDS = 2
"""Of a short clip, in turn with its peers: the best of each counts."""
_IDLE_SHARE = 0.9


@dataclass(frozen=True)
class Cost:
    """What a run took."""

    wall: float
    cpu: float
    """Seconds on all cores together."""
    peak_mib: float = 0


def main() -> int:
    """Measure every clip and print the table."""
    # First, while this process is small: a child's peak is never below that of its parent.
    rows = [_memory_row(codec, _clip("4K60", codec)) for codec in ENCODERS]
    for size in SIZES:
        for codec in ENCODERS:
            rows += _clip_rows(f"{size} {codec}", _clip(size, codec))
            print(*(f"{row.name}: {row.value:.2f}" for row in rows[-4:]), sep="\n", flush=True)
    rows += _jobs_rows(_clip("1080p60", "H.264", _LONG_SECONDS))
    return publish_rows("analyze", rows)


def _memory_row(codec: str, clip: Path) -> Row:
    command = [sys.executable, "-m", "wtours", "analyze", "--jobs", "1"]
    with tempfile.TemporaryDirectory() as root:
        cost = _run([*command, "--root", root, "--from-dir", str(clip.parent)])
    return Row(
        name=f"4K60 {codec}: peak memory, --jobs 1",
        value=cost.peak_mib,
        unit="MiB",
        goal="< 1024",
        holds=cost.peak_mib < 1024,
    )


def _share_of_cores() -> float:
    """Return how much of every core a process gets: what other work leaves over, 0 to 1."""
    spin = "import time\nw, c = time.perf_counter(), time.process_time()\n"
    spin += "while time.perf_counter() - w < 0.5: pass\nprint((time.process_time() - c) / 0.5)"
    command = [sys.executable, "-c", spin]
    cores = range(len(os.sched_getaffinity(0)))
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in cores]
    return min(float(process.communicate()[0]) for process in running)


def _clip_rows(name: str, clip: Path) -> list[Row]:
    """Compare one clip's analysis in one process, on one decoding thread, with its peers."""
    share = _share_of_cores()
    rounds = [
        (
            _here(lambda: _analyze(clip, jobs=1, segment_seconds=60)),
            _run([FFMPEG, "-v", "error", "-threads", "1", "-i", str(clip), "-f", "null", "-"]),
            *_todays_tools(clip),
        )
        for _ in range(_ROUNDS)
    ]
    ours, decode, cuts, light = (_best(costs) for costs in zip(*rounds, strict=True))
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
        _run([*scenedetect, "-i", str(clip), "detect-adaptive"]), _run([*scenedetect, "version"])
    )
    light = _run([FFMPEG, "-v", "error", "-i", str(clip), "-vf", "signalstats", "-f", "null", "-"])
    return cuts, light


def _best(costs: Sequence[Cost]) -> Cost:
    return Cost(min(cost.wall for cost in costs), min(cost.cpu for cost in costs))


def _less(cost: Cost, start: Cost) -> Cost:
    """Return the cost without that of starting the program: ours is measured without it too."""
    return Cost(cost.wall - start.wall, cost.cpu - start.cpu)


def _jobs_rows(clip: Path) -> list[Row]:
    share = _share_of_cores()
    one = _here(lambda: _analyze(clip, jobs=1, segment_seconds=10))
    two = _here(lambda: _analyze(clip, jobs=2, segment_seconds=10))
    cuts, light = _todays_tools(clip)
    name = "1080p60 H.264: --jobs 2, of"
    share = min(share, _share_of_cores())
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
    judged = share >= _IDLE_SHARE
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


def _here(work: Callable[[], None]) -> Cost:
    """Run in this process, which has everything imported (its children's CPU is counted too)."""
    times, start = os.times(), perf_counter()
    work()
    spent = [after - before for before, after in zip(times, os.times(), strict=True)]
    return Cost(perf_counter() - start, sum(spent[:4]))


def _run(command: Sequence[str]) -> Cost:
    start = perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: {errors.decode()[-400:]}")
    wall = perf_counter() - start
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def _clip(size: str, codec: str, seconds: int | None = None) -> Path:
    """Return a clip, encoded once: moving shapes with some noise, and repeated without encoding."""
    pixels, megabits, encoded_seconds, usual_seconds = SIZES[size]
    seconds = seconds or usual_seconds
    folder = OUT / "analyze_clips" / f"{size}_{codec}_{seconds}s"
    path, encoded = folder / "clip.mp4", folder.parent / f"{size}_{codec} once.mp4"
    common = [FFMPEG, "-y", "-v", "error"]
    if not encoded.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        source = f"testsrc2=size={pixels}:rate=60:duration={encoded_seconds},noise=alls=4:allf=t"
        encoder, *options = ENCODERS[codec]
        video = ["-c:v", encoder, *options, "-b:v", f"{megabits}M", "-g", "120"]
        part = encoded.with_name("part.tmp")
        inputs = ["-f", "lavfi", "-i", source, "-pix_fmt", "yuv420p"]
        _run([*common, *inputs, *video, "-f", "mp4", str(part)])
        part.rename(encoded)
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_name("part.tmp")
        loop = ["-stream_loop", str(seconds // encoded_seconds - 1), "-i", str(encoded)]
        _run([*common, *loop, "-c", "copy", "-f", "mp4", str(part)])
        part.rename(path)
    return path


if __name__ == "__main__":
    sys.exit(main())
