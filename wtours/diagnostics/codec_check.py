"""Whether the video codecs that YouTube serves can really be decoded here."""

import os
import subprocess
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import av.error
import imageio_ffmpeg
import numpy as np
from av.video.stream import VideoStream

from wtours.errors import VideoError
from wtours.media.file_types import Codec
from wtours.media.reader import open_video

_ENCODERS = {Codec.H264: "libx264", Codec.VP9: "libvpx-vp9", Codec.AV1: "libsvtav1"}
_NUM_FRAMES = 5
_SIDE = 64


def decode_test_clip(codec: Codec) -> str:
    """Write a tiny clip and decode it; return what was decoded, in words.

    Raises:
        VideoError: it cannot be written, or its frames do not come back.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        try:
            _encode(path, codec)
        except (av.error.FFmpegError, ValueError) as error:
            raise VideoError(f"no test clip could be written by {_ENCODERS[codec]}: {error}") from (
                error
            )
        with open_video(path) as reader:
            found = reader.metadata.codec
            shades = [float(frame.to_rgb().mean()) for frame in reader.frames()]
    expected = [_shade(n) for n in range(_NUM_FRAMES)]
    if found != codec or len(shades) != _NUM_FRAMES or not np.allclose(shades, expected, atol=8):
        raise VideoError(f"a clip of {_NUM_FRAMES} frames came back as {len(shades)} of {found}")
    return f"{_NUM_FRAMES} of {_NUM_FRAMES} frames"


def ffmpeg_version() -> str:
    """Return the version of the bundled ffmpeg program, which renders the demo.

    Raises:
        VideoError: there is none that runs.
    """
    try:
        program = imageio_ffmpeg.get_ffmpeg_exe()
        result = subprocess.run(
            [program, "-version"], capture_output=True, text=True, timeout=30, check=True
        )
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        raise VideoError(f"no ffmpeg program that runs ({error})") from error
    return " ".join(result.stdout.split()[2:3]) + f", and PyAV {av.__version__}"


def _encode(path: Path, codec: Codec) -> None:
    os.environ.setdefault("SVT_LOG", "0")  # else the AV1 encoder writes its settings to stderr
    with av.open(str(path), "w") as container:
        stream = container.add_stream(_ENCODERS[codec], rate=Fraction(5))
        assert isinstance(stream, VideoStream)
        stream.width = stream.height = _SIDE
        stream.pix_fmt = "yuv420p"
        for n in range(_NUM_FRAMES):
            pixels = np.full((_SIDE, _SIDE, 3), _shade(n), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def _shade(n: int) -> int:
    return 40 * (n + 1)
