"""A contact sheet of random clips, to see what a trainer will see."""

import struct
import zlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wtours.errors import UsageError
from wtours.shards.clip import Clip
from wtours.shards.dataset import ClipDataset
from wtours.shards.index import ShardIndex
from wtours.shards.sampler import ClipSampler
from wtours.storage.atomic import write_bytes
from wtours.text import clock

_CELL_HEIGHT = 120
_GAP = 2
_LINE_HEIGHT, _FONT_SIZE = 20, 15


def sample_grid(
    directory: Path | str,
    out: Path,
    *,
    num_clips: int = 8,
    seed: int = 0,
    clip_length: int = 8,
    frame_interval_seconds: float = 1.0,
) -> list[Clip]:
    """Write a PNG with a row for each of some random clips, and return the clips.

    Above each row stand its video and the time of each frame, where Pillow is installed (it is in
    the extras `analyze` and `train`); without it the frames alone.

    Args:
        directory: The shard set's folder or URL.
        out: Where to write; must end in .png.
        num_clips: Rows; fewer if the set has fewer clips.
        seed: Another seed, other clips.
        clip_length: T, frames in a row.
        frame_interval_seconds: Δ, from one frame to the next.

    Raises:
        UsageError: out does not end in .png.
        ShardError: the set is not finished, is damaged, or has no such clip.
    """
    if out.suffix.lower() != ".png":
        raise UsageError(f"the contact sheet is a PNG: {out} must end in .png")
    dataset = ClipDataset(
        ShardIndex.open(directory),
        clip_length=clip_length,
        frame_interval_seconds=frame_interval_seconds,
    )
    sampler = ClipSampler(len(dataset), seed=seed)
    clips = [dataset[sampler.clip_at(place)] for place in range(min(num_clips, len(dataset)))]
    rows = [_with_caption(clip, _cells(clip)) for clip in clips]
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, _GAP), (0, width - row.shape[1]), (0, 0))) for row in rows]
    write_bytes(out, _png(np.concatenate(padded)))
    return clips


def has_captions() -> bool:
    """Return whether a contact sheet names its videos and times here."""
    return find_spec("PIL") is not None


def _with_caption(clip: Clip, cells: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return the cells beside each other under their video and their times, (H, W, 3) uint8."""
    row = np.concatenate(cells, axis=1)
    if not has_captions():
        return row
    from PIL import Image, ImageDraw, ImageFont

    strip = Image.new("RGB", (row.shape[1], 2 * _LINE_HEIGHT + _GAP), "black")
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(_FONT_SIZE)
    draw.text((4, _LINE_HEIGHT - 3), clip.video_id, "white", font, anchor="ls")
    left = free_from = 0.0
    for cell, pts_us in zip(cells, clip.pts_us, strict=True):
        if left >= free_from:  # over narrow cells, every other time
            text = clock(pts_us)
            draw.text((left + 4, 2 * _LINE_HEIGHT - 3), text, "white", font, anchor="ls")
            free_from = left + font.getlength(text) + 8
        left += cell.shape[1]
    return np.concatenate([np.asarray(strip), row])


def _cells(clip: Clip) -> list[NDArray[np.uint8]]:
    """Return the clip's frames, each (120, W, 3) uint8, with a gap at the right."""
    cells = []
    for frame in clip.decode(min_short_side=_CELL_HEIGHT):
        width = max(1, round(frame.shape[1] * _CELL_HEIGHT / frame.shape[0]))
        cell = _resized(_resized(frame, 0, _CELL_HEIGHT), 1, width)
        cells.append(np.pad(cell.round().astype(np.uint8), ((0, 0), (0, _GAP), (0, 0))))
    return cells


def _resized(pixels: NDArray[Any], axis: int, size: int) -> NDArray[Any]:
    """Resize one axis linearly. libjpeg has reduced the frame to less than twice the size."""
    last = pixels.shape[axis] - 1
    place = ((np.arange(size) + 0.5) * (last + 1) / size - 0.5).clip(0, last)
    low = place.astype(int)
    weight = np.expand_dims(place - low, (1, 2) if axis == 0 else 1)
    high = (low + 1).clip(max=last)
    resized: NDArray[Any] = pixels.take(low, axis) * (1 - weight) + pixels.take(high, axis) * weight
    return resized


def _png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode (H, W, 3) as a PNG (https://www.w3.org/TR/png-3/).

    By hand: Pillow is in an extra only, and this package imports no video library.
    """
    height, width, _ = pixels.shape
    rows = np.pad(pixels.reshape(height, -1), ((0, 0), (1, 0)))  # before each row: no filter
    chunks = {
        b"IHDR": struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0),  # 8 bits, RGB
        b"IDAT": zlib.compress(rows.tobytes()),
        b"IEND": b"",
    }
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks.items()
    )
