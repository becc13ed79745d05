"""Finalizing a shard set: the index of all finished videos, the attribution, and `dataset.json`."""

import contextlib
from collections.abc import Collection, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from wtours.errors import ShardError, VideoError
from wtours.media.limits import check_loss
from wtours.sharding.annotations import analysis_columns
from wtours.sharding.plan import VideoPlan, published_plans
from wtours.sharding.segment import FinishedSegment
from wtours.shards.index import UNREADABLE
from wtours.shards.params import FORMAT, ShardParams
from wtours.shards.schema import (
    ATTRIBUTION_FILE,
    DATASET_FILE,
    INDEX_FILE,
    INDEX_SCHEMA,
    Dataset,
    IndexRecord,
    ShardRecord,
    VideoRecord,
    read_dataset,
)
from wtours.storage.atomic import RECEIPTS_FOLDER, atomic_path, write_bytes, write_json
from wtours.storage.receipts import record_file
from wtours.text import escape_markdown, plain
from wtours.workspace.attribution import Work
from wtours.workspace.attribution import attribution as attribution_text
from wtours.workspace.layout import Layout


def finalize(
    layout: Layout,
    name: str,
    params: ShardParams,
    max_loss: float,
    *,
    only: Collection[str] | None = None,
) -> tuple[Dataset | None, dict[str, str]]:
    """Publish the index, ATTRIBUTION.md and dataset.json over all videos whose segments are there.

    What it writes depends only on the receipts and on the analysis, so finalizing again changes
    nothing but the columns that an analysis has brought since. A video of which more than
    `max_loss` is lost to damage is left out, and so is one whose analysis or rows are damaged.
    Without a video nothing is written.

    Args:
        layout: The workspace.
        name: The folder under <root>/shards.
        params: Of the set.
        max_loss: The largest share of a video's frames that may be lost to damage.
        only: No other videos than these; None: every one that is finished.

    Returns:
        What dataset.json holds now (None: no video is finished), and by video id why a video that
        it held before is no longer in it.
    """
    directory = layout.shards_dir(name)
    finished, refused = [], {}
    for plan in published_plans(directory):
        if only is not None and plan.video_id not in only:
            continue
        segments = [segment for segment in plan.segments(directory, params) if segment is not None]
        if len(segments) < plan.facts.segments:
            continue
        num_lost = sum(segment.corrupt_frames + segment.undecodable_frames for segment in segments)
        end_us = min(plan.facts.last_pts_us, plan.facts.taken_us or plan.facts.last_pts_us)
        num_frames = round(end_us * plan.facts.rate / 1_000_000) + 1
        try:
            check_loss(min(1.0, num_lost / num_frames), max_loss, plan.video_id)
            finished.append((plan, segments))
        except VideoError as error:
            refused[plan.video_id] = str(error)
    if not finished:
        return None, refused
    held: set[str] = set()
    with contextlib.suppress(ShardError):  # there is no dataset.json that can be read
        held = {video.video_id for video in read_dataset(directory).videos}
    videos: list[tuple[VideoRecord, list[ShardRecord]]] = []
    try:
        with (
            atomic_path(directory / INDEX_FILE) as temp,
            pq.ParquetWriter(temp, INDEX_SCHEMA, compression="zstd") as writer,
        ):
            for plan, segments in finished:
                try:
                    videos.append(_add_video(layout, directory, plan, segments, writer))
                except ShardError as error:  # one rotten table does not stop the other videos
                    refused[plan.video_id] = str(error)
            if not videos:
                raise ShardError("no video is left")
    except ShardError:
        return None, refused
    lost = held - {record.video_id for record, _ in videos} - refused.keys()
    index = record_file(directory / INDEX_FILE, relative_to=directory)
    shards = tuple(shard for _, of_video in videos for shard in of_video)
    num_frames = sum(shard.frames for shard in shards)
    dataset = Dataset(
        format=FORMAT,
        name=name,
        params=params,
        frames=num_frames,
        bytes=sum(shard.bytes for shard in shards),
        index=IndexRecord(rows=num_frames, bytes=index.bytes, sha256=index.sha256),
        videos=tuple(record for record, _ in videos),
        shards=shards,
    )
    write_bytes(directory / ATTRIBUTION_FILE, attribution(dataset).encode())
    write_json(directory / DATASET_FILE, dataset.model_dump(mode="json"))
    reason = "it was in the set, and some of its shards or receipts are gone: run `wtours shard`"
    return dataset, dict.fromkeys(sorted(lost), reason) | refused


