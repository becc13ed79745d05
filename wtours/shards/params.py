"""The parameters of a shard set: everything that decides its bytes, apart from the videos."""

import dataclasses
import re
from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any, Final, Self

from pydantic import TypeAdapter, ValidationError

from wtours.errors import ShardError, UsageError
from wtours.shards.images.codecs import SUFFIXES, Codec

FORMAT: Final = 1
MAX_SHORT_SIDE = 8192
JPEG_SUBSAMPLING = "420"
PIXELS = "reduced as YUV by swscale's bilinear, then recoloured"
"""Recorded in every receipt: with other words (or spelling) sets begun before are refused."""
OPTIONS: Final = {
    "frames_per_second": "--fps",
    "short_side": "--short-side",
    "codec": "--codec",
    "quality": "--quality",
    "shard_seconds": "--shard-seconds",
    "blur": "--blur-boxes or --blur-faces",
    "match": "--match-duration",
    "where": "--where",
}
"""What each parameter is called where it is chosen, by `wtours shard`: messages say it so."""
_RATE = re.compile(r"[0-9]{1,10}(\.[0-9]{1,10}|/[0-9]{1,10})?")
_US = 1_000_000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BlurParams:
    """What was blurred before encoding, and how."""

    boxes_sha256: str | None = None
    """Of the file of boxes, which the set keeps as `blur_boxes.parquet`; None: no boxes."""
    faces_sha256: str | None = None
    """Of the weights that found faces; None: nobody looked for faces."""
    faces_threshold: float | None = None
    faces_scale: float | None = None
    """Each side of a face's box is moved outwards by this minus 1, in widths or heights of it."""
    method: str = "box mean over half the region, twice, of Y, Cb and Cr"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MatchParams:
    """The walk that the videos of a set are as long as, together."""

    video_id: str
    duration_us: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WhereParams:
    """Which seconds of the videos are taken."""

    expression: str
    """A condition on the columns of the table, for example "blur > 100 and not frozen"."""
    seconds_sha256: str
    """Of the table, which the set keeps as `quality.parquet`."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ShardParams:
    """Everything that decides the bytes of a shard set, apart from the videos.

    Raises:
        UsageError: a value is out of range.
    """

    frames_per_second: str = "30"
    """Sampled frames a second, as a whole number, a decimal or a fraction, or "native": all."""
    short_side: int = 512
    """Frames are reduced so that min(H, W) is at most this, in pixels; never enlarged."""
    codec: Codec = "jpeg"
    """Of the frames: JPEG, or without a loss."""
    quality: int = 90
    """JPEG quality, 1 to 100; 90 with another codec, which has none."""
    shard_seconds: int = 60
    """Shard k holds the sampled frames with pts in [k * shard_seconds, (k + 1) * shard_seconds)."""
    blur: BlurParams | None = None
    """None: nothing."""
    match: MatchParams | None = None
    """None: every video is taken whole."""
    where: WhereParams | None = None
    """None: every second."""

    def __post_init__(self) -> None:
        if self.frames_per_second != "native":
            text, rate = self.frames_per_second, parse_rate(self.frames_per_second)
            allowed = 'above 0 and up to 1000, or "native"'
            _require(0 < rate <= 1000, "frames_per_second", text, allowed)
            object.__setattr__(self, "frames_per_second", str(rate))  # "30.0" is "30"
        allowed = f"16 to {MAX_SHORT_SIDE} pixels"
        _require(16 <= self.short_side <= MAX_SHORT_SIDE, "short_side", self.short_side, allowed)
        _require(self.codec in SUFFIXES, "codec", self.codec, f"one of {', '.join(SUFFIXES)}")
        _require(1 <= self.quality <= 100, "quality", self.quality, "1 to 100")
        if self.codec != "jpeg":
            _require(self.quality == 90, "quality", self.quality, "left out: it is of JPEG alone")
        _require(1 <= self.shard_seconds <= 3600, "shard_seconds", self.shard_seconds, "1 to 3600")

    @property
    def rate(self) -> Fraction | None:
        """Return the sampled frames a second; None: every frame of the video."""
        return None if self.frames_per_second == "native" else Fraction(self.frames_per_second)

    @property
    def suffix(self) -> str:
        """Return the suffix of the images in the tars: ".jpg"."""
        return SUFFIXES[self.codec]

    @property
    def encoding(self) -> str:
        """Return in words how the frames are encoded."""
        words = {"png": "PNG, without a loss", "webp-lossless": "WebP, without a loss"}
        return words.get(self.codec, f"JPEG of quality {self.quality}")

    @property
    def segment_us(self) -> int:
        """Return the length of a segment in microseconds."""
        return self.shard_seconds * _US

    def recorded(self) -> dict[str, Any]:
        """Return what receipts record: every value that changes the bytes."""
        return dict(_recorded(self))

    @classmethod
    def from_recorded(cls, values: Mapping[str, Any]) -> Self:
        """Return the parameters that a receipt records.

        Raises:
            ShardError: they are damaged.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        own = {name: value for name, value in values.items() if name in names}
        try:
            return TypeAdapter(cls).validate_python(own)
        except (ValidationError, UsageError) as error:
            raise ShardError(f"a receipt of shards has damaged parameters: {own!r:.200}") from error


@lru_cache(maxsize=8)  # it is compared with each receipt of a set
def _recorded(params: ShardParams) -> dict[str, Any]:
    how = {"format": FORMAT, "subsampling": JPEG_SUBSAMPLING, "pixels": PIXELS}
    values = {**how, **dataclasses.asdict(params)}
    # Absent, as in receipts that are older than these.
    absent = [name for name in ("blur", "match", "where") if values[name] is None]
    absent += ["codec"] if params.codec == "jpeg" else ["quality", "subsampling"]
    return {name: value for name, value in values.items() if name not in absent}


def in_words(name: str, present: Any, wanted: Any) -> str:
    """Return how a set was begun in the options of `wtours shard`: "with --fps 30, not 15".

    Args:
        name: Of the recorded parameter.
        present: What the set has of it; None: it goes without.
        wanted: What it is compared with.
    """
    option = OPTIONS.get(name, name)
    if name == "where" and isinstance(present, dict) and isinstance(wanted, dict):
        conditions = [value.get("expression") for value in (present, wanted)]
        if conditions[0] != conditions[1]:  # else its table is another one
            present, wanted = map(repr, conditions)
    if isinstance(present or wanted, dict):
        other = " of something else" if present and wanted else ""
        return f"{'with' if present else 'without'} {option}{other}"
    if name == "codec":  # of JPEG it is not recorded
        present, wanted = present or "jpeg", wanted or "jpeg"
    return f"with {option} {present}, not {wanted}"


def parse_rate(text: str) -> Fraction:
    """Return the rate that a whole number, a decimal or a fraction names; 0 for any other text.

    Fraction alone takes an exponent too: of "1e999999999" it makes a number of a gigabit.
    """
    if not _RATE.fullmatch(text) or re.search("/0*$", text):
        return Fraction(0)
    return Fraction(text)


def _require(holds: bool, name: str, value: object, allowed: str) -> None:
    if not holds:
        raise UsageError(f"{OPTIONS[name]} ({value}) must be {allowed}")
