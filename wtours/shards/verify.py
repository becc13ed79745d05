"""Finding damage in a shard set: every kind, since a truncated tar reads without any error."""

import json
import os
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from wtours.errors import ShardError, StorageError
from wtours.progress import Progress, no_progress
from wtours.shards.frames import listed_problem, size_problem
from wtours.shards.images.codecs import FORMAT_NAMES, is_whole
from wtours.shards.index import UNREADABLE, ShardIndex, count_problem
from wtours.shards.range_reads.remote import dataset_at
from wtours.shards.schema import (
    DATASET_FILE,
    INDEX_FILE,
    INDEX_SCHEMA,
    MAX_MEMBER_BYTES,
    Dataset,
    ShardRecord,
    sample_key,
)
from wtours.storage.hashing import sha256_file
from wtours.storage.object_store import ObjectStore
from wtours.storage.store import as_location

_END_BLOCKS = bytes(2 * tarfile.BLOCKSIZE)
_COMPARED = ["video_id", "frame_index", "pts_us", "offset", "size"]
_READ = pa.schema([INDEX_SCHEMA.field(name) for name in (*_COMPARED, "shard")])
_BATCH_ROWS = 65_536


@dataclass(frozen=True, slots=True)
class ShardProblem:
    """One thing that is wrong."""

    file: str
    """Name of the damaged, missing or foreign file."""
    message: str


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was checked, and what is wrong with it."""

    directory: Path | str
    """Its folder, or its URL."""
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
    directory: Path | str, *, deep: bool = True, on_progress: Progress = no_progress
) -> VerifyReport:
    """Compare a shard set with its `dataset.json` and its index.

    Memory holds the index rows of one shard. What `ShardIndex.open` refuses is a problem too. Of a
    set on an object store each shard is copied to a temporary file, one at a time.

    Args:
        directory: The shard set's folder, or its URL.
        deep: True: also the sha256 of each shard, and each of its members against the index (it
            reads every byte). False: presence, sizes and counts.
        on_progress: Called with the set's name and the bytes done and in all.

    Raises:
        ShardError: there is no readable `dataset.json`, so nothing to compare with.
    """
    place = as_location(directory)
    dataset = dataset_at(place)
    if isinstance(place, str):
        return _verify_remote(ObjectStore(place), dataset, deep=deep, on_progress=on_progress)
    directory = place
    problems = list(_set_problems(directory.glob("[!.]*.tar"), dataset))
    rows = _IndexRows(directory, dataset)
    done_bytes = 0
    for shard in dataset.shards:
        of_shard = rows.of(shard)
        tar, suffix = directory / f"{shard.shard}.tar", dataset.params.suffix
        problems += _shard_problems(tar, shard, of_shard, suffix, deep=deep)
        done_bytes += shard.bytes
        on_progress(directory.name, done_bytes, dataset.bytes)
    return _report(directory, dataset, [*rows.problems, *problems], deep=deep)


def _verify_remote(
    store: ObjectStore, dataset: Dataset, *, deep: bool, on_progress: Progress
) -> VerifyReport:
    sizes = {found.key: found.bytes for found in store.list()}
    problems = list(_set_problems((Path(k) for k in sizes if k.endswith(".tar")), dataset))
    done_bytes = 0
    with tempfile.TemporaryDirectory(prefix="wtours-verify-") as name:
        folder = Path(name)
        if INDEX_FILE in sizes:
            store.fetch(INDEX_FILE, folder / INDEX_FILE)
        rows = _IndexRows(folder, dataset)
        for shard in dataset.shards:
            tar, of_shard = folder / f"{shard.shard}.tar", rows.of(shard)
            problem = listed_problem(sizes.get(tar.name), shard.bytes)
            if problem is not None:
                problems.append(ShardProblem(tar.name, problem))
            elif deep:
                try:
                    store.fetch(tar.name, tar)
                    suffix = dataset.params.suffix
                    problems += _shard_problems(tar, shard, of_shard, suffix, deep=True)
                except StorageError as error:  # the other shards are still worth reading
                    problems.append(ShardProblem(tar.name, f"cannot be read ({error})"))
                tar.unlink(missing_ok=True)
            done_bytes += shard.bytes
            on_progress(dataset.name, done_bytes, dataset.bytes)
    return _report(store.url, dataset, [*rows.problems, *problems], deep=deep)


def _report(
    place: Path | str, dataset: Dataset, problems: list[ShardProblem], *, deep: bool
) -> VerifyReport:
    """Return the report, with why the set cannot be opened where nothing else is wrong."""
    if not problems:
        try:
            ShardIndex.open(place)
        except ShardError as error:
            problems = [ShardProblem(INDEX_FILE, str(error))]
    return VerifyReport(
        directory=place,
        deep=deep,
        num_shards=len(dataset.shards),
        num_frames=dataset.frames,
        num_bytes=dataset.bytes,
        problems=tuple(problems),
    )


def _set_problems(tars: Iterable[Path], dataset: Dataset) -> Iterator[ShardProblem]:
    """Yield the tars that dataset.json does not name, and how it contradicts itself."""
    known = {f"{shard.shard}.tar" for shard in dataset.shards}
    for path in sorted(tars):
        if path.name not in known:
            yield ShardProblem(
                path.name,
                "is not in dataset.json; run `wtours shard` again if it was stopped, or remove it",
            )
    if (problem := count_problem(dataset)) is not None:
        yield ShardProblem(DATASET_FILE, problem)


class _IndexRows:
    """The rows of the index, shard after shard, and what is wrong with it as a whole."""

    def __init__(self, directory: Path, dataset: Dataset) -> None:
        self.problems: list[ShardProblem] = []
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._rest: list[pa.RecordBatch] = []
        path = directory / INDEX_FILE
        try:
            if sha256_file(path) != dataset.index.sha256:
                self._add("is not the index that dataset.json describes; run `wtours shard` again")
            # As dictionaries, since a text may be long and stand in a million rows.
            file = pq.ParquetFile(path, read_dictionary=["video_id", "shard"], pre_buffer=False)
            if file.metadata.num_rows != dataset.frames:
                self._add(
                    f"has {file.metadata.num_rows} rows for {dataset.frames} frames; "
                    f"run `wtours shard` again"
                )
                return
            self._batches = file.iter_batches(_BATCH_ROWS, columns=_READ.names, use_threads=False)
        except UNREADABLE as error:
            self._add_unreadable(error)

    def of(self, shard: ShardRecord) -> pa.Table | None:
        """Return the rows at the shard's place, or None if they are not its rows."""
        missing = shard.frames - sum(batch.num_rows for batch in self._rest)
        try:
            while missing > 0 and (batch := next(self._batches, None)) is not None:
                self._rest.append(batch)
                missing -= batch.num_rows
            table = pa.Table.from_batches(self._rest, None if self._rest else _READ)
            rows = table.slice(0, shard.frames).cast(_READ)
        except UNREADABLE as error:
            self._add_unreadable(error)
            return None
        self._rest = table.slice(shard.frames).to_batches()
        if self.problems and not table.num_rows:
            return None  # it has been said why
        if pc.unique(rows["shard"]).to_pylist() != [shard.shard] or rows.num_rows != shard.frames:
            self._add(
                f"has other rows where those of {shard.shard} belong; run `wtours shard` again"
            )
            return None
        return rows

    def _add_unreadable(self, error: Exception) -> None:
        self._batches, self._rest = iter(()), []
        self._add(f"cannot be read ({' '.join(str(error).split())}); run `wtours shard` again")

    def _add(self, message: str) -> None:
        self.problems.append(ShardProblem(INDEX_FILE, message))


