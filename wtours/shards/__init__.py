"""What a trainer sees of the data: clips of frames out of plain WebDataset tars.

    >>> index = ShardIndex.open("data/shards/default")
    >>> dataset = ClipDataset(index, clip_length=4, frame_interval_seconds=0.5)
    >>> sampler = ClipSampler(len(dataset), seed=0)
    >>> frames = dataset[sampler.clip_at(0)].decode()  # 4 arrays (H, W, 3) uint8
    >>> len(frames), frames[0].dtype
    (4, dtype('uint8'))

`wtours.sharding` writes shards; `docs/reference/shards.md` describes the files.
"""

from wtours.shards.clip import Clip
from wtours.shards.clip_starts import IntervalRange
from wtours.shards.dataset import ClipDataset
from wtours.shards.frames import FrameRef
from wtours.shards.index import ShardIndex
from wtours.shards.range_reads.remote import FetchPolicy
from wtours.shards.sampler import ClipBatches, ClipSampler, ClipShare
from wtours.shards.stream import StreamOrder, stream_clips

__all__ = [
    "Clip",
    "ClipBatches",
    "ClipDataset",
    "ClipSampler",
    "ClipShare",
    "FetchPolicy",
    "FrameRef",
    "IntervalRange",
    "ShardIndex",
    "StreamOrder",
    "stream_clips",
]
