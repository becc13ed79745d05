"""Train and validation parts of a shard set, as blocks in time, in `split.json` beside the shards.

Frames that are seconds apart show the same street, so a split by clips leaks: here whole blocks go
to one part, and between two parts lies a gap that neither has.
"""

import contextlib
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from wtours.errors import ShardError, UsageError
from wtours.shards.index import ShardIndex
from wtours.shards.range_reads.remote import folder_url, read_at_url
from wtours.shards.sampler import permuted
from wtours.shards.schema import Count, Record, VideoId
from wtours.storage.atomic import read_bytes, write_json
from wtours.storage.hashing import sha256_bytes
from wtours.storage.remote_calls import ObjectMissingError, shown
from wtours.text import first_problem

SPLIT_FILE = "split.json"
_US = 1_000_000
_MAX_BYTES = 64 * 2**20
_MAX_BLOCKS = 100_000


class Block(Record):
    """The frames of one video with start_us <= pts < end_us are of one part."""

    part: Annotated[str, Field(pattern="^[a-z0-9_]{1,32}$")]
    video_id: VideoId
    start_us: Count
    end_us: Count


class SplitFile(Record):
    """What `split.json` holds."""

    format: Literal[1]
    val_share: float
    block_seconds: float
    gap_seconds: float
    seed: int
    videos: tuple[VideoId, ...]
    """Those that were split; a set that has others since must be split again."""
    blocks: tuple[Block, ...]
    """Ordered by (video_id, start_us); they do not overlap."""

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        for block in self.blocks:
            if block.start_us >= block.end_us or block.video_id not in self.videos:
                raise ValueError(f"a block of {block.video_id} is empty or of no video of it")
        for block, following in pairwise(self.blocks):
            if (block.video_id, block.end_us) > (following.video_id, following.start_us):
                raise ValueError(f"blocks of {following.video_id} overlap, or are out of order")
        return self


class Split:
    """One part of a split: which clips lie in it.

    Attributes:
        part: Its name.
        sha256: Of the file, for a checkpoint.
    """

    def __init__(self, part: str, blocks: tuple[Block, ...], sha256: str) -> None:
        self.part, self.sha256 = part, sha256
        self._blocks: dict[str, list[tuple[int, int]]] = {}
        for block in blocks:
            if block.part == part:
                self._blocks.setdefault(block.video_id, []).append((block.start_us, block.end_us))

    def holds(self, video_id: str, start_us: NDArray[np.int64], span_us: int) -> NDArray[np.bool_]:
        """Return which clips lie in one block from the first frame to the last.

        Args:
            video_id: The clips' video.
            start_us: (N,) int64, pts of each clip's first frame.
            span_us: From it to the last frame.
        """
        blocks = np.array(self._blocks.get(video_id, []), np.int64).reshape(-1, 2)
        block = np.searchsorted(blocks[:, 0], start_us, side="right") - 1
        ends = blocks[block.clip(min=0), 1] if len(blocks) else np.zeros_like(start_us)
        return (block >= 0) & (start_us + span_us < ends)


