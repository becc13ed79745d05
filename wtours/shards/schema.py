"""Format 1 of a shard set: names, `dataset.json` and the columns of `index.parquet`.

`docs/reference/shards.md` is the same in words. No module of this package imports a video library
or torch, so that a trainer elsewhere can use it.
"""

import dataclasses
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pyarrow as pa
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_serializer,
    model_validator,
)

from wtours.errors import ShardError, UsageError
from wtours.shards.params import FORMAT, ShardParams, parse_rate
from wtours.storage.hashing import sha256_bytes
from wtours.text import VIDEO_ID, first_problem, listed

MAX_MEMBER_BYTES = 64 * 2**20  # a larger size is refused before anything is allocated
MAX_DATASET_BYTES = 64 * 2**20
MAX_SEGMENTS = 10**6  # of a video
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

MIN_SAMPLE_BYTES = 4 * 512
"""Of a tar: the header and at least one block of each of a sample's two members."""


def sample_key(video_id: str, frame_index: int) -> str:
    """Return the key of a sample: `venice-00000042`. It has no dot: WebDataset cuts keys there."""
    return f"{video_id}-{frame_index:08d}"


def shard_name(video_id: str, segment: int) -> str:
    """Return the name of the shard of a video's segment: `venice-00003` (the file adds `.tar`)."""
    return f"{video_id}-{segment:05d}"


Count = Annotated[int, Field(ge=0, le=2**53)]
"""Of frames, bytes, pixels or microseconds; any sum of them that is formed fits in 64 bits."""
VideoId = Annotated[str, Field(pattern=f"^{VIDEO_ID}$")]


class Record(BaseModel):
    """What a file of ours holds: it does not change, and has nothing else."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ShardRecord(Record):
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


class SourceFacts(Record):
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


class IndexRecord(Record):
    """`index.parquet` in `dataset.json`."""

    rows: Count
    bytes: Count
    sha256: str


class Dataset(Record):
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


def set_sha256(shards: Iterable[ShardRecord]) -> str:
    """Return the set hash: 64 hexadecimal digits, equal where every tar is equal to the byte.

    It is what `LC_ALL=C; sha256sum *.tar | sha256sum` prints in the set's folder, so that anyone
    can check it without wtours. The index is not part of it: an analysis fills its columns later,
    and no frame changes by that.
    """
    lines = sorted((f"{shard.shard}.tar", shard.sha256) for shard in shards)
    text = "".join(f"{sha256}  {name}\n" for name, sha256 in lines)
    return sha256_bytes(text.encode())


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
            f"{directory} is not a finished shard set (no {DATASET_FILE}); {set_remedy(directory)}"
        ) from error
    except OSError as error:
        raise ShardError(f"{path} cannot be read ({error.strerror})") from error
    return parse_dataset(data, str(path))


def set_remedy(directory: Path) -> str:
    """Return what to do about a set that is not there: the command, and the sets beside it."""
    there = sorted(path.parent.name for path in directory.parent.glob(f"[!.]*/{DATASET_FILE}"))
    beside = f"beside it: {listed(there, like=directory.name)}; " if there else ""
    return f"{beside}run `wtours shard`"


def parse_dataset(data: bytes, name: str) -> Dataset:
    """Return what the bytes of a `dataset.json` say.

    Raises:
        ShardError: they are not of format 1; the message has `name` and the field.
    """
    try:
        return Dataset.model_validate_json(data)
    except (ValidationError, UsageError) as error:
        where = "params: " if isinstance(error, UsageError) else ""
        problem = f"{where}{first_problem(error)}"
        what = f"{name} is not a {DATASET_FILE} of format {FORMAT} ({problem})"
        raise ShardError(f"{what}; run `wtours shard` again") from error
