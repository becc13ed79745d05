"""Writing frames as H.264 in MP4 that plays anywhere, by ffmpeg-python and imageio-ffmpeg's ffmpeg.

Equal frames give equal bytes: the number of threads is fixed and nothing of the build is written.
"""

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import ffmpeg
import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

from wtours.errors import WtoursError

_US = Fraction(1, 1_000_000)
_OUTPUT = {
    "format": "mp4",
    "vcodec": "libx264",
    "pix_fmt": "yuv420p",
    "threads": 2,  # a fixed number: the bytes depend on it
    "colorspace": "bt709",
    "color_primaries": "bt709",
    "color_trc": "bt709",
    "color_range": "tv",
    "movflags": "+faststart",
    "fflags": "+bitexact",
    "flags:v": "+bitexact",
}


@contextlib.contextmanager
def open_encoder(
    path: Path,
    *,
    size: tuple[int, int],
    frame_rate: Fraction | float,
    pixel_format: Literal["bgr24", "rgb24"] = "bgr24",
    output_rate: int | None = None,
    crf: int = 20,
    preset: str = "veryfast",
) -> Iterator[Callable[[NDArray[np.uint8]], None]]:
    """Yield a function that takes the frames one by one; the file is whole on leaving.

    Args:
        path: Of the video.
        size: Width and height in pixels; an odd one gets a white edge of a pixel.
        frame_rate: Frames a second, as they come.
        pixel_format: Order of the channels of a frame, (H, W, 3) uint8.
        output_rate: Frames a second of the file, each frame repeated or dropped to fit; None: as
            they come. Players stumble over one a second.
        crf: x264's constant rate factor: lower is better and larger.
        preset: x264's.

    Raises:
        WtoursError: ffmpeg could not write the file; the message is ffmpeg's last line.
    """
    width, height = size
    stream = ffmpeg.input(
        "pipe:",
        format="rawvideo",
        pix_fmt=pixel_format,
        video_size=size,
        framerate=str(frame_rate),
    )
    if width % 2 or height % 2:
        stream = stream.filter("pad", "ceil(iw/2)*2", "ceil(ih/2)*2", color="white")
    if output_rate is not None:
        stream = stream.filter("fps", output_rate)
    output = stream.filter("scale", out_color_matrix="bt709", out_range="tv").output(
        str(path), preset=preset, crf=crf, **_OUTPUT
    )
    command = output.global_args("-loglevel", "error").overwrite_output()
    process = command.run_async(
        cmd=imageio_ffmpeg.get_ffmpeg_exe(), pipe_stdin=True, pipe_stderr=True
    )

    def write(frame: NDArray[np.uint8]) -> None:
        if frame.shape != (height, width, 3):  # else every row after it would be sheared
            raise ValueError(f"a frame of {frame.shape}, not {(height, width, 3)}")
        process.stdin.write(np.ascontiguousarray(frame).data)

    try:
        try:
            yield write
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


def set_times(path: Path, times_us: Sequence[int], *, frame_rate: Fraction) -> None:
    """Show the frames of a video at times of their own, from 0 on; nothing is encoded again.

    Args:
        path: Of a video of `open_encoder`; it is replaced.
        times_us: When each frame is shown, ascending, one after the other in the order of time.
        frame_rate: That it was encoded at.
    """
    options = {"fflags": "+bitexact", "movflags": "+faststart", "video_track_timescale": "1000000"}
    with (
        av.open(io.BytesIO(path.read_bytes()), "r") as encoded,
        av.open(str(path), "w", format="mp4", options=options) as output,
    ):
        stream = encoded.streams.video[0]
        copy = output.add_stream_from_template(stream)

        def moved(ticks: int) -> int:
            """Return when the frame is shown that has the place of `ticks`; before 0 is none."""
            number = round(ticks * Fraction(stream.time_base or 0) * frame_rate)
            if number < 0:  # a decoder begins earlier, where frames are reordered
                return round(number / frame_rate / _US)
            return times_us[number] - times_us[0]

        for packet in encoded.demux(stream):
            if packet.pts is None or packet.dts is None:
                continue  # the end of the stream
            packet.pts, packet.dts = moved(packet.pts), moved(packet.dts)
            packet.duration = round(1 / frame_rate / _US)
            packet.time_base, packet.stream = _US, copy
            output.mux(packet)
