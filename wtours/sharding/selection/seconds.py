"""The seconds that `shard --where` takes: their quality is kept in the set, named by its sha256.

So the set can be resumed, repaired and made again from a lock when the analysis has changed or is
gone.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from wtours.errors import ShardError, UsageError, VideoError
from wtours.sharding.plan import VideoPlan, published_plans, require_same_params
from wtours.sharding.selection.expression import CONDITIONS, NUMBERS, Expression, parse
from wtours.shards.index import UNREADABLE
from wtours.shards.params import ShardParams, WhereParams
from wtours.shards.schema import QUALITY_FILE
from wtours.storage.atomic import RECEIPT_FILE, atomic_path, write_bytes
from wtours.storage.hashing import sha256_file, sha256_of_shared, unchanged
from wtours.storage.receipts import read_receipt
from wtours.storage.working_copy import bring, push
from wtours.text import first_line
from wtours.workspace.layout import MEASUREMENTS_FOLDER, SECONDS_FILE, Layout
from wtours.workspace.videos import downloaded_video

_MEASURED = (MEASUREMENTS_FOLDER, "quality", SECONDS_FILE)
_ALWAYS = (*NUMBERS, "black", "frozen")
"""Kept whether or not they are asked for: tables of all versions have them."""


def with_where(
    layout: Layout, name: str, params: ShardParams, video_ids: Iterable[str], text: str | None
) -> ShardParams:
    """Return the parameters of a shard set with the condition; keep what it looks at in the set.

    Args:
        layout: The workspace.
        name: The shard set, begun or not.
        params: Its other parameters.
        video_ids: The videos to be sharded; those that are not downloaded are left out.
        text: The condition; None: every second.

    Raises:
        UsageError: it is no condition.
        ShardError: the quality of a video is not measured, or the set was begun with another
            condition, for other videos, or with another file of one.
    """
    if text is None:
        return params
    expression, directory = parse(text), layout.shards_dir(name)
    plans, videos = published_plans(directory), set(video_ids)
    wanted = sorted(videos | {plan.video_id for plan in plans})
    kept = directory / QUALITY_FILE
    there: set[str] = set()
    if plans and kept.is_file():
        with _as_shard_error(kept), pq.ParquetFile(kept) as file:
            for batch in file.iter_batches(columns=["video_id"]):
                there |= {*pc.unique(batch[0]).to_pylist()}
    if plans and kept.is_file() and set(wanted) <= there:
        params = _with(params, expression.text, sha256_file(kept))
        require_same_params(directory, params)
        for plan in plans:
            if plan.video_id in videos:
                _require_same_source(layout, plan)
    else:
        with atomic_path(kept) as temp:
            table = _gather(layout, wanted, expression)
            pq.write_table(table, temp, compression="zstd")
            params = _with(params, expression.text, sha256_file(temp))
            require_same_params(directory, params)
    push(kept)
    return params


def bring_seconds(directory: Path, where: WhereParams, path: Path | None) -> None:
    """Put the table of seconds of a locked set into the set that is made again.

    Raises:
        UsageError: there is none, or another one.
    """
    kept = directory / QUALITY_FILE
    source = path if path is not None else kept
    found = sha256_file(source) if source.is_file() else None
    if found != where.seconds_sha256:
        raise UsageError(
            f"the locked set has the seconds of {where.seconds_sha256[:12]}… (sha256): give its "
            f"{QUALITY_FILE} with --where-table"
            + (f"; {source} is {found[:12]}…" if found is not None else "")
        )
    if source != kept:
        write_bytes(kept, source.read_bytes())


def taken_seconds(directory: Path, where: WhereParams, video_id: str) -> frozenset[int]:
    """Return the seconds k of a video whose frames, k <= pts < k + 1 s, are taken.

    Raises:
        ShardError: the table in the set is not the one that `where` names.
    """
    path = directory / QUALITY_FILE
    bring(path)
    if not path.is_file() or sha256_of_shared(path) != where.seconds_sha256:
        raise ShardError(
            f"{path} is not the table that the set was begun with: run the same `wtours shard "
            f"--where …` again with a new name by --shards"
        )
    return _taken(path, where, video_id)


@functools.lru_cache(maxsize=1)  # a worker does one segment of a video after the other
def _taken(path: Path, where: WhereParams, video_id: str) -> frozenset[int]:
    expression = parse(where.expression)
    # Of thousands of videos only those are read that share this one's group of rows.
    table = _read(path, _kept_schema(expression), filters=[("video_id", "==", video_id)])
    columns = {name: table[name].fill_null(np.nan).to_numpy() for name in NUMBERS}
    columns |= {name: table[name].to_numpy() for name in CONDITIONS if name in table.column_names}
    holds = expression.holds(columns)
    return frozenset(table["second"].to_numpy()[holds].tolist())


def _require_same_source(layout: Layout, plan: VideoPlan) -> None:
    """Refuse a video whose file is not the one that the kept seconds are of.

    Raises:
        ShardError: it was downloaded again since, to another file.
    """
    try:
        video = downloaded_video(layout, plan.video_id)
    except VideoError:
        return  # deleted after it was sharded
    if not plan.is_of(video):
        raise ShardError(
            f"{plan.video_id} is another file than the one whose seconds the shard set was begun "
            f"with, or another stream of it (sha256 {video.sha256[:12]}…, then "
            f"{plan.source_sha256[:12]}…); choose another name by --shards"
        )


def _with(params: ShardParams, expression: str, sha256: str) -> ShardParams:
    return dataclasses.replace(
        params, where=WhereParams(expression=expression, seconds_sha256=sha256)
    )


def _kept_schema(expression: Expression) -> pa.Schema:
    """Return the columns that are kept for a condition; all but the first are measured."""
    added = [n for n in CONDITIONS if n not in _ALWAYS and n in expression.columns]
    kinds = {n: pa.float32() if n in NUMBERS else pa.bool_() for n in (*_ALWAYS, *added)}
    return pa.schema({"video_id": pa.string(), "second": pa.int32(), **kinds})


def _gather(layout: Layout, video_ids: Iterable[str], expression: Expression) -> pa.Table:
    """Return the quality of every second of the videos that are downloaded."""
    tables = []
    kept_schema = _kept_schema(expression)
    schema = kept_schema.remove(0)
    for video_id in video_ids:
        try:
            video = downloaded_video(layout, video_id)
        except VideoError:
            continue  # `shard` says so
        path = layout.analysis_dir(video_id).joinpath(*_MEASURED)
        receipt = read_receipt(path.with_name(RECEIPT_FILE))
        remedy = f"run `wtours analyze --frame-quality --video {video_id}`"
        if receipt is None or not video.has_made(receipt):
            raise ShardError(f"the quality of {video_id} is not measured: {remedy}")
        with unchanged(path):
            if sha256_file(path) != receipt.file(_MEASURED[-1]).sha256:
                raise ShardError(f"{path} is not the table that was published: {remedy}")
            with _as_shard_error(path):
                there = set(pq.read_schema(path).names)
            if absent := [name for name in schema.names if name not in there]:
                raise ShardError(f"{absent[0]} of {video_id} is not measured: {remedy}")
            table = _read(path, schema)
        tables.append(table.add_column(0, "video_id", pa.repeat(video_id, table.num_rows)))
    return pa.concat_tables(tables).cast(kept_schema) if tables else kept_schema.empty_table()


def _read(
    path: Path, schema: pa.Schema, filters: list[tuple[str, str, str]] | None = None
) -> pa.Table:
    with _as_shard_error(path):
        table = pq.read_table(path, columns=schema.names, filters=filters)
        return table.select(schema.names).cast(schema)


@contextlib.contextmanager
def _as_shard_error(path: Path) -> Iterator[None]:
    try:
        yield
    except UNREADABLE as error:
        raise ShardError(f"{path} has not the seconds of videos ({first_line(error)})") from error
