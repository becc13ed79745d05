"""Validation: a fetched file is the whole, right video, before it gets its final name.

Also not one whose end shows nothing more: a mirror's Venice lasts 3 h 40 min and has content for
1 h 50 min, and duration and decoding say nothing of that. So the last picture is compared with
earlier ones, first with the one that may just differ.
"""

import itertools
import logging
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wtours.acquire.local_files import Fetched
from wtours.errors import VideoError, WorkerDiedError
from wtours.execution.processes import ProcessExecutor
from wtours.media.limits import MAX_LOSS
from wtours.media.probe import VideoFacts, is_close_us, probe_video
from wtours.media.reader import VideoReader, open_video
from wtours.storage.atomic import remove
from wtours.storage.hashing import sha256_file
from wtours.workspace.manifest import VideoEntry

logger = logging.getLogger(__name__)

_US = 1_000_000
_RATE_TOLERANCE = Fraction(1, 500)
"""60000/1001 passes for 60."""
_ASPECT_TOLERANCE = 0.02
_DIED_MARK = ".looked-at"
"""Beside a file while it is decoded: it stays if the process dies of that."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidatedFile:
    """A fetched file that is the whole, right video."""

    fetched: Fetched
    source: str
    facts: VideoFacts
    sha256: str


def validate(
    entry: VideoEntry, source: str, fetched: Fetched, *, max_loss: float = MAX_LOSS
) -> ValidatedFile:
    """Return the file's facts and sha256; a file that is not the right one is removed.

    `max_loss` is the largest share of the video that may be lost to damage.

    Raises:
        VideoError: it is no video, is cut or damaged, ends in a still picture, cannot be read by
            the later stages, or is not what the manifest or the source itself says.
    """
    try:
        facts, sha256 = _survive(entry, fetched, max_loss)
    except WorkerDiedError as error:
        remove(fetched.path)  # the mark stays: the next run is careful too
        raise VideoError(
            f"{_shown(source)}: the process died while it looked at the file, and again alone: the "
            f"file crashes the decoder, or the memory is too small; encode it anew and give that "
            f"file"
        ) from error
    except VideoError as error:
        problem = _of_source(str(error), fetched.path, source)
        if _is_web_page(fetched.path):
            problem = f"{_shown(source)}: this is a web page, not a video; check the URL"
        remove(fetched.path.parent)
        raise VideoError(problem) from error
    for remark in facts.remarks():
        logger.warning("%s: %s", entry.id, remark)
    return ValidatedFile(fetched=fetched, source=source, facts=facts, sha256=sha256)


def _shown(source: str) -> str:
    """Return how a source is called in messages: a file by its name."""
    return source.removeprefix("file:")


def _of_source(problem: str, copy: Path, source: str) -> str:
    """Return what is wrong with our copy as what is wrong with its source."""
    if source.startswith("file:") and str(copy) in problem:
        return problem.replace(str(copy), _shown(source))
    return f"{_shown(source)}: {problem.replace(str(copy), 'the file')}"


def _survive(entry: VideoEntry, fetched: Fetched, max_loss: float) -> tuple[VideoFacts, str]:
    """Return what `_look_at` does; a file at which an earlier run died gets a process of its own.

    Raises:
        WorkerDiedError: that one died too.
    """
    mark = fetched.path.with_name(_DIED_MARK)
    if mark.exists():
        with ProcessExecutor(1) as executor:
            ((_, found),) = executor.map(partial(_look_at, entry, fetched), [max_loss])
        return found
    mark.touch()
    try:
        return _look_at(entry, fetched, max_loss)
    finally:
        mark.unlink(missing_ok=True)


def _look_at(entry: VideoEntry, fetched: Fetched, max_loss: float) -> tuple[VideoFacts, str]:
    """Return the facts and the sha256 of a file that is the whole, right video."""
    stream = None if entry.chapters else entry.stream  # joined, they are one stream
    facts = probe_video(fetched.path, stream=stream, max_loss=max_loss)
    stated = fetched.info.get("duration")
    if stated and not is_close_us(facts.duration_us, float(stated) * _US, 2 * _US, 0.01):
        raise VideoError(
            f"it lasts {facts.duration_us / _US:.1f} s, the source says {float(stated):.1f} s; "
            f"run the command again"
        )
    check_expected(entry, facts)
    check_frozen_tail(fetched.path, facts.last_pts_us, stream=facts.stream)
    sha256 = sha256_file(fetched.path)
    if entry.sha256 not in (None, sha256):
        raise VideoError(
            f"its sha256 is {sha256}, and {entry.sha256} is demanded: another file, "
            f"or another quality, of the video"
        )
    return facts, sha256


def check_expected(entry: VideoEntry, facts: VideoFacts) -> None:
    """Raise VideoError if the manifest expects another length, frame rate or shape of picture.

    A smaller picture of the same shape is right: it depends on --max-height.
    """
    seconds = entry.duration_seconds
    if seconds is not None and not is_close_us(facts.duration_us, seconds * _US, 2 * _US, 0.01):
        raise VideoError(
            f"it lasts {facts.duration_us / _US:.1f} s, the manifest expects {seconds:.1f} s: "
            f"not the right video, or not all of it"
        )
    if entry.frame_rate is not None:
        expected = Fraction(entry.frame_rate)
        if abs(facts.frame_rate - expected) > expected * _RATE_TOLERANCE:
            raise VideoError(
                f"it has {float(facts.frame_rate):.2f} frames/s, the manifest expects "
                f"{float(expected):.2f}: another version of the video"
            )
    if entry.resolution is not None:
        width, height = entry.resolution
        aspect, expected_aspect = facts.width / facts.height, width / height
        if abs(aspect / expected_aspect - 1) > _ASPECT_TOLERANCE or facts.height > height:
            raise VideoError(
                f"its picture is {facts.width}x{facts.height}, the manifest expects "
                f"{width}x{height} or smaller of the same shape: another video"
            )


def _is_web_page(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(512).lstrip().lower()
    return start.startswith((b"<!doctype html", b"<html"))


SHORT_SIDE = 32
"""Pictures are compared at this size."""
MAX_LEVELS, MEAN_LEVELS = 12, 1.5
"""Of 255: two pictures that differ by no more are the same, coded twice. In the walks of the tests
pictures one second apart differ by 50 levels and more."""
MAX_SECONDS = 30.0
MAX_SHARE = 0.01
"""A still end up to the larger of the two is an end card."""
_NUM_LOOKS = 4
_RESOLUTION_US = 1_000_000


def check_frozen_tail(path: Path, last_pts_us: int, *, stream: int | None = None) -> None:
    """Raise VideoError if the video shows one picture for too long until its end.

    Decodes a few frames only: two looks for a sound video. The last frame is compared with other
    frames, never with itself: one that is held, as in a slide show, is no frozen tail.
    """
    allowed_us = round(max(MAX_SECONDS * _US, MAX_SHARE * last_pts_us))
    first_look_us = last_pts_us - allowed_us
    if first_look_us <= 0:
        return
    with open_video(path, stream=stream) as reader:
        last_shown_us, last = _picture(reader, last_pts_us)
        for look in range(_NUM_LOOKS):
            look_us = first_look_us + look * allowed_us // _NUM_LOOKS
            shown_us, picture = _picture(reader, look_us)
            if shown_us >= last_shown_us or not _same(last, picture):
                return
        moving_us, still_us = 0, first_look_us
        while still_us - moving_us > _RESOLUTION_US:
            middle_us = (moving_us + still_us) // 2
            if _same(last, _picture(reader, middle_us)[1]):
                still_us = middle_us
            else:
                moving_us = middle_us
    kind = "blank" if int(np.ptp(last)) <= MAX_LEVELS else "frozen"
    raise VideoError(
        f"its picture is {kind} from {still_us / _US:.0f} s on, of {last_pts_us / _US:.0f} s: a "
        f"broken file; use another source, or cut that end off: "
        f"ffmpeg -i IN -t {still_us / _US:.0f} -c copy OUT.mkv"
    )


def _picture(reader: VideoReader, pts_us: int) -> tuple[int, NDArray[np.uint8]]:
    """Return when the first picture at or after a time is shown (else one before it), and it.

    It is small, (H, W, 3) uint8.
    """
    for start_us in (pts_us, pts_us - _US, 0):  # the last packets may not decode
        frames = list(itertools.islice(reader.frames(start_us=max(0, start_us)), 1))
        if frames:
            return frames[0].pts_us, frames[0].to_rgb(short_side=SHORT_SIDE)
    raise VideoError(f"has no picture at {pts_us / _US:.0f} s; download it again")


def _same(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> bool:
    if a.shape != b.shape:
        return False
    levels = np.abs(a.astype(int) - b.astype(int))
    return int(levels.max()) <= MAX_LEVELS and float(levels.mean()) <= MEAN_LEVELS
