"""Whether this machine can do the work: each check says ok, or what is wrong and how to mend it."""

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from fractions import Fraction
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import av
import av.error
import imageio_ffmpeg
import numpy as np
from av.video.stream import VideoStream

from wtours.acquire.local_files import youtube_ids
from wtours.acquire.ytdlp.formats import estimate_bytes
from wtours.errors import StorageError, VideoError, WtoursError
from wtours.media.file_types import Codec
from wtours.media.reader import open_video
from wtours.storage.os_errors import SHARED_MEMORY, explain_os_errors
from wtours.text import counted
from wtours.workspace.layout import Layout
from wtours.workspace.manifest import VideoEntry
from wtours.workspace.videos import download_receipt

OLD_YTDLP_DAYS = 60
"""YouTube changes; yt-dlp itself warns at 90 days."""
_JS_RUNTIMES = {"deno": 2, "node": 20}
"""Programs by which yt-dlp reads YouTube; the oldest major version of each that it takes."""
_ENCODERS = {Codec.H264: "libx264", Codec.VP9: "libvpx-vp9", Codec.AV1: "libsvtav1"}
_NUM_FRAMES = 5
_SIDE = 64
_SHM_BYTES = 2**30
_GB = 1e9


@dataclass(frozen=True, slots=True)
class Check:
    """One line of `wtours doctor`."""

    name: str
    status: Literal["ok", "warning", "problem"]
    """A problem stops the work; a warning only some of it."""
    found: str
    remedy: str | None = None


def diagnose(
    entries: Sequence[VideoEntry], layout: Layout, *, max_height: int = 720
) -> Iterator[Check]:
    """Yield every check, for these videos under this root; no network is used."""
    needs_youtube = any(youtube_ids(entry.sources) for entry in entries)
    # An older one than 3.11 could not have installed wtours.
    yield Check("Python", "ok", platform.python_version())
    again = "pip install --force-reinstall"
    yield _tried("ffmpeg", ffmpeg_version, f"{again} imageio-ffmpeg")
    of_codec = f"{again} av: its wheels from PyPI bring all three codecs"
    for codec in Codec:
        yield _tried(f"decoding {codec}", partial(decode_test_clip, codec), of_codec)
    yield _ytdlp(datetime.now(UTC).date(), is_needed=needs_youtube)
    yield _js_runtime(is_needed=needs_youtube)
    yield _disk(entries, layout, max_height)
    yield _shared_memory(SHARED_MEMORY)
    yield Check("cores", "ok", f"{len(os.sched_getaffinity(0))}")
    yield from _torch()


def _tried(name: str, attempt: Callable[[], str], remedy: str) -> Check:
    try:
        return Check(name, "ok", attempt())
    except WtoursError as error:
        return Check(name, "problem", str(error), remedy)


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


def _ytdlp(today: date, *, is_needed: bool) -> Check:
    missing: Literal["problem", "warning"] = "problem" if is_needed else "warning"
    try:
        version = importlib.metadata.version("yt-dlp")
    except importlib.metadata.PackageNotFoundError:
        return Check("yt-dlp", missing, "not installed", "pip install 'wtours[download]'")
    if find_spec("yt_dlp_ejs") is None:
        return Check("yt-dlp", missing, "without yt-dlp-ejs", "pip install 'yt-dlp[default]'")
    year, month, day = (int(part) for part in version.split(".")[:3])
    age_days = (today - date(year, month, day)).days
    found = f"{version}, {counted(age_days, 'day')} old"
    if age_days > OLD_YTDLP_DAYS:
        remedy = "YouTube may refuse it: pip install -U 'yt-dlp[default]'"
        return Check("yt-dlp", "warning", found, remedy)
    return Check("yt-dlp", "ok", found)


def _js_runtime(*, is_needed: bool) -> Check:
    found, is_usable = find_js_runtime()
    if is_usable:
        return Check("JavaScript runtime", "ok", found)
    remedy = "YouTube needs one: install deno 2 or newer (https://deno.com), or node 20 or newer"
    status: Literal["problem", "warning"] = "problem" if is_needed else "warning"
    return Check("JavaScript runtime", status, found, remedy)


def find_js_runtime() -> tuple[str, bool]:
    """Return the first runtime on the PATH that is new enough, else what is there; and which."""
    too_old = []
    for name, oldest in _JS_RUNTIMES.items():
        program = shutil.which(name)
        if program is None:
            continue
        version = _version(program)
        if version is not None and int(version.split(".")[0]) >= oldest:
            return f"{name} {version}", True
        too_old.append(f"{name} {version or 'that does not run'}")
    return ", ".join(too_old) or "none", False


def _version(program: str) -> str | None:
    try:
        result = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"\d+(?:\.\d+)+", result.stdout)
    return match[0] if match else None


def _disk(entries: Sequence[VideoEntry], layout: Layout, max_height: int) -> Check:
    folder = layout.root.absolute()
    while not folder.exists():
        folder = folder.parent
    try:  # free space says nothing of a read-only disk, or of a file that has the folder's name
        with explain_os_errors(folder), tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0")
            file.flush()
    except StorageError as error:
        return Check("disk", "problem", str(error), "choose a --root that can be written")
    missing = [entry for entry in entries if download_receipt(layout, entry.id) is None]
    lengths = [
        60 * entry.published.minutes
        if entry.duration_seconds is None and entry.published
        else entry.duration_seconds
        for entry in missing
    ]
    needed = sum(estimate_bytes(seconds, max_height) for seconds in lengths if seconds is not None)
    free = shutil.disk_usage(folder).free
    found = f"{free / _GB:.0f} GB free in {folder}, about {needed / _GB:.0f} GB still to fetch"
    num_unknown = lengths.count(None)
    if num_unknown:
        found += f" (and {num_unknown} of unknown length)"
    if free < needed:
        remedy = "free some space, choose another --root, or a smaller --max-height"
        return Check("disk", "problem", found, remedy)
    return Check("disk", "ok", found)


def _shared_memory(path: Path) -> Check:
    if not path.is_dir():
        return Check(str(path), "warning", "absent", "mount a tmpfs there")
    total = shutil.disk_usage(path).total
    found = f"{total / _GB:.1f} GB"
    if total < _SHM_BYTES:
        remedy = "training with loader workers needs more; in Docker: --shm-size=8g"
        return Check(str(path), "warning", found, remedy)
    return Check(str(path), "ok", found)


def _torch() -> Iterator[Check]:
    if find_spec("torch") is None:
        remedy = "pretraining needs it: pip install 'wtours[train]'"
        yield Check("torch", "warning", "not installed", remedy)
        return
    import torch

    yield Check("torch", "ok", torch.__version__)
    if not torch.cuda.is_available():
        remedy = "pretraining at full size needs one; the demo preset does not"
        yield Check("GPU", "warning", "none that torch can use", remedy)
        return
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found = f"{properties.name}, {properties.total_memory / _GB:.0f} GB"
        yield Check(f"GPU {index}", "ok", found)
