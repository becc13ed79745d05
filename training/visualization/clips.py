"""What a trained teacher tracks in a clip, as in the paper's Figures 4 to 6: `wtours visualize`.

For each of a clip's T frames: the frame, the cross-attention of the object prototypes (equation 3)
and of the refined ones (equation 6), an object each in red, green and blue, patch by patch; and
the last again, smoothed, with the color of the strongest object at each place. Every map of an
object and a frame is stretched to run from 0 to 1, so the colors compare places in a frame, not
frames. The video shows every frame of the shards between the clip's first and last.
"""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from training.data.clips import open_clips
from training.distributed.world import best_device
from training.engine.checkpoint import load_trained
from training.engine.checkpoint_files import find_checkpoint, run_dir_of
from training.engine.precision import numerics
from training.visualization.attention_figure import draw_clip, draw_video, picture_rows, png_bytes
from training.visualization.attention_maps import attend_between, crop_clip, shown_heads
from training.visualization.overlay import Palette, Picture
from wtours.errors import ShardError, UsageError
from wtours.media.encode import open_encoder
from wtours.progress import Progress, no_progress
from wtours.shards import Clip, ClipDataset, IntervalRange
from wtours.storage.atomic import atomic_path, sweep_idle, write_bytes, write_json
from wtours.text import listed

FORMAT = 1
_VIDEO_RATE = 30
"""Frames a second of a figure's video; each frame of the shards stays until the next one's time."""


def visualize_clips(  # noqa: PLR0913 -- options of the command, by keyword
    run: Path,
    shards_dir: Path | str,
    video_id: str | None = None,
    *,
    clip: int | None = None,
    num_clips: int = 4,
    palette: Palette = "rgb",
    out_dir: Path | None = None,
    device: torch.device | None = None,
    on_progress: Progress = no_progress,
) -> list[Path]:
    """Draw the tracked objects of some clips; return the files: a PNG and an MP4 for each clip.

    A JSON beside them has the facts.

    The frames go through the crop of the evaluation (no augmentation) at the size of the run's
    global crop. Attention heads are drawn once from the run's seed, for all clips.

    Args:
        run: A run's folder (its newest whole checkpoint is taken) or one of its checkpoints.
        video_id: The video in it; None: the one with the most clips.
        clip: Number of the clip among the video's, in time order, from 0; None: `num_clips` of
            them, from the first to the last.
        out_dir: Where to write; None: <run>/figures.

    Raises:
        CheckpointError: no usable checkpoint.
        ShardError: the shard set is missing or damaged, or has no clip of that video.
        UsageError: no clip of that number.
    """
    checkpoint = find_checkpoint(run)
    of = load_trained(checkpoint)
    config = of.config
    # Where each clip draws its interval, the mean one is shown.
    interval = {"frame_interval_seconds": config.data.mean_interval_seconds}
    is_drawn = isinstance(config.data.frame_interval_seconds, IntervalRange)
    clips = open_clips(shards_dir, config.data.model_copy(update=interval if is_drawn else {}))
    if video_id is None:
        video_id = max(clips.num_clips, key=clips.num_clips.__getitem__)
    chosen = choose_clips(clips, video_id, clip=clip, num_clips=num_clips)

    device = device or best_device()
    backbone = of.network.backbone.to(device)
    heads = shown_heads(backbone, config)
    crop_pixels = config.data.global_crop_pixels
    facts = {
        "format": FORMAT,
        "run": run_dir_of(checkpoint).name,
        "checkpoint": checkpoint.name,
        "step": of.step,
        "model_sha256": of.sha256,
        "crop_pixels": crop_pixels,
        "stretched": "each object and frame, smallest to largest value",
        "palette": palette,
    }
    directory = out_dir or run_dir_of(checkpoint) / "figures"
    sweep_idle(directory)
    paths = []
    with numerics(config.optim, device):
        for done, number in enumerate(chosen, 1):
            figure, clip_facts = draw_clip(clips[number], backbone, heads, config, facts)
            first_row = int(clips.starts[number])
            name = f"{video_id}-clip-{int(clips.index.frame_index[first_row]):08d}"
            still, video = directory / f"{name}.png", directory / f"{name}.mp4"
            between = _frames_between(clips, number)
            pictures, inputs = crop_clip(between, crop_pixels)
            maps = attend_between(backbone, inputs.to(device), heads, config.tracking)
            rows = picture_rows(pictures, maps, clip_facts)
            _write_video(
                video,
                draw_video(rows, between.pts_us, clip_facts),
                pts_us=between.pts_us,
                seconds=config.data.clip_length * config.data.mean_interval_seconds,
            )
            write_json(still.with_suffix(".json"), clip_facts)
            write_bytes(still, png_bytes(figure))
            paths += [still, video]
            on_progress(video_id, done, len(chosen))
    return paths


def choose_clips(
    clips: ClipDataset, video_id: str, *, clip: int | None, num_clips: int
) -> list[int]:
    """Return numbers of clips of one video: the one asked for, or evenly spread ones.

    Raises:
        ShardError: the video has no clip; the message says which have.
        UsageError: `clip` is not among them, or `num_clips` is below 1.
    """
    numbers = {
        video.video_id: np.flatnonzero((clips.starts >= video.start) & (clips.starts < video.stop))
        for video in clips.index.videos
    }
    own = numbers.get(video_id, np.empty(0, np.int64))
    if not len(own):
        known = listed([name for name, some in numbers.items() if len(some)], like=video_id)
        raise ShardError(
            f"{clips.index.directory} has no clip of video {video_id!r}; it has clips of: {known}"
        )
    if clip is not None:
        if not 0 <= clip < len(own):
            raise UsageError(f"clip {clip} of {video_id}: there are 0 to {len(own) - 1}")
        return [int(own[clip])]
    if num_clips < 1:
        raise UsageError(f"number of clips ({num_clips}) must be >= 1")
    spread = np.linspace(0, len(own) - 1, min(num_clips, len(own))).round().astype(np.int64)
    return [int(number) for number in own[spread]]


def _frames_between(clips: ClipDataset, number: int) -> Clip:
    """Return all frames of the shard set from the first of a clip to its last."""
    rows = clips.clip_rows(number)
    every = list(range(rows[0], rows[-1] + 1))
    return Clip(
        video_id=clips.index.video_of(rows[0]).video_id,
        start=rows[0],
        pts_us=tuple(clips.index.pts_us[every].tolist()),
        jpegs=clips.index.read_jpegs(every),
    )


def _write_video(
    path: Path, pictures: Iterator[Picture], *, pts_us: Sequence[int], seconds: float
) -> None:
    """Write a video in which each image stays until the next one's time, the last to the end."""
    first = next(pictures)
    ends_us = [*pts_us[1:], pts_us[0] + round(seconds * 1e6)]
    ticks = [round((end_us - pts_us[0]) * _VIDEO_RATE / 1e6) for end_us in ends_us]
    with (
        atomic_path(path) as unfinished,
        open_encoder(
            unfinished,
            size=(first.shape[1], first.shape[0]),
            frame_rate=_VIDEO_RATE,
            pixel_format="rgb24",
            crf=18,  # lines of text
            preset="medium",
        ) as write,
    ):
        written = 0
        for picture, until in zip(itertools.chain([first], pictures), ticks, strict=True):
            for _ in range(written, until):
                write(picture)
            written = max(written, until)
