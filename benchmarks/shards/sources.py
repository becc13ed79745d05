"""What bench_shards measures on: rendered walks as 4K60 and 720p60 H.264, and their shards."""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ffmpeg
import imageio_ffmpeg

from wtours.media.image import encode_planes
from wtours.media.reader import open_video
from wtours.synthetic import WalkSpec, render_walk

CACHE = Path(tempfile.gettempdir()) / "wtours-bench"
FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
ROUND_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Source:
    """A video to measure on."""

    video_id: str
    width: int
    height: int
    bit_rate: str


SOURCES = (
    Source("walk_4k60", 3840, 2160, "25M"),
    Source("walk_720p60", 1280, 720, "5M"),
)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a program took, itself and all it started."""

    cpu_seconds: float
    peak_mib: float


_LAUNCHER = """
import json, resource, subprocess, sys
quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
code = subprocess.run(sys.argv[1:], **quiet).returncode
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([code, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024]))
"""
"""Starts a program from a process that is small itself: the kernel counts the memory of the
process that a program is started from as the program's."""


def run_measured(*command: str | Path) -> Cost:
    """Run a program to its end; its output is dropped."""
    words = [sys.executable, "-S", "-c", _LAUNCHER, *map(str, command)]
    answer = subprocess.run(words, check=True, capture_output=True).stdout
    code, cpu_seconds, peak_mib = json.loads(answer)
    if code:
        raise RuntimeError(f"{' '.join(map(str, command))}: exit code {code}")
    return Cost(cpu_seconds, peak_mib)


def source_video(source: Source, seconds: int) -> Path:
    """Return a walk of so many seconds, upscaled, with grain; kept in the temporary folder.

    x264's own distance of keyframes (250 frames at most), about as YouTube's. What is longer than
    ROUND_SECONDS goes round: to a decoder each round is as new as the first.
    """
    path = CACHE / f"{source.video_id}-{seconds}s.mp4"
    if path.exists():
        return path
    if seconds > ROUND_SECONDS:
        once = source_video(source, ROUND_SECONDS)
        stream = ffmpeg.input(str(once), stream_loop=-1)
        return _written(stream, path, t=seconds, c="copy")
    print(f"making {path}, once; a second of 4K takes eight …", file=sys.stderr)
    CACHE.mkdir(exist_ok=True)
    walk = CACHE / f"walk-{seconds}s.mp4"
    if not walk.exists():
        render_walk(WalkSpec(seconds=seconds, width=640, height=360, frame_rate=60), walk)
    stream = ffmpeg.input(str(walk)).filter("scale", source.width, source.height)
    return _written(
        stream.filter("noise", alls=10, allf="t"),
        path,
        vcodec="libx264",
        preset="veryfast",
        video_bitrate=source.bit_rate,
        maxrate=source.bit_rate,
        bufsize="50M",
        pix_fmt="yuv420p",
    )


def _written(stream: Any, path: Path, **options: Any) -> Path:
    part = path.with_suffix(".part.mp4")
    ffmpeg.run(stream.output(str(part), **options), cmd=FFMPEG, quiet=True, overwrite_output=True)
    part.rename(path)
    return path


def reduced_video(path: Path, out: Path) -> Path:
    """Write the copy that a video loader would want: 512 high, 30 fps, a keyframe each second."""
    stream = ffmpeg.input(str(path)).filter("fps", 30).filter("scale", -2, 512)
    return _written(stream, out, vcodec="libx264", crf=20, g=30, pix_fmt="yuv420p")


def sharded(source: Source, video: Path, folder: Path) -> tuple[Path, Cost, Cost]:
    """Download the video from its folder and shard it by one process.

    Returns the set, what it cost, and what the same command costs when nothing is left to do.
    """
    files, manifest, root = folder / "files", folder / "bench.toml", folder / "root"
    files.mkdir(parents=True)
    (files / f"{source.video_id}.mp4").symlink_to(video)
    manifest.write_text(
        f'format = 1\nname = "bench"\n\n[[video]]\nid = "{source.video_id}"\n'
        f'title = "A rendered walk"\nsources = ["file:{source.video_id}.mp4"]\n'
        f'domain = "Rendered"\nlicense_claimed = "CC0-1.0"\n'
    )
    common = ("--manifest", manifest, "--root", root)
    wtours = (sys.executable, "-m", "wtours")
    run_measured(*wtours, "download", *common, "--from-dir", files)
    shard = (*wtours, "shard", *common, "--jobs", "1")
    return root / "shards" / "default", run_measured(*shard), run_measured(*shard)


def ffmpeg_then_tar(video: Path, folder: Path) -> Cost:
    """Write the frames by ffmpeg, then a tar of them: what `wtours shard` is compared with."""
    folder.mkdir()
    frames = str(folder / "%06d.jpg")
    decode = run_measured(
        *(FFMPEG, "-threads", "1", "-i", video, "-vf", "fps=30,scale=-2:512", "-q:v", "3"),
        *("-threads", "1", frames),
    )
    pack = run_measured("tar", "-cf", folder / "frames.tar", "-C", folder, "--exclude=*.tar", ".")
    return Cost(decode.cpu_seconds + pack.cpu_seconds, max(decode.peak_mib, pack.peak_mib))


def inherent_seconds(video: Path, seconds: int) -> dict[str, float]:
    """Return what no shard of JPEGs can do without, in CPU-seconds: the rest is `wtours shard`'s.

    The same calls as the stage makes, a frame after another in one process: every frame is decoded,
    one in two (60 a second, sampled at 30) is reduced and encoded.
    """
    spent = dict.fromkeys(("decoding", "reducing", "JPEG"), 0.0)
    with open_video(video, threads=1) as reader:
        begun = time.process_time()
        for number, frame in enumerate(reader.frames(0, seconds * 1_000_000)):
            spent["decoding"] += time.process_time() - begun
            begun = time.process_time()
            if number % 2 == 0:
                planes = frame.to_jpeg_planes(512)
                reduced = time.process_time()
                encode_planes(planes, quality=90, codec="jpeg")
                spent["reducing"] += reduced - begun
                spent["JPEG"] += time.process_time() - reduced
            begun = time.process_time()
    return spent
