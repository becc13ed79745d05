"""Ways to get a clip of 8 frames, 1 s apart, as a 300x300 crop: ours and others'.

Each function returns a function that gets one clip, from a random start, and crops it; all crop by
the same code. What is not installed raises ImportError.
"""

import importlib
import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from wtours.shards import ClipDataset, ClipSampler, ShardIndex

GetClip = Callable[[], object]
CLIP_LENGTH = 8
CROP_PIXELS = 300


def crop(frames: list[NDArray[np.uint8]], generator: random.Random) -> torch.Tensor:
    """Return one random resized crop of all frames, (T, 3, 300, 300) uint8, bilinear.

    Area 0.2 to 1 of the frame, as in the released code.
    """
    height, width = frames[0].shape[:2]
    side = generator.uniform(0.2, 1) ** 0.5
    crop_height, crop_width = int(height * side), int(width * side)
    top, left = generator.randint(0, height - crop_height), generator.randint(0, width - crop_width)
    crops = [
        F.interpolate(
            torch.from_numpy(frame[top : top + crop_height, left : left + crop_width].copy())
            .permute(2, 0, 1)
            .unsqueeze(0),
            (CROP_PIXELS, CROP_PIXELS),
            mode="bilinear",
        )
        for frame in frames
    ]
    return torch.cat(crops)


def ours(shards: Path) -> GetClip:
    """Return clips by `ClipDataset` in the order of `ClipSampler`."""
    dataset = ClipDataset(ShardIndex.open(shards), clip_length=CLIP_LENGTH)
    sampler, positions = ClipSampler(len(dataset), seed=0), itertools.count()
    generator = random.Random(0)
    return lambda: crop(dataset[sampler.clip_at(next(positions))].decode(), generator)


def from_memory(shards: Path, num_clips: int) -> GetClip:
    """Return the same clips, whose JPEGs are in memory already: simplejpeg and the crop only."""
    dataset = ClipDataset(ShardIndex.open(shards), clip_length=CLIP_LENGTH)
    sampler = ClipSampler(len(dataset), seed=0)
    held = itertools.cycle([dataset[sampler.clip_at(p)].jpegs for p in range(num_clips)])
    generator = random.Random(0)
    return lambda: crop([simplejpeg.decode_jpeg(jpeg) for jpeg in next(held)], generator)


def authors(video: Path) -> GetClip:
    """Return clips as the released code does: a decord reader for each, 8 frames out of it."""
    decord = importlib.import_module("decord")
    generator = random.Random(0)

    def get() -> torch.Tensor:
        reader = decord.VideoReader(str(video), num_threads=1)
        step = round(reader.get_avg_fps())
        start = generator.randrange(len(reader) - (CLIP_LENGTH - 1) * step)
        indices = [start + number * step for number in range(CLIP_LENGTH)]
        return crop(list(reader.get_batch(indices).asnumpy()), generator)

    return get


def plain_webdataset(shards: Path) -> GetClip:
    """Return 8 frames in the order of the tars, decoded by PIL: the cheapest that it can do."""
    webdataset = importlib.import_module("webdataset")
    importlib.import_module("PIL")
    urls = sorted(str(path) for path in shards.glob("*.tar"))
    samples: Iterator[dict[str, Any]] = iter(
        webdataset.WebDataset(urls, shardshuffle=False).repeat().decode("rgb8")
    )
    generator = random.Random(0)
    return lambda: crop([s["jpg"] for s in itertools.islice(samples, CLIP_LENGTH)], generator)


def our_jpegs(shards: Path) -> GetClip:
    """Return clips by `ClipDataset`, not decoded."""
    dataset = ClipDataset(ShardIndex.open(shards), clip_length=CLIP_LENGTH)
    sampler, positions = ClipSampler(len(dataset), seed=0), itertools.count()
    return lambda: dataset[sampler.clip_at(next(positions))].jpegs


def lance_jpegs(shards: Path, folder: Path) -> Callable[[], list[bytes]]:
    """Return clips, not decoded, out of a Lance table that holds the same JPEG bytes."""
    lance = importlib.import_module("lance")
    pa = importlib.import_module("pyarrow")
    clips = ClipDataset(ShardIndex.open(shards), clip_length=CLIP_LENGTH)
    if not folder.exists():
        jpegs = clips.index.read_jpegs(range(len(clips.index)))
        columns = {"pts_us": clips.index.pts_us, "jpeg": pa.array(jpegs, pa.large_binary())}
        lance.write_dataset(pa.table(columns), str(folder))
    table = lance.dataset(str(folder))
    sampler, positions = ClipSampler(len(clips), seed=0), itertools.count()

    def get() -> list[bytes]:
        rows = clips.clip_rows(sampler.clip_at(next(positions)))
        taken: list[bytes] = table.take(rows, columns=["jpeg"])["jpeg"].to_pylist()
        return taken

    return get


def lance_clips(shards: Path, folder: Path) -> GetClip:
    """Return clips out of the Lance table."""
    get_jpegs, generator = lance_jpegs(shards, folder), random.Random(0)
    return lambda: crop([simplejpeg.decode_jpeg(jpeg) for jpeg in get_jpegs()], generator)


def torchcodec_video(video: Path) -> GetClip:
    """Return clips out of a video of 30 fps by torchcodec, its decoder kept open."""
    decoders = importlib.import_module("torchcodec.decoders")
    decoder = decoders.VideoDecoder(str(video), dimension_order="NHWC", num_ffmpeg_threads=1)
    generator = random.Random(0)

    def get() -> torch.Tensor:
        start = generator.randrange(len(decoder) - (CLIP_LENGTH - 1) * 30)
        indices = [start + number * 30 for number in range(CLIP_LENGTH)]
        return crop(list(decoder.get_frames_at(indices).data.numpy()), generator)

    return get
