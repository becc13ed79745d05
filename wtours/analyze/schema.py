"""The files that `analyze` publishes: Arrow schemas, the summary, and writing them reproducibly.

docs/reference/tables.md describes every column. Same rows, same bytes: row groups are cut every
`ROW_GROUP_ROWS` rows whatever the pieces they came in, and nothing holds a clock or a path.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from wtours.errors import AnalysisError, WtoursError
from wtours.storage.atomic import atomic_path
from wtours.storage.receipts import Receipt, files_intact, files_present, read_receipt
from wtours.text import first_line
from wtours.workspace.layout import Layout

FORMAT = 1
"""Raised when the same parameters would give other bytes; earlier analyses are then not used."""
ROW_GROUP_ROWS = 65_536
SUMMARY_FILE = "summary.json"

SCORE_THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.5)
"""Where the summary counts objects: from what is stored (0.05) up; the paper names no threshold."""


def _schema(*columns: tuple[str, pa.DataType]) -> pa.Schema:
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns])


FRAMES_SCHEMA = _schema(
    ("pts_us", pa.int64()),  # microseconds from the video's first frame
    ("frame", pa.int64()),  # ordinal in pts order, 0-based
    ("lightness", pa.float32()),  # mean CIELAB L*, 0..100
    ("lightness_p5", pa.float32()),  # 5th percentile of L* over the frame
    ("lightness_p95", pa.float32()),
    ("content_score", pa.float64()),  # PySceneDetect's content_val against the frame before, 0..255
    ("is_corrupt", pa.bool_()),  # the decoder concealed errors in it
    ("objects_measured", pa.bool_()),  # the detector was given this frame
)
# Only with --transnet: the probability that the frame is in a transition, 0..1.
TRANSITIONS_SCHEMA = _schema(("transnetv2", pa.float32()))
SHOTS_SCHEMA = _schema(
    ("detector", pa.string()),  # "adaptive" (the default), "content27", "content30", "transnetv2"
    ("shot", pa.int32()),  # ordinal, 0-based; a video without a cut has one shot
    ("start_us", pa.int64()),  # the shot is [start_us, end_us)
    ("end_us", pa.int64()),
)
DETECTIONS_SCHEMA = _schema(
    ("pts_us", pa.int64()),
    ("frame", pa.int64()),
    ("label", pa.string()),
    ("label_id", pa.int32()),  # index in the detector's vocabulary
    ("score", pa.float32()),  # 0.05..1
    ("x0", pa.float32()),  # pixels of the full upright image, x0 <= x1, y0 <= y1
    ("y0", pa.float32()),
    ("x1", pa.float32()),
    ("y1", pa.float32()),
)
PRECOMPUTED_COLUMNS = tuple(
    (field.name, field.type)
    for field in DETECTIONS_SCHEMA
    if field.name not in ("frame", "label_id")  # known only where the video and vocabulary are
)
"""Name and type of the columns of detections that come from outside, or that were drawn."""
# Of a measurement: without the columns that come from another one.
MEASURED_FRAMES_SCHEMA = pa.schema(
    [field for field in FRAMES_SCHEMA if field.name not in ("frame", "objects_measured")]
)
MEASURED_FILE = "measured.parquet"
MEASURED_SCHEMA = _schema(("pts_us", pa.int64()))  # of the frames that the detector was given
SEGMENT_DETECTIONS_SCHEMA = pa.schema([f for f in DETECTIONS_SCHEMA if f.name != "frame"])


def _with_default(cuts: dict[str, int]) -> dict[str, int]:
    if DEFAULT_CUT_DETECTOR not in cuts:
        raise ValueError(f"no cuts by {DEFAULT_CUT_DETECTOR}")
    return cuts


DEFAULT_CUT_DETECTOR = "adaptive"
Cuts = Annotated[dict[str, int], AfterValidator(_with_default)]
FrameRate = Annotated[str, Field(pattern=r"^[1-9]\d{0,15}(/[1-9]\d{0,15})?$")]
MAX_FRAMES = 2**25
"""Rows of a table that is read at once: the frames of 38 hours at 240 a second."""
MAX_DETECTIONS = 2**30
"""Rows of a table that is read in pieces."""
_MAX_CHUNK_BYTES = 2**28
"""Of one column of a row group, decompressed: it is held in memory."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class NotAnalyzedError(AnalysisError):
    """There is no analysis of a video."""


class LightnessSummary(_Strict):
    """Mean CIELAB L* (0..100) of a frame, over the video's frames."""

    mean: float
    min: float
    max: float


class DetectorFacts(_Strict):
    """What made the detections; stands in the summary and in the file metadata of the table."""

    name: str
    """For example "onnx:yolox_nano.onnx" or "file:truth.parquet"."""
    weights_sha256: str
    """Of the weights, or of the file that the detections came from."""
    vocabulary: tuple[str, ...]
    """All labels it can give; `label_id` is the index in it."""
    threshold: float
    """Detections are stored from this score up."""
    max_per_frame: int | None = None
    """At most so many detections a frame; None: no cap."""
    settings_sha256: str | None = None
    """Of the files of settings beside the weights, which decide what is found as well; None: the
    name says all of it."""


class ObjectCounts(_Strict):
    """Table 6's object figures, counting detections from one score up."""

    threshold: float
    objects_per_frame: float
    """Mean number of detections per analyzed frame."""
    classes: int
    """Distinct labels over the video."""
    max_objects: int
    """Most detections in one frame."""


