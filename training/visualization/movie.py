"""Pictures as a film that plays anywhere: H.264, yuv420p, in MP4, by ffmpeg-python."""

from collections.abc import Sequence
from pathlib import Path

import ffmpeg
import imageio_ffmpeg
import numpy as np

from training.visualization.overlay import Picture
from wtours.errors import WtoursError
from wtours.storage.atomic import atomic_path

_THREADS = 2
"""A fixed number: the bytes depend on it."""
_FRAME_RATE = 30
"""Frames a second; a picture stays as long as it shall. Players stumble over one a second."""


def write_movie(path: Path, pictures: Sequence[Picture], *, seconds_each: float) -> None:
    """Write pictures of one size one after the other; an odd width or height gets a white edge.

    Raises:
        WtoursError: ffmpeg could not write the file; the message has ffmpeg's last line.
    """
    height, width = pictures[0].shape[:2]
    source = ffmpeg.input(
        "pipe:",
        format="rawvideo",
        pix_fmt="rgb24",
        video_size=(width, height),
        framerate=1 / seconds_each,
    )
    frames = source.filter("pad", "ceil(iw/2)*2", "ceil(ih/2)*2", color="white")
    frames = frames.filter("fps", _FRAME_RATE)
    frames = frames.filter("scale", out_color_matrix="bt709", out_range="tv")
    with atomic_path(path) as unfinished:
        command = frames.output(
            str(unfinished),
            format="mp4",
            vcodec="libx264",
            crf=18,
            pix_fmt="yuv420p",
            threads=_THREADS,
            colorspace="bt709",
            color_primaries="bt709",
            color_trc="bt709",
            color_range="tv",
            movflags="+faststart",
            fflags="+bitexact",
            **{"flags:v": "+bitexact"},
        ).global_args("-loglevel", "error")
        try:
            command.run(
                cmd=imageio_ffmpeg.get_ffmpeg_exe(),
                input=np.stack(pictures).tobytes(),
                capture_stderr=True,
                overwrite_output=True,
            )
        except ffmpeg.Error as error:
            lines = error.stderr.decode(errors="replace").strip().splitlines() or ["?"]
            raise WtoursError(f"ffmpeg could not write {path}: {lines[-1]}") from error
