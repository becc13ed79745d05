"""What a trained teacher tracks in a clip, as in the paper's Figures 4 to 6: `wtours visualize`.

For each of a clip's T frames: the frame, the cross-attention of the object prototypes (equation 3)
and of the refined ones (equation 6), an object each in red, green and blue. Every map of an object
and a frame is stretched to run from 0 to 1, so the colours compare places in a frame, not frames.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from training import collapse
from training.attention_figure import draw_movie, draw_still, picture_rows, png_bytes
from training.backbones import best_device
from training.checkpoint import MODEL, find_checkpoint, load_network, read_state, run_dir_of
from training.config import TrainConfig
from training.data import open_clips
from training.decoding import crop_center
from training.features import normalised, resize_for
from training.movie import write_movie
from training.networks import object_heads
from training.overlay import Palette, Picture
from training.randomness import torch_generator
from training.step import method_settings
from training.stills import Still
from training.tracking import TrackingSettings, draw_heads, object_masks, track_objects
from training.vit import encode_with_attention
from wtours.errors import ShardError, UsageError
from wtours.fsio import sha256_file, write_bytes, write_json
from wtours.shards import Clip, ClipDataset

FORMAT = 1
_MIN_PICTURE_PIXELS = 224


@dataclass(frozen=True)
class ClipAttention:
    """Where a clip's objects are, before and after Sinkhorn-Knopp; (O, T, N) float32, on the CPU.

    Attributes:
        plain: Equation 3; each map sums to 1.
        refined: Equation 6; likewise.
    """

    plain: Tensor
    refined: Tensor


def visualize_clips(
    run: Path,
    shards_dir: Path,
    video_id: str,
    *,
    clip: int | None = None,
    num_clips: int = 4,
    palette: Palette = "rgb",
    out_dir: Path | None = None,
    device: torch.device | None = None,
) -> list[Path]:
    """Draw the tracked objects of some clips; return the pictures: a PNG and an MP4 for each clip.

    A JSON beside them has the facts.

    The frames go through the crop of the evaluation (no augmentation) at the size of the run's
    global crop. Attention heads are drawn once from the run's seed, for all clips.

    Args:
        run: A run's folder (its newest whole checkpoint is taken) or one of its checkpoints.
        shards_dir: A finished shard set.
        video_id: The video in it.
        clip: Number of the clip among the video's, in time order, from 0; None: `num_clips` of
            them, from the first to the last.
        num_clips: How many, if there are as many.
        palette: Of the objects.
        out_dir: Where to write; None: <run>/figures.
        device: Where the network runs; None: CUDA where there is one.

    Raises:
        CheckpointError: no usable checkpoint.
        ShardError: the shard set is missing or damaged, or has no clip of that video.
        UsageError: no clip of that number.
    """
    checkpoint = find_checkpoint(run)
    config, network = load_network(checkpoint)
    clips = open_clips(shards_dir, config.data)
    chosen = choose_clips(clips, video_id, clip=clip, num_clips=num_clips)

    device = device or best_device()
    backbone = network.backbone.to(device)
    settings, heads = method_settings(config).tracking, shown_heads(backbone, config)
    crop_pixels = config.data.global_crop_pixels
    facts = {
        "format": FORMAT,
        "run": run_dir_of(checkpoint).name,
        "checkpoint": checkpoint.name,
        "step": read_state(checkpoint)[0],
        "model_sha256": sha256_file(checkpoint / MODEL),
        "heads": heads.tolist(),
        "crop_pixels": crop_pixels,
        "stretched": "each object and frame, smallest to largest value",
        "palette": palette,
    }
    directory = out_dir or run_dir_of(checkpoint) / "figures"
    paths = []
    for number in chosen:
        pictures, inputs = crop_clip(clips[number], crop_pixels)
        attention = attend(backbone, inputs.to(device), heads, settings)
        first_row = int(clips.starts[number])
        name = f"{video_id}-clip-{int(clips.index.frame_index[first_row]):08d}"
        clip_facts = facts | describe_clip(clips[number], attention)
        rows = picture_rows(pictures, attention.plain, attention.refined, clip_facts)
        still, movie = directory / f"{name}.png", directory / f"{name}.mp4"
        write_movie(
            movie, draw_movie(rows, clip_facts), seconds_each=config.data.frame_interval_seconds
        )
        write_json(still.with_suffix(".json"), clip_facts)
        write_bytes(still, png_bytes(draw_still(rows, clip_facts)))
        paths += [still, movie]
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
        known = ", ".join(name for name, some in numbers.items() if len(some))
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


def shown_heads(backbone: VisionTransformer, config: TrainConfig) -> Tensor:
    """Return the heads whose objects are drawn, (O,) int64, the same for all figures of a run."""
    available = object_heads(backbone, config)
    num_shown = min(config.tracking.num_objects, available)  # random blocks can be more
    generator = torch_generator(config.seed, "visualize")
    return draw_heads(available, num_shown, generator).sort().values


def crop_clip(clip: Clip | Still, crop_pixels: int) -> tuple[list[Picture], Tensor]:
    """Return the centre of each frame to look at, and as the network sees it.

    Returns:
        T pictures (S, S, 3), S the smallest multiple of `crop_pixels` of at least 224 pixels; and
        (T, 3, crop_pixels, crop_pixels) float32, normalised.
    """
    frames = [Image.fromarray(frame) for frame in clip.decode()]
    larger = -(-_MIN_PICTURE_PIXELS // crop_pixels)
    pictures, inputs = (
        [
            crop_center(
                frame,
                resize_pixels=resize_for(crop_pixels) * scale,
                crop_pixels=crop_pixels * scale,
            )
            for frame in frames
        ]
        for scale in (larger, 1)
    )
    return pictures, normalised(torch.from_numpy(np.stack(inputs)))


@torch.inference_mode()
def attend(
    backbone: VisionTransformer, frames: Tensor, heads: Tensor, settings: TrackingSettings
) -> ClipAttention:
    """Return where the objects of one clip are.

    Args:
        backbone: Of the teacher, in evaluation mode.
        frames: (T, 3, H, W) normalised, on the backbone's device.
        heads: (O,) int64, the heads that find the objects.
        settings: Of the run; whether it refined prototypes is left out of account.
    """
    features = encode_with_attention(
        backbone, frames, num_heads=settings.num_heads, attention_scale=settings.attention_scale
    )
    plain, refined = (
        track_objects(
            features,
            heads,
            clip_length=len(frames),
            settings=dataclasses.replace(settings, sinkhorn=sinkhorn),
        )[0].cpu()
        for sinkhorn in (False, True)
    )
    return ClipAttention(plain, refined)


def mask_overlap(maps: Tensor) -> float | None:
    """Return the mean IoU of the binary masks of two objects in a frame, over pairs and frames.

    0 says that the objects are apart, 1 that they are the same. None: there is one object only.

    Args:
        maps: (O, T, N).
    """
    overlap = collapse.mask_overlap(object_masks(maps[None], mask="binary")[0])
    return None if overlap is None else float(overlap)


def describe_clip(clip: Clip | Still, attention: ClipAttention) -> dict[str, Any]:
    """Return what a figure's JSON says of its clip."""
    return {
        "video_id": clip.video_id,
        "pts_us": list(clip.pts_us),
        "mask_overlap": {
            "plain": mask_overlap(attention.plain),
            "refined": mask_overlap(attention.refined),
        },
    }
