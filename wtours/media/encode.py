"""Writing frames as H.264 in MP4, by ffmpeg-python and imageio-ffmpeg's ffmpeg."""

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import IO

import ffmpeg
import imageio_ffmpeg

from wtours.errors import WtoursError

_THREADS = 2
"""A fixed number: the bytes depend on it."""


@contextlib.contextmanager
def open_encoder(
    path: Path, *, size: tuple[int, int], frame_rate: Fraction | int
) -> Iterator[IO[bytes]]:
    """Yield a pipe that takes (H, W, 3) uint8 BGR frames, row by row; the file is whole on leaving.

    Args:
        path: Of the video.
        size: Width and height in pixels.
        frame_rate: Frames a second.

    Raises:
        WtoursError: ffmpeg could not write the file; the message is ffmpeg's last line.
    """
    source = ffmpeg.input(
        "pipe:",
        format="rawvideo",
        pix_fmt="bgr24",
        video_size=size,
        framerate=str(frame_rate),
    )
    output = source.filter("scale", out_color_matrix="bt709", out_range="tv").output(
        str(path),
        format="mp4",
        vcodec="libx264",
        preset="veryfast",
        crf=20,
        pix_fmt="yuv420p",
        threads=_THREADS,
        colorspace="bt709",
        color_primaries="bt709",
        color_trc="bt709",
        color_range="tv",
        movflags="+faststart",
        fflags="+bitexact",
        **{"flags:v": "+bitexact"},
    )
    command = output.global_args("-loglevel", "error").overwrite_output()
    process = command.run_async(
        cmd=imageio_ffmpeg.get_ffmpeg_exe(), pipe_stdin=True, pipe_stderr=True
    )
    try:
        try:
            yield process.stdin
            process.stdin.close()
            code = process.wait()
        except BrokenPipeError:
            code = process.wait() or 1
        if code != 0:
            lines = process.stderr.read().decode(errors="replace").strip().splitlines() or ["?"]
            raise WtoursError(f"ffmpeg could not write {path}: {lines[-1]}")
    finally:
        process.kill()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.stderr.close()
        process.wait()
