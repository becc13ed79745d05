"""How fast lightness and cuts are, against decoding alone and against the tools used today.

Every row is a ratio of two runs made one after the other. CPU seconds say what the code costs,
whatever else the machine does; wall-clock rows are judged on an idle machine only.
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

from benchmarks.report import OUT, Row, publish_rows
from wtours.analyze.folders import folder_videos
from wtours.analyze.pipeline import analyze_videos
from wtours.layout import Layout

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
# At about the rates of the copies that YouTube serves; the second figure is megabits a second.
SIZES = {"1080p60": ("1920x1080", 6, 3), "4K60": ("3840x2160", 20, 1)}
ENCODERS = {
    "H.264": ("libx264", "-preset", "veryfast"),
    "VP9": ("libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-row-mt", "1"),
    "AV1": ("libsvtav1", "-preset", "12"),
}
_SECONDS = 4


@dataclass(frozen=True)
class Cost:
    """What a run took."""

    wall: float
    cpu: float
    """Seconds on all cores together."""
    peak_mib: float = 0


def main() -> int:
    """Measure every clip and print the table."""
    rows: list[Row] = []
    idle = os.getloadavg()[0] < 1
    for size in SIZES:
        for codec in ENCODERS:
            clip = _clip(size, codec)
            rows += _clip_rows(f"{size} {codec}", clip, idle=idle)
            print(*(f"{row.name}: {row.value:.2f}" for row in rows[-6:]), sep="\n", flush=True)
    rows.append(_jobs_row(_clip("1080p60", "H.264"), idle=idle))
    command = [sys.executable, "-m", "wtours", "analyze", "--jobs", "1"]
    with tempfile.TemporaryDirectory() as root:
        clip = _clip("4K60", "H.264")
        cost = _run([*command, "--root", root, "--from-dir", str(clip.parent)])
    rows.append(
        Row(
            name="peak memory at 4K60 H.264, --jobs 1",
            value=cost.peak_mib,
            unit="MiB",
            goal="< 1024",
            holds=cost.peak_mib < 1024,
        )
    )
    return publish_rows("analyze", rows)


def _clip_rows(name: str, clip: Path, *, idle: bool) -> list[Row]:
    """Compare one clip's analysis with its peers."""
    ours = _here(lambda: _analyze(clip, jobs=1, segment_seconds=60))
    decode = _run([FFMPEG, "-v", "error", "-i", str(clip), "-f", "null", "-"])
    scenedetect = [sys.executable, "-m", "scenedetect", "-q", "-b", "pyav"]
    cuts = _less(
        _run([*scenedetect, "-i", str(clip), "detect-adaptive"]), _run([*scenedetect, "version"])
    )
    light = _run([FFMPEG, "-v", "error", "-i", str(clip), "-vf", "signalstats", "-f", "null", "-"])
    both = Cost(cuts.wall + light.wall, cuts.cpu + light.cpu)
    rows = []
    for what, peer, goal in (
        ("rate, of ffmpeg -f null", decode, 0.45),
        ("rate, of scenedetect then signalstats", both, 3.0),
        ("rate, of scenedetect alone", cuts, 1.0),
    ):
        ratio = peer.cpu / ours.cpu
        rows.append(_row(f"{name}: {what}, CPU", ratio, goal, judged=True))
        rows.append(_row(f"{name}: {what}, wall", peer.wall / ours.wall, goal, judged=idle))
    return rows


def _less(cost: Cost, start: Cost) -> Cost:
    """Return the cost without that of starting the program: ours is measured without it too."""
    return Cost(cost.wall - start.wall, cost.cpu - start.cpu)


def _jobs_row(clip: Path, *, idle: bool) -> Row:
    one = _here(lambda: _analyze(clip, jobs=1, segment_seconds=2))
    two = _here(lambda: _analyze(clip, jobs=2, segment_seconds=2))
    return _row("1080p60 H.264: --jobs 2, of --jobs 1, wall", one.wall / two.wall, 1.6, judged=idle)


def _row(name: str, ratio: float, goal: float, *, judged: bool) -> Row:
    return Row(
        name=name,
        value=ratio,
        unit="times",
        goal=f">= {goal:g}",
        holds=ratio >= goal if judged else None,
        reason="" if judged else "the machine is busy",
    )


def _analyze(clip: Path, *, jobs: int, segment_seconds: int) -> None:
    files = {i: path for i, path in folder_videos(clip.parent).items() if path == clip.resolve()}
    with tempfile.TemporaryDirectory() as root:
        report = analyze_videos(
            Layout(Path(root)), files, jobs=jobs, segment_seconds=segment_seconds
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


def _clip(size: str, codec: str) -> Path:
    """Return a clip, encoded once: moving shapes with some noise, and repeated without encoding."""
    pixels, megabits, repeats = SIZES[size]
    folder = OUT / "analyze_clips" / f"{size}_{codec}"
    path, encoded = folder / "clip.mp4", folder.parent / f"{folder.name} once.mp4"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        source = f"testsrc2=size={pixels}:rate=60:duration={_SECONDS},noise=alls=4:allf=t"
        encoder, *options = ENCODERS[codec]
        video = ["-c:v", encoder, *options, "-b:v", f"{megabits}M", "-g", "120"]
        common = [FFMPEG, "-y", "-v", "error"]
        _run([*common, "-f", "lavfi", "-i", source, "-pix_fmt", "yuv420p", *video, str(encoded)])
        part = path.with_name("part.tmp")
        loop = ["-stream_loop", str(repeats - 1), "-i", str(encoded), "-c", "copy"]
        _run([*common, *loop, "-f", "mp4", str(part)])
        part.rename(path)
    return path


if __name__ == "__main__":
    sys.exit(main())
