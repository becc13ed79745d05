"""Sealing a shard set: the index over all finished videos, the attribution, and `dataset.json`."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wtours.errors import ShardError
from wtours.sharding.annotations import lightness_column, shot_column
from wtours.sharding.plan import VideoPlan, missing_segments, published_plans
from wtours.sharding.segment import RECEIPTS_FOLDER, segment_receipt
from wtours.shards.schema import (
    ATTRIBUTION_FILE,
    DATASET_FILE,
    FORMAT,
    INDEX_FILE,
    INDEX_SCHEMA,
    Dataset,
    IndexRecord,
    ShardParams,
    ShardRecord,
    VideoRecord,
)
from wtours.storage.atomic import atomic_path, write_bytes, write_json
from wtours.storage.receipts import Receipt, read_receipt, record_file
from wtours.text import escape_markdown
from wtours.workspace.attribution import Work
from wtours.workspace.attribution import attribution as attribution_text
from wtours.workspace.layout import Layout


@dataclass(frozen=True, slots=True)
class _SealedVideo:
    record: VideoRecord
    shards: tuple[ShardRecord, ...]


def seal(layout: Layout, name: str, params: ShardParams) -> Dataset | None:
    """Publish the index, ATTRIBUTION.md and dataset.json over all videos whose segments are there.

    What it writes depends only on the receipts and on the analysis, so sealing again changes
    nothing but the columns that an analysis has brought since. Without a finished video nothing is
    written.
    """
    directory = layout.shards_dir(name)
    plans = [p for p in published_plans(directory) if not missing_segments(directory, p, params)]
    if not plans:
        return None
    with (
        atomic_path(directory / INDEX_FILE) as temp,
        pq.ParquetWriter(temp, INDEX_SCHEMA, compression="zstd") as writer,
    ):
        videos = [_seal_video(layout, directory, plan, writer) for plan in plans]
    index = record_file(directory / INDEX_FILE, relative_to=directory)
    shards = tuple(shard for video in videos for shard in video.shards)
    num_frames = sum(shard.frames for shard in shards)
    dataset = Dataset(
        format=FORMAT,
        name=name,
        params=params,
        frames=num_frames,
        bytes=sum(shard.bytes for shard in shards),
        index=IndexRecord(rows=num_frames, bytes=index.bytes, sha256=index.sha256),
        videos=tuple(video.record for video in videos),
        shards=shards,
    )
    write_bytes(directory / ATTRIBUTION_FILE, attribution(dataset).encode())
    write_json(directory / DATASET_FILE, dataset.model_dump(mode="json"))
    return dataset


def _seal_video(
    layout: Layout, directory: Path, plan: VideoPlan, writer: pq.ParquetWriter
) -> _SealedVideo:
    """Add a video's rows to the index; return its entries in dataset.json."""
    shards: list[ShardRecord] = []
    tables: list[pa.Table] = []
    num_corrupt, num_undecodable = 0, 0
    for segment in range(plan.num_segments):
        receipt = _require_receipt(segment_receipt(directory, plan.video_id, segment))
        num_corrupt += receipt.facts["corrupt_frames"]
        num_undecodable += receipt.facts.get("undecodable_frames", 0)
        if receipt.files:
            shards.append(_shard_record(receipt, plan.video_id, segment))
            rows = pq.read_table(directory / RECEIPTS_FOLDER / receipt.file(".parquet").path)
            names = pa.array([receipt.key]).take(pa.array(np.zeros(rows.num_rows, np.int32)))
            tables.append(rows.append_column("shard", names))
    last_index = -1
    if tables:
        table = _index_rows(layout, plan, pa.concat_tables(tables))
        writer.write_table(table)
        last_index = table["frame_index"][-1].as_py()
    num_frames = sum(shard.frames for shard in shards)
    record = VideoRecord(
        video_id=plan.video_id,
        source_sha256=plan.source_sha256,
        frames=num_frames,
        holes=last_index + 1 - num_frames,
        corrupt_frames=num_corrupt,
        undecodable_frames=num_undecodable,
        **plan.facts,
    )
    return _SealedVideo(record, tuple(shards))


def _index_rows(layout: Layout, plan: VideoPlan, rows: pa.Table) -> pa.Table:
    """Return a video's rows with all columns of the index."""
    pts_us = rows["pts_us"].to_numpy()
    video_ids = pa.array([plan.video_id]).take(pa.array(np.zeros(rows.num_rows, np.int32)))
    columns = {
        "video_id": video_ids,
        "shot": shot_column(layout, plan.video_id, plan.source_sha256, pts_us),
        "lightness": lightness_column(layout, plan.video_id, plan.source_sha256, pts_us),
    }
    for name in ("blur_boxes", "blurred_share"):
        if name not in rows.column_names:  # rows that are older than these columns
            columns[name] = pa.nulls(rows.num_rows, INDEX_SCHEMA.field(name).type)
    for name, column in columns.items():
        rows = rows.append_column(name, column)
    return rows.select(INDEX_SCHEMA.names).cast(INDEX_SCHEMA)


def _require_receipt(path: Path) -> Receipt:
    receipt = read_receipt(path)
    if receipt is None:
        raise ShardError(f"{path} vanished while sealing; run the same command again")
    return receipt


def _shard_record(receipt: Receipt, video_id: str, segment: int) -> ShardRecord:
    tar = receipt.file(".tar")
    return ShardRecord(
        shard=receipt.key,
        video_id=video_id,
        segment=segment,
        frames=receipt.facts["frames"],
        bytes=tar.bytes,
        sha256=tar.sha256,
    )


def attribution(dataset: Dataset) -> str:
    """Return ATTRIBUTION.md: who made each video, under which license, and what was changed."""
    params = dataset.params
    rate = "every frame" if params.rate is None else f"{params.frames_per_second} frames a second"
    changes = (
        "The frames in these shards come from the videos below. Changes made to each: "
        f"sampled ({rate}), reduced to a short side of at most {params.short_side} pixels, "
        f"{_blur_text(params)}encoded as JPEG of quality {params.quality}. The sound was left out."
        f"{_cut_text(dataset)}"
    )
    heading = f"Attribution of the shard set {escape_markdown(dataset.name)}"
    return attribution_text(heading, changes, (_work(video) for video in dataset.videos))


def _blur_text(params: ShardParams) -> str:
    if params.blur is None:
        return ""
    found = {
        "faces that a network found": params.blur.faces_sha256,
        "the areas of a list": params.blur.boxes_sha256,
    }
    return f"blurred ({', '.join(what for what, sha256 in found.items() if sha256)}), "


def _cut_text(dataset: Dataset) -> str:
    cut = [(v.video_id, v.taken_us / 1e6) for v in dataset.videos if v.taken_us is not None]
    return "".join(
        f" Only the first {seconds:.1f} s of {name} were taken." for name, seconds in cut
    )


def _work(video: VideoRecord) -> Work:
    return Work(
        video_id=video.video_id,
        title=video.title,
        channel=video.channel,
        source=video.source,
        license_claimed=video.license_claimed,
        license_observed=video.license_observed,
        sha256=video.source_sha256,
    )
