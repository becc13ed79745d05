"""Small real videos for the tests, written by FFmpeg from its own test sources."""

import shlex
import subprocess
from pathlib import Path
from typing import Any

import ffmpeg
import imageio_ffmpeg


def write_clip(
    path: Path,
    *,
    source: str = "testsrc2=size=160x120:rate=30:duration=4",
    filters: str | None = None,
    **output: Any,
) -> Path:
    """Write an H.264 clip of a lavfi source; `output` are FFmpeg's output options."""
    settings: dict[str, Any] = {"vcodec": "libx264", "pix_fmt": "yuv420p", "g": 30, **output}
    if filters is not None:
        settings["vf"] = filters
    stream = ffmpeg.input(source, format="lavfi").output(str(path), **settings)
    ffmpeg.run(stream, cmd=imageio_ffmpeg.get_ffmpeg_exe(), quiet=True, overwrite_output=True)
    return path


def write_two_streams(path: Path) -> Path:
    """Write a .mov with a bright video of 3 s and a black one, as cameras with two lenses do."""
    sources = ("testsrc2=size=64x48:rate=10:duration=3", "color=black:size=64x48:rate=10:d=3")
    inputs = [word for source in sources for word in ("-f", "lavfi", "-i", source)]
    program = imageio_ffmpeg.get_ffmpeg_exe()
    maps = ("-map", "0", "-map", "1")
    subprocess.run([program, "-v", "error", *inputs, *maps, str(path)], check=True)
    return path


def remux(source: Path, path: Path, **output: Any) -> Path:
    """Copy the stream of `source` into another container."""
    stream = ffmpeg.input(str(source)).output(str(path), c="copy", **output)
    ffmpeg.run(stream, cmd=imageio_ffmpeg.get_ffmpeg_exe(), quiet=True, overwrite_output=True)
    return path


def mended(problem: str, path: Path, name: str) -> Path:
    """Run the command that a refusal ends in."""
    command = problem[problem.index("ffmpeg ") :].removesuffix(")")
    out = path.with_name(name)
    words = [str(path) if word == "IN" else word for word in shlex.split(command)[1:]]
    words = [str(out) if word.startswith("OUT.") else word for word in words]
    program = imageio_ffmpeg.get_ffmpeg_exe()
    subprocess.run([program, "-v", "error", "-nostdin", *words], check=True)
    return out
