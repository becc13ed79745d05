"""Attention maps and object masks of one clip."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from training.config.methods import TrackingConfig
from training.config.train import TrainConfig
from training.data.clips import SourceClip
from training.data.image_decoding import crop_center, resize_for
from training.data.normalization import normalized
from training.losses import collapse_metrics as collapse
from training.methods.object_tracking import draw_heads, object_heads, object_masks, track_objects
from training.models.vit import encode_with_attention
from training.rng import torch_generator
from training.visualization.overlay import Picture

_MIN_PICTURE_PIXELS = 224
_FRAMES_AT_ONCE = 16


@dataclass(frozen=True)
class ClipAttention:
    """Where a clip's objects are, before and after Sinkhorn-Knopp: (O, T, N) float32 on the CPU."""

    plain: Tensor
    """Equation 3; each map sums to 1."""
    refined: Tensor
    """Equation 6; likewise."""


def shown_heads(backbone: VisionTransformer, config: TrainConfig) -> Tensor:
    """Return the heads whose objects are drawn, (O,) int64, the same for all figures of a run."""
    available = object_heads(backbone, config.tracking)
    num_shown = min(config.tracking.num_objects, available)  # random blocks can be more
    generator = torch_generator(config.seed, "visualize")
    return draw_heads(available, num_shown, generator).sort().values


def crop_clip(clip: SourceClip, crop_pixels: int) -> tuple[list[Picture], Tensor]:
    """Return the center of each frame to look at, and as the network sees it.

    Returns:
        T pictures (S, S, 3), S the smallest multiple of `crop_pixels` of at least 224 pixels; and
        (T, 3, crop_pixels, crop_pixels) float32, normalized.
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
    return pictures, normalized(torch.from_numpy(np.stack(inputs)))


@torch.inference_mode()
def attend(
    backbone: VisionTransformer, frames: Tensor, heads: Tensor, tracking: TrackingConfig
) -> ClipAttention:
    """Return where the objects of one clip are.

    Args:
        backbone: Of the teacher, in evaluation mode.
        frames: (T, 3, H, W) normalized, on the backbone's device.
        heads: (O,) int64, the heads that find the objects.
        tracking: Of the run; whether it refined prototypes is left out of account.
    """
    features = encode_with_attention(
        backbone, frames, num_heads=tracking.num_heads, attention_scale=tracking.attention_scale
    )
    plain, refined = (
        track_objects(
            features,
            heads,
            clip_length=len(frames),
            tracking=tracking.model_copy(update={"sinkhorn": sinkhorn}),
        )[0].cpu()
        for sinkhorn in (False, True)
    )
    return ClipAttention(plain, refined)


def attend_between(
    backbone: VisionTransformer, frames: Tensor, heads: Tensor, tracking: TrackingConfig
) -> ClipAttention:
    """Return the same for any number of frames that follow the first, in pieces that fit memory.

    An object is what it is in the first frame; so each piece begins with that frame again.
    """
    pieces = [
        attend(backbone, torch.cat([frames[:1], piece]), heads, tracking)
        for piece in torch.split(frames[1:], _FRAMES_AT_ONCE)
    ]
    first = pieces[0] if pieces else attend(backbone, frames, heads, tracking)
    plain, refined = (
        torch.cat([first_maps[:, :1], *(maps[:, 1:] for maps in later)], dim=1)
        for first_maps, later in (
            (first.plain, [piece.plain for piece in pieces]),
            (first.refined, [piece.refined for piece in pieces]),
        )
    )
    return ClipAttention(plain, refined)


def mask_overlap(maps: Tensor) -> float | None:
    """Return the mean IoU of the binary masks of two objects in a frame, over pairs and frames.

    Of maps (O, T, N): 0 says that the objects are apart, 1 that they are the same; None: there is
    one object only.
    """
    overlap = collapse.mask_overlap(object_masks(maps[None], mask="binary")[0])
    return None if overlap is None else float(overlap)
