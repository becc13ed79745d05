"""Format 1 of a shard set: names, parameters, `dataset.json` and the columns of `index.parquet`.

`docs/reference/shards.md` is the same in words. No module of this package imports a video library
or torch, so that a trainer elsewhere can use it.
"""

import dataclasses
import re
import textwrap
from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import pyarrow as pa
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_serializer,
    model_validator,
)

from wtours.errors import ShardError, UsageError
from wtours.shards.images.codecs import SUFFIXES, Codec

FORMAT: Final = 1
MAX_MEMBER_BYTES = 64 * 2**20  # a larger size is refused before anything is allocated
MAX_DATASET_BYTES = 64 * 2**20
MAX_SEGMENTS = 10**6  # of a video
MAX_SHORT_SIDE = 8192
JPEG_SUBSAMPLING = "420"
PIXELS = "reduced as YUV by swscale's bilinear, then recoloured"
"""Recorded in every receipt: with other words (or spelling) sets begun before are refused."""
DATASET_FILE = "dataset.json"
INDEX_FILE = "index.parquet"
ATTRIBUTION_FILE = "ATTRIBUTION.md"
CARD_FILE = "README.md"
CROISSANT_FILE = "croissant.json"
BLUR_BOXES_FILE = "blur_boxes.parquet"
QUALITY_FILE = "quality.parquet"

INDEX_SCHEMA = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("frame_index", pa.int64(), nullable=False),
        pa.field("pts_us", pa.int64(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("size", pa.int32(), nullable=False),
        pa.field("shot", pa.int32()),
        pa.field("lightness", pa.float32()),
        pa.field("blur_boxes", pa.int32()),
        pa.field("blurred_share", pa.float32()),
    ]
)
"""A row per frame, ordered by (video_id, pts_us); `offset` and `size` are of the image."""

VIDEO_ID = r"[a-z0-9_]{1,64}"
MIN_SAMPLE_BYTES = 4 * 512
"""Of a tar: the header and at least one block of each of a sample's two members."""
_RATE = re.compile(r"[0-9]{1,10}(\.[0-9]{1,10}|/[0-9]{1,10})?")
_US = 1_000_000


def sample_key(video_id: str, frame_index: int) -> str:
    """Return the key of a sample: `venice-00000042`. It has no dot: WebDataset cuts keys there."""
    return f"{video_id}-{frame_index:08d}"


def shard_name(video_id: str, segment: int) -> str:
    """Return the name of the shard of a video's segment: `venice-00003` (the file adds `.tar`)."""
    return f"{video_id}-{segment:05d}"


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


def parse_rate(text: str) -> Fraction:
    """Return the rate that a whole number, a decimal or a fraction names; 0 for any other text.

    Fraction alone takes an exponent too: of "1e999999999" it makes a number of a gigabit.
    """
    if not _RATE.fullmatch(text) or re.search("/0*$", text):
        return Fraction(0)
    return Fraction(text)


def _require(holds: bool, name: str, value: object, allowed: str) -> None:
    if not holds:
        raise UsageError(f"{name} ({value}) must be {allowed}")


Count = Annotated[int, Field(ge=0, le=2**53)]
"""Of frames, bytes, pixels or microseconds; any sum of them that is formed fits in 64 bits."""
VideoId = Annotated[str, Field(pattern=f"^{VIDEO_ID}$")]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ShardRecord(_Record):
    """One shard in `dataset.json`."""

    shard: str
    video_id: VideoId
    segment: int = Field(ge=0, lt=MAX_SEGMENTS)
    frames: Count = Field(ge=1)
    bytes: Count = Field(ge=1)
    sha256: str

    @model_validator(mode="after")
    def _check_name(self) -> Self:
        """Refuse the name of another shard: no path is ever taken from the file."""
        if self.shard != shard_name(self.video_id, self.segment):
            raise ValueError(f"{self.shard!r} is not {shard_name(self.video_id, self.segment)}")
        return self


class SourceFacts(_Record):
    """What a shard set keeps of a source video; in `dataset.json` and in the set's receipts."""

    source: str | None
    title: str | None
    channel: str | None
    license_claimed: str | None
    license_observed: str | None
    frame_rate: str
    """Of the source, an exact fraction: "60000/1001"."""
    width: Count
    """Of the source, in pixels, after rotation."""
    height: Count
    last_pts_us: Count
    """pts of the source's last packet."""
    segments: int = Field(ge=0, le=MAX_SEGMENTS)
    """How many segments the video has; those without a frame have no shard."""
    taken_us: Count | None = None
    """Only frames before this were taken (`params.match`); None: all."""

    @model_validator(mode="after")
    def _check_rate(self) -> Self:
        if not parse_rate(self.frame_rate):
            raise ValueError(f"frame_rate {self.frame_rate!r} is not a rate")
        return self

    @property
    def rate(self) -> Fraction:
        """Return the source's frame rate."""
        return parse_rate(self.frame_rate)


class VideoRecord(SourceFacts):
    """One video in `dataset.json`: where its frames come from and which of them are missing."""

    video_id: VideoId
    source_sha256: str
    frames: Count
    holes: Count
    """Ticks (or ordinals) from 0 to the last sampled frame that have no frame."""
    corrupt_frames: Count
    """Source frames that the decoder marked as damaged; none of them was kept."""
    undecodable_frames: Count = 0
    """Source frames that are in the file and that the decoder could not decode."""


class IndexRecord(_Record):
    """`index.parquet` in `dataset.json`."""

    rows: Count
    bytes: Count
    sha256: str


class Dataset(_Record):
    """What `dataset.json` holds; it is written last, and a shard set exists when it is there."""

    format: Literal[1]
    name: str
    params: ShardParams
    frames: Count
    bytes: Count
    """Of all shards."""
    index: IndexRecord
    videos: tuple[VideoRecord, ...]
    """Ordered by video_id."""
    shards: tuple[ShardRecord, ...]
    """Ordered by (video_id, segment)."""

    @field_serializer("params")
    def _params_as_before(self, params: ShardParams) -> dict[str, Any]:
        """Return the parameters, without those that files had not before they were given."""
        values = dataclasses.asdict(params)
        newer = {"where": None, "codec": "jpeg"}
        return {name: value for name, value in values.items() if newer.get(name, ...) != value}


def read_dataset(directory: Path) -> Dataset:
    """Return `dataset.json` of a shard set.

    Raises:
        ShardError: it is missing, unreadable, too large, or not of format 1.
    """
    path = directory / DATASET_FILE
    try:
        if path.stat().st_size > MAX_DATASET_BYTES:
            raise ShardError(f"{path} is larger than {MAX_DATASET_BYTES} bytes; it is not ours")
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ShardError(
            f"{directory} is not a finished shard set (no {DATASET_FILE}); run `wtours shard`"
        ) from error
    except OSError as error:
        raise ShardError(f"{path} cannot be read ({error.strerror})") from error
    return parse_dataset(data, str(path))


def parse_dataset(data: bytes, name: str) -> Dataset:
    """Return what the bytes of a `dataset.json` say.

    Raises:
        ShardError: they are not of format 1; the message has `name` and the field.
    """
    try:
        return Dataset.model_validate_json(data)
    except (ValidationError, UsageError) as error:
        where, problem = "params", str(error)
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            problem = first["msg"]
        problem = textwrap.shorten(f"{where}: {problem}", 300, placeholder=" …")  # one line
        what = f"{name} is not a {DATASET_FILE} of format {FORMAT} ({problem})"
        raise ShardError(f"{what}; run `wtours shard` again") from error
