"""How large a shard set will be and how long it takes, said before the work begins."""

import logging
import math
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from wtours.errors import ShardError
from wtours.sharding.plan import VideoWork
from wtours.shards.images.codecs import Codec
from wtours.shards.params import ShardParams
from wtours.storage.working_copy import working_copy_of

logger = logging.getLogger(__name__)

_TAR_BYTES_PER_FRAME = 2048
"""Two headers, the JSON's block, and half a block of padding, about."""
_BYTES_PER_PIXEL: dict[Codec, float] = {"jpeg": 0.165, "webp-lossless": 0.6, "png": 1.1}
"""Of street scenes; of JPEG at quality 90, 4:2:0: about 77 kB for 910 x 512. The others by their
ratio to it (benchmarks/shards/codecs.py)."""
_DECODED_PIXELS_PER_SECOND = 500e6
"""By one core: 60 frames of 3840 x 2160 (measured: H.264, VP9 and AV1 alike)."""
_ENCODED_PIXELS_PER_SECOND: dict[Codec, float] = {
    "jpeg": 250e6,
    "webp-lossless": 3.5e6,
    "png": 12e6,
}
"""By one core: reducing, encoding and hashing."""
_SEARCHED_PIXELS_PER_SECOND = 1.8e6
"""By one core: looking for faces (measured: 0.26 s for 910 x 512)."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A guess; the pictures decide."""

    frames: int
    bytes: int
    seconds: float


def estimate(works: Iterable[VideoWork], params: ShardParams, *, jobs: int = 1) -> Estimate:
    """Return about how many frames, bytes and seconds it takes, in `jobs` processes."""
    num_frames, num_bytes, seconds = 0, 0.0, 0.0
    for work in works:
        facts, duration_seconds = work.plan.facts, work.seconds
        source_rate = facts.rate
        rate = source_rate if params.rate is None else min(params.rate, source_rate)
        video_frames = round(rate * Fraction(duration_seconds))
        source_pixels = facts.width * facts.height
        scale = min(1.0, params.short_side / max(1, min(facts.width, facts.height)))
        pixels = source_pixels * scale**2
        image_bytes = pixels * _BYTES_PER_PIXEL[params.codec] * _relative_size(params.quality)
        num_frames += video_frames
        num_bytes += video_frames * (image_bytes + _TAR_BYTES_PER_FRAME)
        seconds += (
            duration_seconds * float(source_rate) * source_pixels / _DECODED_PIXELS_PER_SECOND
        )
        seconds += video_frames * pixels / _ENCODED_PIXELS_PER_SECOND[params.codec]
        if params.blur is not None and params.blur.faces_sha256 is not None:
            seconds += video_frames * pixels / _SEARCHED_PIXELS_PER_SECOND
    return Estimate(frames=num_frames, bytes=round(num_bytes), seconds=seconds / jobs)


def require_space(directory: Path, expected: Estimate) -> None:
    """Refuse to begin what cannot fit on the disk; warn of what may not.

    The estimate may be wrong by a factor of two: it is refused where not even half would fit.

    Raises:
        ShardError: the message has both numbers.
    """
    if working_copy_of(directory / "x") is not None:
        return  # a shard leaves this disk when the object store has it
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    numbers = (
        f"about {expected.bytes / 1e6:,.0f} MB are to be written and {free / 1e6:,.0f} MB are free "
        f"at {existing}"
    )
    if free < expected.bytes / 2:
        raise ShardError(
            f"{numbers}; free some space, choose another --root, or lower --fps, --short-side or "
            f"--quality"
        )
    if free < expected.bytes:
        logger.warning("%s: that may not be enough", numbers)


def _relative_size(quality: int) -> float:
    """Return about how large a JPEG is beside one of quality 90.

    libjpeg scales its quantization table by 2 - q/50 (by 50/q below 50); the size falls with
    roughly the 0.7th power of that.
    """

    def table_scale(quality: float) -> float:
        return 2 - quality / 50 if quality >= 50 else 50 / quality

    return math.pow(table_scale(90) / max(table_scale(quality), 0.02), 0.7)
