"""A picture of random clips, to see what a trainer will see."""

from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from wtours.errors import UsageError
from wtours.shards.dataset import Clip, ClipDataset
from wtours.shards.index import ShardIndex
from wtours.shards.sampler import ClipSampler
from wtours.storage.atomic import write_bytes

_CELL_HEIGHT = 120
_GAP = 2


def sample_grid(
    directory: Path,
    out: Path,
    *,
    num_clips: int = 8,
    seed: int = 0,
    clip_length: int = 8,
    frame_interval_seconds: float = 1.0,
) -> list[Clip]:
    """Write a PNG with a row for each of some random clips, and return the clips.

    Args:
        directory: The shard set.
        out: Where to write; must end in .png.
        num_clips: Rows; fewer if the set has fewer clips.
        seed: Another seed, other clips.
        clip_length: T, pictures in a row.
        frame_interval_seconds: Δ, from one picture to the next.

    Raises:
        UsageError: out does not end in .png.
        ShardError: the set is not finished, is damaged, or has no such clip.
    """
    if out.suffix.lower() != ".png":
        raise UsageError(f"the picture is a PNG: {out} must end in .png")
    dataset = ClipDataset(
        ShardIndex.open(directory),
        clip_length=clip_length,
        frame_interval_seconds=frame_interval_seconds,
    )
    sampler = ClipSampler(len(dataset), seed=seed)
    clips = [dataset[sampler.clip_at(place)] for place in range(min(num_clips, len(dataset)))]
    rows = [_row(clip) for clip in clips]
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, _GAP), (0, width - row.shape[1]), (0, 0))) for row in rows]
    write_bytes(out, _png(np.concatenate(padded)))
    return clips


def _row(clip: Clip) -> NDArray[np.uint8]:
    """Return the clip's frames beside each other, (120, W, 3) uint8."""
    cells = []
    for frame in clip.decode(min_short_side=_CELL_HEIGHT):
        width = max(1, round(frame.shape[1] * _CELL_HEIGHT / frame.shape[0]))
        picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
        cell = picture.reformat(width=width, height=_CELL_HEIGHT).to_ndarray()
        cells.append(np.pad(cell, ((0, 0), (0, _GAP), (0, 0))))
    return np.concatenate(cells, axis=1)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode by the FFmpeg inside PyAV: Pillow is in an extra only."""
    encoder = av.VideoCodecContext.create("png", "w")
    encoder.height, encoder.width = pixels.shape[:2]
    encoder.pix_fmt = "rgb24"
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])