def _shard_problems(
    path: Path, shard: ShardRecord, rows: pa.Table | None, suffix: str, *, deep: bool
) -> Iterator[ShardProblem]:
    """Yield what is wrong with one shard; `rows` are those of the index at its place."""
    wrong_size = size_problem(path, shard.bytes)
    if wrong_size is not None:
        yield ShardProblem(path.name, wrong_size)
    if not deep or not path.is_file():
        return
    try:
        if wrong_size is None and sha256_file(path) != shard.sha256:
            message = "has another sha256; run `wtours verify --repair`"
            yield ShardProblem(path.name, message)
        if rows is not None:
            _compare_members(path, rows, suffix)
    except (ShardError, tarfile.TarError) as error:
        yield ShardProblem(path.name, f"disagrees with the index: {error}")
    except OSError as error:  # of the disk: the other shards are still worth reading
        yield ShardProblem(path.name, f"cannot be read ({error.strerror})")


def _compare_members(path: Path, rows: pa.Table, suffix: str) -> None:
    """Read a tar member by member beside the index.

    Raises:
        ShardError: the first member that is not what the index says.
        tarfile.TarError: the tar cannot be read any further.
    """
    with tarfile.open(path, mode="r:") as tar:
        for row in rows.select(_COMPARED).to_pylist():
            key = sample_key(row["video_id"], row["frame_index"])
            name = f"{key}{suffix}"
            offset, image = _next_member(tar, name)
            if (offset, len(image)) != (row["offset"], row["size"]):
                raise ShardError(f"{name} is {len(image)} bytes at {offset}")
            if not is_whole(image, suffix):
                raise ShardError(f"{name} is not a whole {FORMAT_NAMES[suffix]}")
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
