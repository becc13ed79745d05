"""Format 1 of a shard set: names, parameters, `dataset.json` and the columns of `index.parquet`.

`docs/shards.md` is the same in words. This module and those that read shards
(`index`, `clips`, `reader`, `sampler`) import no video library and no torch, so that a trainer
elsewhere can use them.
"""

import dataclasses
import re
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, Literal, Self

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wtours.errors import ShardError, UsageError

FORMAT: Final = 1
MAX_MEMBER_BYTES = 64 * 2**20
"""No file inside a shard is larger; a size above it is refused before anything is allocated."""
MAX_DATASET_BYTES = 64 * 2**20
"""`dataset.json` is not read above this size."""
JPEG_SUBSAMPLING = "420"
PIXELS = "reduced as YUV by swscale's bilinear, then recolored"
"""How a frame becomes the planes of a JPEG; other words, other bytes."""
DATASET_FILE = "dataset.json"
INDEX_FILE = "index.parquet"
ATTRIBUTION_FILE = "ATTRIBUTION.md"
BLUR_BOXES_FILE = "blur_boxes.parquet"

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
"""A row per frame, ordered by (video_id, pts_us); `offset` and `size` are of the .jpg's payload."""

_VIDEO_ID = r"[a-z0-9_]{1,64}"
_SHARD_NAME = re.compile(rf"{_VIDEO_ID}-[0-9]{{5,}}")
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
class ShardParams:
    """Everything that decides the bytes of a shard set, apart from the videos.

    Raises:
        UsageError: a value is out of range.
    """

    frames_per_second: str = "30"
    """Sampled frames a second, as a whole number, a decimal or a fraction, or "native": all."""
    short_side: int = 512
    """Frames are reduced so that min(H, W) is at most this, in pixels; never enlarged."""
    quality: int = 90
    """JPEG quality, 1 to 100."""
    shard_seconds: int = 60
    """Shard k holds the sampled frames with pts in [k * shard_seconds, (k + 1) * shard_seconds)."""
    blur: BlurParams | None = None
    """None: nothing."""
    match: MatchParams | None = None
    """None: every video is taken whole."""

    def __post_init__(self) -> None:
        if self.frames_per_second != "native":
            rate = _rate(self.frames_per_second)
            object.__setattr__(self, "frames_per_second", str(rate))  # "30.0" is "30"
        _require(16 <= self.short_side <= 8192, "short_side", self.short_side, "16 to 8192 pixels")
        _require(1 <= self.quality <= 100, "quality", self.quality, "1 to 100")
        _require(1 <= self.shard_seconds <= 3600, "shard_seconds", self.shard_seconds, "1 to 3600")

    @property
    def rate(self) -> Fraction | None:
        """Return the sampled frames a second; None: every frame of the video."""
        return None if self.frames_per_second == "native" else Fraction(self.frames_per_second)

    @property
    def segment_us(self) -> int:
        """Return the length of a segment in microseconds."""
        return self.shard_seconds * _US

    def recorded(self) -> dict[str, Any]:
        """Return what receipts record: every value that changes the bytes."""
        how = {"format": FORMAT, "subsampling": JPEG_SUBSAMPLING, "pixels": PIXELS}
        values = {**how, **dataclasses.asdict(self)}
        # Absent, as in receipts that are older than these.
        absent = [name for name in ("blur", "match") if values[name] is None]
        return {name: value for name, value in values.items() if name not in absent}

    @classmethod
    def from_recorded(cls, values: Mapping[str, Any]) -> Self:
        """Return the parameters that a receipt records."""
        blur, match = values.get("blur"), values.get("match")
        names = {field.name for field in dataclasses.fields(cls)}
        own = {name: value for name, value in values.items() if name in names}
        nested = {
            "blur": None if blur is None else BlurParams(**blur),
            "match": None if match is None else MatchParams(**match),
        }
        return cls(**{**own, **nested})


def _rate(text: str) -> Fraction:
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    _require(0 < rate <= 1000, "frames_per_second", text, 'above 0 and up to 1000, or "native"')
    return rate


def _require(holds: bool, name: str, value: object, allowed: str) -> None:
    if not holds:
        raise UsageError(f"{name} ({value}) must be {allowed}")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ShardRecord(_Record):
    """One shard in `dataset.json`."""

    shard: str = Field(pattern=f"^{_SHARD_NAME.pattern}$")
    video_id: str = Field(pattern=f"^{_VIDEO_ID}$")
    segment: int = Field(ge=0)
    frames: int = Field(ge=1)
    bytes: int = Field(ge=1)
    sha256: str


class VideoRecord(_Record):
    """One video in `dataset.json`: where its frames come from and what is missing of them."""

    video_id: str = Field(pattern=f"^{_VIDEO_ID}$")
    source_sha256: str
    source: str | None
    title: str | None
    channel: str | None
    license_claimed: str | None
    license_observed: str | None
    frame_rate: str
    """Of the source, an exact fraction: "60000/1001"."""
    width: int
    """Of the source, in pixels, after rotation."""
    height: int
    last_pts_us: int
    """pts of the source's last packet."""
    segments: int
    """How many segments the video has; those without a frame have no shard."""
    frames: int
    holes: int
    """Ticks (or ordinals) from 0 to the last sampled frame that have no frame."""
    corrupt_frames: int
    """Source frames that the decoder marked as damaged; none of them was kept."""
    undecodable_frames: int = 0
    """Source frames that the file has and the decoder could not make anything of."""
    taken_us: int | None = None
    """Only frames before this were taken (`params.match`); None: all."""

    @property
    def rate(self) -> Fraction:
        """Return the source's frame rate."""
        return Fraction(self.frame_rate)


class IndexRecord(_Record):
    """`index.parquet` in `dataset.json`."""

    rows: int
    bytes: int
    sha256: str


class Dataset(_Record):
    """What `dataset.json` holds; it is written last, and a shard set exists when it is there."""

    format: Literal[1]
    name: str
    params: ShardParams
    frames: int
    bytes: int
    """Of all shards."""
    index: IndexRecord
    videos: tuple[VideoRecord, ...]
    """Ordered by video_id."""
    shards: tuple[ShardRecord, ...]
    """Ordered by (video_id, segment)."""


def read_dataset(directory: Path) -> Dataset:
    """Return `dataset.json` of a shard set.

    Raises:
        ShardError: it is missing, too large, or not of format 1.
    """
    path = directory / DATASET_FILE
    try:
        if path.stat().st_size > MAX_DATASET_BYTES:
            raise ShardError(f"{path} is larger than {MAX_DATASET_BYTES} bytes; it is not ours")
        return Dataset.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ShardError(
            f"{directory} is not a finished shard set (no {DATASET_FILE}); run `wtours shard`"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ShardError(
            f"{path} is not a dataset.json of format {FORMAT} ({where}: {first['msg']}); "
            f"run `wtours shard` again"
        ) from error
