"""Clips that benchmarks encode once, and what running something costs."""

import contextlib
import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import imageio_ffmpeg

from benchmarks.rows import OUT

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
# Pixels, megabits a second (about the rates of the copies that YouTube serves), seconds encoded,
# and seconds of the clip: so many that what a video costs once hardly counts.
SIZES = {"1080p60": ("1920x1080", 6, 2, 16), "4K60": ("3840x2160", 20, 1, 4)}
ENCODERS = {
    "H.264": ("libx264", "-preset", "veryfast"),
    "VP9": ("libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-row-mt", "1"),
    "AV1": ("libsvtav1", "-preset", "12"),
}


@dataclass(frozen=True)
class Cost:
    """What a run took."""

    wall: float
    cpu: float
    """Seconds on all cores together."""
    peak_mib: float = 0


def cost_here(work: Callable[[], object]) -> Cost:
    """Run in this process, which has everything imported (its children's CPU is counted too)."""
    times, start = os.times(), perf_counter()
    work()
    spent = [after - before for before, after in zip(times, os.times(), strict=True)]
    return Cost(perf_counter() - start, sum(spent[:4]))


def cost_of_tree(work: Callable[[], object]) -> Cost:
    """Run in this process; the CPU of every process below it is counted, those that go on too."""
    before, start = _cpu_of_tree(), perf_counter()
    work()
    return Cost(perf_counter() - start, _cpu_of_tree() - before)


def _cpu_of_tree() -> float:
    parents, seconds = dict[int, int](), dict[int, float]()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            fields = path.read_text().rpartition(")")[2].split()
            parents[int(path.parent.name)] = int(fields[1])
            # Its own, and of the children that it has waited for: user and system.
            seconds[int(path.parent.name)] = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    tree = {os.getpid()}
    while below := {child for child, parent in parents.items() if parent in tree} - tree:
        tree |= below
    return sum(seconds.get(process, 0) for process in tree)


def cost_of(command: Sequence[str]) -> Cost:
    """Run a command; its peak is that of its first process, its CPU that of all it waited for."""
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


def clip(size: str, codec: str, seconds: int | None = None) -> Path:
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
        cost_of([*common, *inputs, *video, "-f", "mp4", str(part)])
        part.rename(encoded)
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_name("part.tmp")
        loop = ["-stream_loop", str(seconds // encoded_seconds - 1), "-i", str(encoded)]
        cost_of([*common, *loop, "-c", "copy", "-f", "mp4", str(part)])
        part.rename(path)
    return path


def best(costs: Sequence[Cost]) -> Cost:
    """Return the least CPU, wall clock and memory of several runs of the same."""
    return Cost(
        *(min(getattr(cost, name) for cost in costs) for name in ("wall", "cpu", "peak_mib"))
    )
