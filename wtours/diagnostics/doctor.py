"""Whether this machine can do the work: each check says ok, or what is wrong and how to mend it."""

import importlib.metadata
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from wtours.acquire.local_files import youtube_ids
from wtours.acquire.ytdlp.formats import estimate_bytes
from wtours.diagnostics.codec_check import decode_test_clip, ffmpeg_version
from wtours.diagnostics.js_runtime import find_js_runtime
from wtours.errors import StorageError, WtoursError
from wtours.media.file_types import Codec
from wtours.storage.os_errors import SHARED_MEMORY, explain_os_errors
from wtours.workspace.layout import Layout
from wtours.workspace.manifest import VideoEntry
from wtours.workspace.videos import download_receipt

OLD_YTDLP_DAYS = 60
"""YouTube changes; yt-dlp itself warns at 90 days."""
_SHM_BYTES = 2**30
_GB = 1e9


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One line of `wtours doctor`."""

    name: str
    status: Literal["ok", "warning", "problem"]
    """A problem stops the work; a warning only some of it."""
    found: str
    remedy: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the line as JSON-able values."""
        return asdict(self)


def diagnose(
    entries: Sequence[VideoEntry], layout: Layout, *, max_height: int = 720
) -> Iterator[Check]:
    """Yield every check, for these videos under this root; no network is used."""
    needs_youtube = any(youtube_ids(entry.sources) for entry in entries)
    yield _python()
    yield _ffmpeg()
    for codec in Codec:
        yield _codec(codec)
    yield _ytdlp(datetime.now(UTC).date(), is_needed=needs_youtube)
    yield _js_runtime(is_needed=needs_youtube)
    yield _disk(entries, layout, max_height)
    yield _shared_memory(SHARED_MEMORY)
    yield Check(name="cores", status="ok", found=f"{len(os.sched_getaffinity(0))}")
    yield from _torch()


def _python() -> Check:
    # An older one than 3.11 could not have installed wtours.
    return Check(name="Python", status="ok", found=platform.python_version())


def _ffmpeg() -> Check:
    try:
        return Check(name="ffmpeg", status="ok", found=ffmpeg_version())
    except WtoursError as error:
        remedy = "pip install --force-reinstall imageio-ffmpeg"
        return Check(name="ffmpeg", status="problem", found=str(error), remedy=remedy)


def _codec(codec: Codec) -> Check:
    name = f"decoding {codec}"
    try:
        found = decode_test_clip(codec)
    except WtoursError as error:
        remedy = "pip install --force-reinstall av: its wheels from PyPI bring all three codecs"
        return Check(name=name, status="problem", found=str(error), remedy=remedy)
    return Check(name=name, status="ok", found=found)


def _ytdlp(today: date, *, is_needed: bool) -> Check:
    missing: Literal["problem", "warning"] = "problem" if is_needed else "warning"
    try:
        version = importlib.metadata.version("yt-dlp")
    except importlib.metadata.PackageNotFoundError:
        remedy = "pip install 'wtours[download]'"
        return Check(name="yt-dlp", status=missing, found="not installed", remedy=remedy)
    if find_spec("yt_dlp_ejs") is None:
        remedy = "pip install 'yt-dlp[default]'"
        return Check(name="yt-dlp", status=missing, found="without yt-dlp-ejs", remedy=remedy)
    year, month, day = (int(part) for part in version.split(".")[:3])
    age_days = (today - date(year, month, day)).days
    found = f"{version}, {age_days} days old"
    if age_days > OLD_YTDLP_DAYS:
        remedy = "YouTube may refuse it: pip install -U 'yt-dlp[default]'"
        return Check(name="yt-dlp", status="warning", found=found, remedy=remedy)
    return Check(name="yt-dlp", status="ok", found=found)


def _js_runtime(*, is_needed: bool) -> Check:
    runtime = find_js_runtime()
    if runtime.is_usable:
        return Check(name="JavaScript runtime", status="ok", found=runtime.found)
    return Check(
        name="JavaScript runtime",
        status="problem" if is_needed else "warning",
        found=runtime.found,
        remedy="YouTube needs one: install deno 2 or newer (https://deno.com), or node 20 or newer",
    )


def _disk(entries: Sequence[VideoEntry], layout: Layout, max_height: int) -> Check:
    folder = layout.root.absolute()
    while not folder.exists():
        folder = folder.parent
    try:  # free space says nothing of a read-only disk, or of a file that has the folder's name
        with explain_os_errors(folder), tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0")
            file.flush()
    except StorageError as error:
        remedy = "choose a --root that can be written"
        return Check(name="disk", status="problem", found=str(error), remedy=remedy)
    missing = [entry for entry in entries if download_receipt(layout, entry.id) is None]
    lengths = [_seconds(entry) for entry in missing]
    needed = sum(estimate_bytes(seconds, max_height) for seconds in lengths if seconds is not None)
    free = shutil.disk_usage(folder).free
    found = f"{free / _GB:.0f} GB free in {folder}, about {needed / _GB:.0f} GB still to fetch"
    num_unknown = lengths.count(None)
    if num_unknown:
        found += f" (and {num_unknown} of unknown length)"
    if free < needed:
        remedy = "free some space, choose another --root, or a smaller --max-height"
        return Check(name="disk", status="problem", found=found, remedy=remedy)
    return Check(name="disk", status="ok", found=found)


def _seconds(entry: VideoEntry) -> float | None:
    if entry.duration_seconds is not None:
        return entry.duration_seconds
    return None if entry.published is None else 60 * entry.published.minutes


def _shared_memory(path: Path) -> Check:
    if not path.is_dir():
        return Check(name=str(path), status="warning", found="absent", remedy="mount a tmpfs there")
    total = shutil.disk_usage(path).total
    found = f"{total / _GB:.1f} GB"
    if total < _SHM_BYTES:
        remedy = "training with loader workers needs more; in Docker: --shm-size=8g"
        return Check(name=str(path), status="warning", found=found, remedy=remedy)
    return Check(name=str(path), status="ok", found=found)


def _torch() -> Iterator[Check]:
    if find_spec("torch") is None:
        remedy = "pretraining needs it: pip install 'wtours[train]'"
        yield Check(name="torch", status="warning", found="not installed", remedy=remedy)
        return
    import torch

    yield Check(name="torch", status="ok", found=torch.__version__)
    if not torch.cuda.is_available():
        remedy = "pretraining at full size needs one; the demo preset does not"
        yield Check(name="GPU", status="warning", found="none that torch can use", remedy=remedy)
        return
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found = f"{properties.name}, {properties.total_memory / _GB:.0f} GB"
        yield Check(name=f"GPU {index}", status="ok", found=found)
