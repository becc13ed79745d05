"""Finding damage in a shard set: every kind, since a cut tar reads without any error."""

import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from wtours.errors import ShardError
from wtours.progress import Progress, no_progress
from wtours.shards.index import size_problem
from wtours.shards.schema import (
    DATASET_FILE,
    INDEX_FILE,
    INDEX_SCHEMA,
    MAX_MEMBER_BYTES,
    Dataset,
    ShardRecord,
    read_dataset,
    sample_key,
)
from wtours.storage.hashing import sha256_file

_END_BLOCKS = bytes(2 * tarfile.BLOCKSIZE)
_COMPARED = ["video_id", "frame_index", "pts_us", "offset", "size"]
_READ = pa.schema([INDEX_SCHEMA.field(name) for name in (*_COMPARED, "shard")])


@dataclass(frozen=True, slots=True)
class ShardProblem:
    """One thing that is wrong."""

    file: str
    """Name of the damaged, missing or foreign file."""
    message: str


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was looked at, and what is wrong with it."""

    directory: Path
    deep: bool
    num_shards: int
    num_frames: int
    num_bytes: int
    problems: tuple[ShardProblem, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def verify_shards(
    directory: Path, *, deep: bool = True, on_progress: Progress = no_progress
) -> VerifyReport:
    """Compare a shard set with its `dataset.json` and its index.

    Args:
        directory: The shard set.
        deep: True: also the sha256 of each shard, and each of its members against the index (it
            reads every byte). False: what is there, sizes and counts.
        on_progress: Called with the set's name and the bytes done and in all.

    Raises:
        ShardError: there is no readable `dataset.json`, so nothing to compare with.
    """
    dataset = read_dataset(directory)
    problems = [*_foreign_shards(directory, dataset), *_count_problems(dataset)]
    index = _read_index(directory, dataset, problems)
    first_row, done_bytes = 0, 0
    for shard in dataset.shards:
        rows = None if index is None else index.slice(first_row, shard.frames)
        problems += _shard_problems(directory / f"{shard.shard}.tar", shard, rows, deep=deep)
        first_row += shard.frames
        done_bytes += shard.bytes
        on_progress(directory.name, done_bytes, dataset.bytes)
    return VerifyReport(
        directory=directory,
        deep=deep,
        num_shards=len(dataset.shards),
        num_frames=dataset.frames,
        num_bytes=dataset.bytes,
        problems=tuple(problems),
    )


def _foreign_shards(directory: Path, dataset: Dataset) -> Iterator[ShardProblem]:
    known = {f"{shard.shard}.tar" for shard in dataset.shards}
    for path in sorted(directory.glob("[!.]*.tar")):
        if path.name not in known:
            yield ShardProblem(
                path.name,
                "is not in dataset.json; run `wtours shard` again if it was stopped, or remove it",
            )


def _count_problems(dataset: Dataset) -> Iterator[ShardProblem]:
    """Compare dataset.json with itself."""
    frames = sum(shard.frames for shard in dataset.shards)
    of_videos = sum(video.frames for video in dataset.videos)
    if not frames == of_videos == dataset.frames == dataset.index.rows:
        yield ShardProblem(
            DATASET_FILE,
            f"counts {frames} frames in shards, {of_videos} in videos, {dataset.frames} in all and "
            f"{dataset.index.rows} in the index; run `wtours shard` again",
        )


def _read_index(directory: Path, dataset: Dataset, problems: list[ShardProblem]) -> pa.Table | None:
    """Return the index if its rows can be told apart, adding to the problems what is wrong."""
    path = directory / INDEX_FILE
    try:
        if sha256_file(path) != dataset.index.sha256:
            message = "is not the index that dataset.json speaks of; run `wtours shard` again"
            problems.append(ShardProblem(INDEX_FILE, message))
        table = pq.read_table(path, columns=_READ.names).cast(_READ)
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        problems.append(
            ShardProblem(INDEX_FILE, f"cannot be read ({reason}); run `wtours shard` again")
        )
        return None
    if table.num_rows != dataset.frames:
        message = f"has {table.num_rows} rows for {dataset.frames} frames; run `wtours shard` again"
        problems.append(ShardProblem(INDEX_FILE, message))
        return None
    return table


def _shard_problems(
    path: Path, shard: ShardRecord, rows: pa.Table | None, *, deep: bool
) -> Iterator[ShardProblem]:
    """Yield what is wrong with one shard; `rows` are those of the index at its place."""
    if rows is not None and pc.unique(rows["shard"]).to_pylist() != [shard.shard]:
        message = f"has other rows where those of {shard.shard} belong; run `wtours shard` again"
        yield ShardProblem(INDEX_FILE, message)
        rows = None
    wrong_size = size_problem(path, shard.bytes)
    if wrong_size is not None:
        yield ShardProblem(path.name, wrong_size)
    if not deep or not path.is_file():
        return
    if wrong_size is None and sha256_file(path) != shard.sha256:
        message = "has another sha256; run `wtours verify --repair`"
        yield ShardProblem(path.name, message)
    if rows is not None:
        try:
            _compare_members(path, rows)
        except (ShardError, tarfile.TarError) as error:
            yield ShardProblem(path.name, f"disagrees with the index: {error}")


def _compare_members(path: Path, rows: pa.Table) -> None:
    """Read a tar member by member beside the index.

    Raises:
        ShardError: the first member that is not what the index says.
        tarfile.TarError: the tar cannot be read any further.
    """
    with tarfile.open(path, mode="r:") as tar:
        for row in rows.select(_COMPARED).to_pylist():
            key = sample_key(row["video_id"], row["frame_index"])
            offset, jpeg = _next_member(tar, f"{key}.jpg")
            if (offset, len(jpeg)) != (row["offset"], row["size"]):
                raise ShardError(f"{key}.jpg is {len(jpeg)} bytes at {offset}")
            if jpeg[:2] != b"\xff\xd8" or jpeg[-2:] != b"\xff\xd9":
                raise ShardError(f"{key}.jpg is not a whole JPEG")
            _, text = _next_member(tar, f"{key}.json")
            if not _says(text, video_id=row["video_id"], pts_us=row["pts_us"]):
                raise ShardError(f"{key}.json is of another frame")
        if tar.next() is not None:
            raise ShardError("there are more members in the tar")
    with path.open("rb") as file:
        file.seek(-len(_END_BLOCKS), os.SEEK_END)
        if file.read() != _END_BLOCKS:
            raise ShardError("the two zero blocks at its end are missing")


def _next_member(tar: tarfile.TarFile, name: str) -> tuple[int, bytes]:
    """Return where the payload of the next member begins, and the payload."""
    member = tar.next()
    if member is None:
        raise ShardError(f"it ends before {name}")
    if member.name != name or not member.isreg():
        raise ShardError(f"{member.name!r} is in the place of {name}")
    if member.size > MAX_MEMBER_BYTES:
        raise ShardError(f"{name} claims {member.size} bytes; {MAX_MEMBER_BYTES} are allowed")
    file = tar.extractfile(member)
    return member.offset_data, b"" if file is None else file.read()


def _says(text: bytes, **expected: object) -> bool:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(fields, dict) and expected.items() <= fields.items()