def _add_video(
    layout: Layout,
    directory: Path,
    plan: VideoPlan,
    segments: Sequence[FinishedSegment],
    writer: pq.ParquetWriter,
) -> tuple[VideoRecord, list[ShardRecord]]:
    """Add a video's rows to the index; return its entries in dataset.json.

    Raises:
        ShardError: its rows or its analysis are damaged; nothing was added.
    """
    shards = [segment.record for segment in segments if segment.record is not None]
    num_frames = sum(shard.frames for shard in shards)
    table, last_index = INDEX_SCHEMA.empty_table(), -1
    try:
        if shards:
            rows = pa.concat_tables([_segment_rows(directory, shard) for shard in shards])
            table = _index_rows(layout, plan, rows)
            last_index = table["frame_index"][-1].as_py()
        record = VideoRecord(
            video_id=plan.video_id,
            source_sha256=plan.source_sha256,
            frames=num_frames,
            holes=last_index + 1 - num_frames,
            corrupt_frames=sum(segment.corrupt_frames for segment in segments),
            undecodable_frames=sum(segment.undecodable_frames for segment in segments),
            **plan.facts.model_dump(),
        )
    except UNREADABLE as error:
        raise ShardError(
            f"the rows of {plan.video_id} in {directory / RECEIPTS_FOLDER} are damaged "
            f"({plain(error)[:200]}); remove {plan.video_id}-*.parquet there, and run `wtours "
            f"shard` again"
        ) from error
    if shards:
        writer.write_table(table)
    return record, shards


def _segment_rows(directory: Path, shard: ShardRecord) -> pa.Table:
    """Return the rows of a segment, as `shard_segment` published them.

    Raises:
        ShardError: they are damaged.
    """
    path = directory / RECEIPTS_FOLDER / f"{shard.shard}.parquet"
    try:
        if pq.read_metadata(path).num_rows != shard.frames:
            raise ValueError(f"not {shard.frames} rows")
        rows = pq.read_table(path)
    except UNREADABLE as error:
        reason = " ".join(str(error).split())
        raise ShardError(
            f"{path} is damaged ({reason}); remove it, and run `wtours shard` again"
        ) from error
    return rows.append_column("shard", pa.repeat(shard.shard, rows.num_rows))


def _index_rows(layout: Layout, plan: VideoPlan, rows: pa.Table) -> pa.Table:
    """Return a video's rows with all columns of the index."""
    pts_us = rows["pts_us"].to_numpy()
    columns = {
        "video_id": pa.repeat(plan.video_id, rows.num_rows),
        **analysis_columns(layout, plan.video_id, plan.source_sha256, pts_us, stream=plan.stream),
    }
    for name in ("blur_boxes", "blurred_share"):
        if name not in rows.column_names:  # rows that are older than these columns
            columns[name] = pa.nulls(rows.num_rows, INDEX_SCHEMA.field(name).type)
    for name, column in columns.items():
        rows = rows.append_column(name, column)
    return rows.select(INDEX_SCHEMA.names).cast(INDEX_SCHEMA)


def attribution(dataset: Dataset) -> str:
    """Return ATTRIBUTION.md: who made each video, under which license, and what was changed."""
    params = dataset.params
    rate = "every frame" if params.rate is None else f"{params.frames_per_second} frames a second"
    blurred = (
        {}
        if params.blur is None
        else {
            "faces that a network found": params.blur.faces_sha256,
            "the areas of a list": params.blur.boxes_sha256,
        }
    )
    where = None if params.where is None else escape_markdown(params.where.expression)
    areas = ", ".join(what for what, sha256 in blurred.items() if sha256)
    changes = (
        "The frames in these shards come from the videos below. Changes made to each: "
        f"sampled ({rate}), reduced to a short side of at most {params.short_side} pixels, "
        f"{f'left out where not ({where}), ' if where else ''}"
        f"{f'blurred ({areas}), ' if areas else ''}encoded as {params.encoding}. "
        "The sound was left out."
    )
    for video in dataset.videos:
        if video.taken_us is not None:
            changes += (
                f" Only the first {video.taken_us / 1e6:.1f} s of {video.video_id} were taken."
            )
    works = (
        Work(
            video_id=video.video_id,
            title=video.title,
            channel=video.channel,
            source=video.source,
            license_claimed=video.license_claimed,
            license_observed=video.license_observed,
            sha256=video.source_sha256,
        )
        for video in dataset.videos
    )
    heading = f"Attribution of the shard set {escape_markdown(dataset.name)}"
    return attribution_text(heading, changes, works)