class ObjectsSummary(_Strict):
    """What the detector found."""

    detector: DetectorFacts
    detect_fps: float
    """Frames per second that were asked for; the video's own rate when it is every frame."""
    every_frame: bool
    frames_analysed: int
    detections: int
    frames_at_cap: int
    """Frames with `max_per_frame` detections: their true number may be larger."""
    counts: tuple[ObjectCounts, ...]
    """One for each of SCORE_THRESHOLDS, ascending; the first is everything that is stored."""


UNDECODABLE = "undecodable_frames"
"""Key of a frames table's metadata: how many frames the file has that do not decode."""


class VideoSummary(_Strict):
    """summary.json: a video's row of Table 6, as measured."""

    video_id: str
    video_sha256: str
    width: int
    """Pixels, upright."""
    height: int
    frame_rate: FrameRate
    """As the container states it, for example "30000/1001"."""
    frames: int
    """Decoded frames."""
    corrupt_frames: int
    """Of these, the ones in which the decoder concealed errors."""
    undecodable_frames: int | None = None
    """Besides these, frames that are in the file and do not decode; None: not counted."""
    seconds: float
    """From the first frame to the end of the last."""
    last_pts_us: int
    cuts: Cuts
    """Number of cuts by cut detector; Table 6's "#shots" is the one of "adaptive"."""
    lightness: LightnessSummary
    objects: ObjectsSummary | None
    """None: not measured, and `objects_not_measured` says why; never shown as 0."""
    objects_not_measured: str | None


def published_analysis(layout: Layout, video_id: str) -> tuple[Receipt, VideoSummary]:
    """Return the receipt and the summary of an analysis whose files are, byte for byte, its own.

    Raises:
        NotAnalyzedError: there is none.
        AnalysisError: its files are damaged, or of another version.
    """
    folder, run = layout.analysis_dir(video_id), f"run `wtours analyze --video {video_id}`"
    receipt = read_receipt(layout.analysis_receipt(video_id))
    if receipt is None or receipt.status != "done" or not files_present(receipt, folder):
        raise NotAnalyzedError(f"{video_id} is not analyzed: {run}")
    with explain_damage(folder, run):
        if not files_intact(receipt, folder):
            raise AnalysisError(f"files in {folder} are not those that were published: {run}")
        try:
            return receipt, VideoSummary.model_validate_json((folder / SUMMARY_FILE).read_bytes())
        except ValidationError as error:  # made by another version, or no JSON
            raise AnalysisError(
                f"{folder / SUMMARY_FILE} is of another version: remove {folder} and {run}"
            ) from error


def load_summary(layout: Layout, video_id: str) -> VideoSummary:
    """Return the summary of a published analysis; raises as `published_analysis`."""
    return published_analysis(layout, video_id)[1]


@contextmanager
def explain_damage(path: Path, remedy: str) -> Iterator[None]:
    """Turn whatever reading a damaged file raises into one line.

    Raises:
        AnalysisError: naming the file, what is wrong and what to do.
    """
    try:
        yield
    except WtoursError:
        raise
    except Exception as error:  # Arrow's, the file system's and Python's have no common base
        problem = f"{type(error).__name__}: {first_line(error)}"
        raise AnalysisError(f"{path} is damaged ({problem}); {remedy}") from error


def open_parquet(
    path: Path,
    remedy: str,
    *,
    max_rows: int = MAX_FRAMES,
    read_dictionary: Sequence[str] = (),
) -> pq.ParquetFile:
    """Open a Parquet file that may say anything of itself; use it as a context manager.

    Raises:
        AnalysisError: it declares more than could be held in memory.
    """
    file = pq.ParquetFile(path, read_dictionary=list(read_dictionary))
    metadata = file.metadata
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    chunks = [g.column(i).total_uncompressed_size for g in groups for i in range(g.num_columns)]
    largest = max(chunks, default=0)
    if metadata.num_rows > max_rows or largest > _MAX_CHUNK_BYTES:
        file.close()
        raise AnalysisError(
            f"{path} declares {metadata.num_rows} rows, and {largest} bytes of one column in a row "
            f"group: at most {max_rows} and {_MAX_CHUNK_BYTES} are read; {remedy}"
        )
    return file


@contextmanager
def open_table(path: Path, schema: pa.Schema) -> Iterator[Callable[[pa.Table], None]]:
    """Publish a Parquet table at `path` when the block ends without an error.

    Yields a function that appends rows; the file has row groups of `ROW_GROUP_ROWS` of them.
    """
    with atomic_path(path) as temp, pq.ParquetWriter(temp, schema, compression="zstd") as writer:
        pending = schema.empty_table()

        def flush(num_rows: int) -> None:
            nonlocal pending
            # One chunk a group: page boundaries must not depend on how the rows arrived.
            group = pending.slice(0, num_rows).combine_chunks()
            writer.write_table(group, row_group_size=ROW_GROUP_ROWS)
            pending = pending.slice(num_rows)

        def append(rows: pa.Table) -> None:
            nonlocal pending
            pending = pa.concat_tables([pending, rows.cast(schema)])
            while pending.num_rows >= ROW_GROUP_ROWS:
                flush(ROW_GROUP_ROWS)

        yield append
        flush(pending.num_rows)


def write_table(path: Path, rows: pa.Table, schema: pa.Schema) -> None:
    """Publish the columns of the schema, of rows that may have others, as by `open_table`."""
    with open_table(path, schema) as append:
        append(rows.select(schema.names).replace_schema_metadata(schema.metadata))


def table_of(schema: pa.Schema, columns: Mapping[str, Any]) -> pa.Table:
    """Return an Arrow table of the schema's columns, in its order."""
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)
