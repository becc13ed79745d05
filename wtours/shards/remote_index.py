"""Which shards there are at a URL, or in a list of URLs."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from pydantic import ValidationError

from wtours.errors import ShardError
from wtours.shards.remote_file import FetchPolicy, read_small, shown
from wtours.shards.schema import DATASET_FILE, MAX_DATASET_BYTES, Dataset, ShardRecord

_SHARD_FILE = re.compile(r"(?P<video_id>[a-z0-9_]{1,64})-(?P<segment>[0-9]{5,18})\.tar")


@dataclass(frozen=True, slots=True)
class RemoteShard:
    """A shard at a URL."""

    url: str
    video_id: str
    segment: int
    record: ShardRecord | None = None
    """What dataset.json says of it."""


def list_shards(
    source: str | Sequence[str], policy: FetchPolicy
) -> tuple[Dataset | None, list[RemoteShard]]:
    """Return the shards ordered by video and time, and `dataset.json` where it is known.

    Args:
        source: See `stream_clips`.
        policy: How to fetch `dataset.json`.

    Raises:
        ShardError: `dataset.json` cannot be had or is not of format 1, a tar's name does not say
            which shard it is, or there is none.
    """
    if isinstance(source, str):
        base, _, query = source.partition("?")
        query = f"?{query}" if query else ""
        dataset = _fetch_dataset(f"{base.rstrip('/')}/{DATASET_FILE}{query}", policy)
        return dataset, [
            RemoteShard(f"{base.rstrip('/')}/{r.shard}.tar{query}", r.video_id, r.segment, r)
            for r in dataset.shards
        ]
    if not source:
        raise ShardError("there is no shard to stream: the list of URLs is empty")
    shards = [_named_shard(url) for url in source]
    return None, sorted(shards, key=lambda shard: (shard.video_id, shard.segment))


def _named_shard(url: str) -> RemoteShard:
    match = _SHARD_FILE.fullmatch(urlsplit(url).path.rsplit("/", 1)[-1])
    if match is None:
        raise ShardError(f"{shown(url)} is not named <video_id>-<segment>.tar, as shards are")
    return RemoteShard(url, match["video_id"], int(match["segment"]))


def _fetch_dataset(url: str, policy: FetchPolicy) -> Dataset:
    data = read_small(url, policy, max_bytes=MAX_DATASET_BYTES)
    try:
        return Dataset.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise ShardError(
            f"{shown(url)} is not a dataset.json of format 1 ({where}: {first['msg']})"
        ) from error
