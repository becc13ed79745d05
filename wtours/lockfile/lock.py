"""`NAME.lock`: the sources, parameters, versions and hashes that make a shard set what it is.

A lock is JSON. It holds no frame and no path, so it can be published beside a paper; `sync` makes
the set again from it. `set_sha256` is the line to cite.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from wtours.errors import ShardError, UsageError
from wtours.progress import Progress, no_progress
from wtours.sharding.plan import made_from_stream
from wtours.shards.params import ShardParams
from wtours.shards.schema import (
    MAX_DATASET_BYTES,
    Record,
    ShardRecord,
    VideoRecord,
    read_dataset,
    set_sha256,
)
from wtours.shards.verify import verify_shards
from wtours.storage.atomic import RECEIPTS_FOLDER, read_bytes, write_json
from wtours.storage.receipts import read_receipt
from wtours.storage.working_copy import place_of
from wtours.text import counted, first_problem
from wtours.workspace.layout import Layout
from wtours.workspace.videos import download_receipt, video_file

SUFFIX = ".lock"
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class LockedVideo(VideoRecord):
    """One video of a lock."""

    source_sha256: Sha256
    stream: int | None = Field(default=None, ge=0, le=9999)
    """Of the file, as ffprobe numbers it; None: the one that `shard` chooses."""


class Lock(Record):
    """What a lock file holds."""

    lock: Literal[1]
    name: Annotated[str, Field(pattern="^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
    set_sha256: Sha256
    """See `wtours.shards.schema.set_sha256`."""
    index_sha256: Sha256
    """Of the index, which also holds what an analysis found; sync does not compare it."""
    params: dict[str, Any]
    """As the receipts record them: all that decides the bytes, apart from the videos."""
    versions: dict[str, tuple[str, ...]]
    """Of the packages that made the shards; several where runs of several versions did."""
    videos: tuple[LockedVideo, ...] = Field(min_length=1)
    """Ordered by video_id."""
    shards: tuple[ShardRecord, ...] = Field(min_length=1)
    """Ordered by (video_id, segment)."""

    @property
    def shard_params(self) -> ShardParams:
        """Return the parameters; they were checked when the lock was read."""
        return ShardParams.from_recorded(self.params)

    @model_validator(mode="after")
    def _check_agreement(self) -> Self:
        """Refuse a lock that contradicts itself: a damaged one, or one edited by hand."""
        counted = {video.video_id: 0 for video in self.videos}
        if len(counted) != len(self.videos):
            raise ValueError("a video is in it twice")
        for shard in self.shards:
            if shard.video_id not in counted:
                raise ValueError(f"{shard.shard} is of no video of it")
            counted[shard.video_id] += shard.frames
        if len({shard.shard for shard in self.shards}) != len(self.shards):
            raise ValueError("a shard is in it twice")
        for video in self.videos:
            if counted[video.video_id] != video.frames:
                raise ValueError(f"the shards of {video.video_id} have not {video.frames} frames")
        if set_sha256(self.shards) != self.set_sha256:
            raise ValueError("set_sha256 is not the hash of its shards")
        return self


def lock_shards(
    layout: Layout,
    directory: Path,
    path: Path,
    *,
    deep: bool = False,
    on_progress: Progress = no_progress,
) -> Lock:
    """Write the lock of a finished shard set to `path`, and return it.

    The videos' receipts in the workspace say which stream was taken of a file. With `deep` every
    tar is hashed again, instead of comparing sizes with `dataset.json`.

    Raises:
        ShardError: the set is not finished, or damaged.
    """
    report = verify_shards(place_of(directory), deep=deep, on_progress=on_progress)
    if report.problems:
        first = report.problems[0]
        raise ShardError(
            f"{directory / first.file}: {first.message} "
            f"({counted(len(report.problems), 'problem')} in all); a damaged set is not locked"
        )
    dataset = read_dataset(directory)
    videos = [
        LockedVideo(**video.model_dump(), stream=_stream(layout, directory, video))
        for video in dataset.videos
    ]
    lock = Lock(
        lock=1,
        name=dataset.name,
        set_sha256=set_sha256(dataset.shards),
        index_sha256=dataset.index.sha256,
        params=dataset.params.recorded(),
        versions=_versions(directory, dataset.shards),
        videos=tuple(videos),
        shards=dataset.shards,
    )
    write_json(path, lock.model_dump(mode="json"))
    return lock


def read_lock(path: Path) -> Lock:
    """Return a lock file's content.

    Raises:
        ShardError: it is missing, or no lock of this format, or contradicts itself.
    """
    try:
        data = read_bytes(path, max_bytes=MAX_DATASET_BYTES)
    except FileNotFoundError as error:
        raise ShardError(f"{path} is not there; `wtours lock NAME` writes one") from error
    except IsADirectoryError as error:
        raise ShardError(f"{path} is a folder; give the lock file") from error
    try:
        lock = Lock.model_validate_json(data)
        recorded = lock.shard_params.recorded()
    except (ValidationError, UsageError, ShardError) as error:
        problem = first_problem(error)
        raise ShardError(
            f"{path} is not a lock of format 1 ({problem}); get the published file again"
        ) from error
    for name in sorted({**lock.params, **recorded}):
        if lock.params.get(name) != recorded.get(name):
            raise ShardError(
                f"{path} was made by a version of wtours that made other bytes ({name}: "
                f"{lock.params.get(name)!s:.100}, here {recorded.get(name)!s:.100}); install "
                f"wtours {' or '.join(lock.versions.get('wtours', ('of that time',)))}"
            )
    return lock


def _stream(layout: Layout, directory: Path, video: VideoRecord) -> int | None:
    """Return the stream that was taken, if the very file is (or was) in this workspace.

    Of a file with several the set knows it: another may have been taken of the file since.
    """
    made_from = made_from_stream(directory, video.video_id)
    if made_from is not None and made_from.isdecimal():
        return int(made_from)
    receipt = download_receipt(layout, video.video_id)
    if receipt is None or video_file(receipt).sha256 != video.source_sha256:
        return None
    stream = receipt.facts.get("stream")
    return stream if isinstance(stream, int) else None


def _versions(directory: Path, shards: tuple[ShardRecord, ...]) -> dict[str, tuple[str, ...]]:
    """Return the versions that the shards' receipts name; a copied set may have no receipts."""
    found: dict[str, set[str]] = {}
    for shard in shards:
        receipt = read_receipt(directory / RECEIPTS_FOLDER / f"{shard.shard}.json")
        for package, version in (receipt.versions if receipt is not None else {}).items():
            found.setdefault(package, set()).add(version)
    return {package: tuple(sorted(versions)) for package, versions in sorted(found.items())}