def split_shards(
    index: ShardIndex,
    *,
    val_share: float = 0.1,
    block_seconds: float = 300.0,
    gap_seconds: float = 30.0,
    seed: int = 0,
) -> SplitFile:
    """Write `split.json` of a shard set: some blocks of its videos are "val", the rest "train".

    Args:
        index: The shard set.
        val_share: Share of the blocks that is for validation; at least one, and not all.
        block_seconds: Length of a block.
        gap_seconds: Between a frame of one part and one of the other lies at least this.
        seed: Another seed, other blocks.

    Raises:
        UsageError: a value is out of range, the videos have less than two blocks or too many, or a
            part would have no frame.
    """
    block_us = half_gap_us = 0
    if 0 < val_share < 1 and 0 <= gap_seconds < block_seconds <= 1e6:
        block_us, half_gap_us = round(block_seconds * _US), -(round(-gap_seconds * _US) // 2)
    if block_us <= 2 * half_gap_us:
        raise UsageError(
            f"a split needs 0 < --val-share ({val_share:g}) < 1 and 0 <= --gap-seconds "
            f"({gap_seconds:g}) < --block-seconds ({block_seconds:g}) <= 1000000"
        )
    lasts_us = {v.video_id: int(index.pts_us[v.stop - 1]) for v in index.videos if v.stop > v.start}
    if sum(last_us // block_us for last_us in lasts_us.values()) > _MAX_BLOCKS:
        raise UsageError(
            f"there are more than {_MAX_BLOCKS:,} blocks of {block_seconds:g} s: raise "
            f"--block-seconds"
        )
    numbered = [
        (video_id, number)
        for video_id, last_us in lasts_us.items()
        for number in range(last_us // block_us + 1)
    ]
    num_val = min(max(1, round(val_share * len(numbered))), len(numbered) - 1)
    if num_val < 1:
        raise UsageError(
            f"{index.directory} has a single block of {block_seconds:g} s: lower --block-seconds"
        )
    val = {numbered[permuted(i, len(numbered), key=f"{seed}/split")] for i in range(num_val)}
    blocks: list[Block] = []
    for video_id, number in numbered:
        start_us, end_us = number * block_us, (number + 1) * block_us
        part = "val" if (video_id, number) in val else "train"
        last = blocks[-1] if blocks and blocks[-1].video_id == video_id else None
        if last is not None and last.part == part:
            start_us = blocks.pop().start_us
        elif last is not None:
            blocks[-1] = last.model_copy(update={"end_us": last.end_us - half_gap_us})
            start_us += half_gap_us
        blocks.append(Block(part=part, video_id=video_id, start_us=start_us, end_us=end_us))
    content = SplitFile(
        format=1,
        val_share=val_share,
        block_seconds=block_seconds,
        gap_seconds=gap_seconds,
        seed=seed,
        videos=tuple(sorted({video_id for video_id, _ in numbered})),
        blocks=tuple(blocks),
    )
    empty = [part for part, frames in frames_of_parts(index, content).items() if not frames]
    if empty:
        raise UsageError(
            f"{empty[0]} would have no frame: its blocks are short ends of videos; use another "
            f"--seed, or lower --gap-seconds or --block-seconds"
        )
    write_json(split_path(index), content.model_dump(mode="json"))
    return content


def frames_of_parts(index: ShardIndex, content: SplitFile) -> dict[str, int]:
    """Return the number of frames of a shard set in each part of its split."""
    parts = [Split(part, content.blocks, "") for part in sorted({b.part for b in content.blocks})]
    return {
        split.part: sum(
            int(split.holds(v.video_id, index.pts_us[v.start : v.stop], 0).sum())
            for v in index.videos
        )
        for split in parts
    }


def split_path(index: ShardIndex) -> Path:
    """Return where a shard set's split is written.

    Raises:
        ShardError: the set is at a URL.
    """
    if not isinstance(index.directory, Path):
        raise ShardError(
            f"{shown(index.directory)} is at a URL, where no split is written: split it on a disk, "
            f"and `wtours copy` it there"
        )
    return index.directory / SPLIT_FILE


def read_split(index: ShardIndex, part: str) -> Split:
    """Return one part of a shard set's split.

    Raises:
        ShardError: the set has none, it is damaged, or of other videos, or has no such part.
    """
    place, text = shown(str(index.directory)), _read(index)
    path, again = f"{place}/{SPLIT_FILE}", f"run `wtours shards split {place.rpartition('/')[2]}`"
    if isinstance(index.directory, str):
        again += " on a disk, and `wtours copy` it there"
    if text is None:
        raise ShardError(f"{place} has no {SPLIT_FILE}; {again}")
    try:
        content = SplitFile.model_validate_json(text)
    except ValidationError as error:
        raise ShardError(f"{path} is damaged ({first_problem(error)}); {again}") from error
    new = {video.video_id for video in index.videos if video.stop > video.start}
    if new != set(content.videos):
        names = ", ".join(sorted(new ^ set(content.videos))[:5])
        raise ShardError(f"{path} was made of other videos than the set has now ({names}); {again}")
    parts = sorted({block.part for block in content.blocks})
    if part not in parts:
        raise ShardError(f"{path} has no part {part!r}; it has {', '.join(parts)}")
    return Split(part, content.blocks, sha256_bytes(text))


def _read(index: ShardIndex) -> bytes | None:
    """Return the bytes of a set's split; None: it has none."""
    if isinstance(index.directory, Path):
        with contextlib.suppress(FileNotFoundError):
            return read_bytes(split_path(index), max_bytes=_MAX_BYTES)
        return None
    assert index.remote is not None
    try:
        return read_at_url(folder_url(index.directory, SPLIT_FILE), index.remote.policy)
    except ShardError as error:
        if isinstance(error.__cause__, ObjectMissingError):
            return None
        raise
