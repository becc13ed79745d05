"""What is to be blurred in a shard set: checked, named by its sha256, kept beside the shards."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from wtours.errors import UsageError
from wtours.sharding.anonymize.blur import BOX_SIDES
from wtours.sharding.anonymize.centerface import SCALE, THRESHOLD, find_weights
from wtours.sharding.plan import published_plans, require_same_params
from wtours.shards.params import BlurParams, ShardParams
from wtours.shards.schema import BLUR_BOXES_FILE
from wtours.storage.atomic import write_bytes
from wtours.storage.hashing import sha256_file
from wtours.storage.working_copy import push
from wtours.text import first_line


def with_blur(
    directory: Path,
    params: ShardParams,
    video_ids: Iterable[str],
    *,
    boxes: Path | None = None,
    faces: bool = False,
) -> ShardParams:
    """Return the parameters of a shard set with what is to be blurred; keep the boxes in the set.

    Args:
        directory: The shard set, begun or not.
        params: Its other parameters.
        video_ids: The videos to be sharded.
        boxes: A Parquet file: `pts_us`, `x0`, `y0`, `x1`, `y1` and, for more than one video,
            `video_id`; a row whose sides are null says that there is nothing to blur.
        faces: Whether to look for faces.

    Raises:
        UsageError: the file has not the columns, or not a row of some video.
        ShardError: the set was begun with other parameters; the weights are not installed.
    """
    if boxes is None and not faces:
        return params
    weights = find_weights() if faces else None
    blur = BlurParams(
        boxes_sha256=None if boxes is None else _checked_sha256(boxes, video_ids, directory),
        faces_sha256=None if weights is None else sha256_file(weights),
        faces_threshold=THRESHOLD if faces else None,
        faces_scale=SCALE if faces else None,
    )
    params = dataclasses.replace(params, blur=blur)
    require_same_params(directory, params)
    kept = directory / BLUR_BOXES_FILE
    if boxes is not None:
        # It may be of a run that has not begun the set, or that was killed before it was pushed.
        if not kept.is_file() or sha256_file(kept) != blur.boxes_sha256:
            write_bytes(kept, boxes.read_bytes())
        push(kept)
    return params


def _checked_sha256(path: Path, video_ids: Iterable[str], directory: Path) -> str:
    """Return the sha256 of a file of boxes, which must have rows of every video of the set."""
    wanted = {*video_ids, *(plan.video_id for plan in published_plans(directory))}
    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        reason = first_line(error)
        raise UsageError(f"--blur-boxes {path} is not a Parquet file ({reason})") from error
    columns = ("pts_us", *BOX_SIDES)
    missing = [name for name in columns if schema.names.count(name) != 1]
    if missing:
        raise UsageError(f"--blur-boxes {path} must have one column {', '.join(missing)}")
    for name in columns:
        kind = schema.field(name).type
        if not (pa.types.is_integer(kind) or (name != "pts_us" and pa.types.is_floating(kind))):
            raise UsageError(f"--blur-boxes {path}: the column {name} is of {kind}, not numbers")
    named = [name for name in ("video_id",) if name in schema.names]
    try:
        table = pq.read_table(path, columns=[*columns, *named])
        present = {video_id for name in named for video_id in pc.unique(table[name]).to_pylist()}
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UsageError(f"--blur-boxes {path} cannot be read ({first_line(error)})") from error
    if not named:
        if len(wanted) > 1:
            raise UsageError(
                f"--blur-boxes {path} has no column video_id, and there are {len(wanted)} videos: "
                f"{', '.join(sorted(wanted))}"
            )
        return sha256_file(path)
    absent = sorted(wanted - present)
    if absent:
        raise UsageError(
            f"--blur-boxes {path} has no row of {', '.join(absent)}; where there is nothing to "
            f"blur, add a row whose sides are null"
        )
    return sha256_file(path)
