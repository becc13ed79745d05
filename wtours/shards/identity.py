"""The one hash that names the frames of a shard set."""

import hashlib
from collections.abc import Iterable

from wtours.shards.schema import ShardRecord


def set_sha256(shards: Iterable[ShardRecord]) -> str:
    """Return the set hash: 64 hexadecimal digits, equal where every tar is equal to the byte.

    It is what `LC_ALL=C; sha256sum *.tar | sha256sum` prints in the set's folder, so that anyone
    can check it without wtours. The index is not part of it: an analysis fills its columns later,
    and no frame changes by that.
    """
    lines = sorted((f"{shard.shard}.tar", shard.sha256) for shard in shards)
    text = "".join(f"{sha256}  {name}\n" for name, sha256 in lines)
    return hashlib.sha256(text.encode()).hexdigest()
