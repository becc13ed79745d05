"""From the teacher's features of a clip to masks that follow its objects (paper, section 4).

Objects are found in the first frame: a few heads of the CLS attention pool the queries into
object prototypes, Sinkhorn-Knopp assigns the patches to them, and the assigned patch tokens make
the refined prototypes. These attend to the keys of every frame: one map per object and frame.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from training.config.methods import TrackingConfig
from training.distributed import collectives
from training.losses.sinkhorn import assignment
from training.models.vit import TokenFeatures, num_heads


def object_heads(backbone: VisionTransformer, tracking: TrackingConfig) -> int:
    """Return the heads in which objects are looked for: the last block's, or as it is split."""
    return tracking.num_heads or num_heads(backbone)


def draw_heads(num_heads: int, num_objects: int, generator: torch.Generator) -> Tensor:
    """Return `num_objects` different heads, (O,) int64, of a CPU generator."""
    return torch.randperm(num_heads, generator=generator)[:num_objects]


def track_objects(
    features: TokenFeatures, heads: Tensor, *, clip_length: int, tracking: TrackingConfig
) -> Tensor:
    """Return where each object is in each frame, (B, O, T, N) float32; a map sums to 1 over N.

    Args:
        features: Of the B * T frames of B clips, clip by clip.
        heads: (O,) the heads that find the objects.
        clip_length: T.
        tracking: Which equations are followed.
    """
    device = features.key.device
    with torch.autocast(device.type, enabled=False):
        cls_attention, query, patches = (
            part[::clip_length].float()  # of each clip's first frame
            for part in (features.cls_attention, features.query, features.patch_tokens)
        )
        prototypes = object_prototypes(cls_attention, query, heads.to(device))
        if tracking.sinkhorn:
            prototypes = refined_prototypes(prototypes, patches, tracking)
        keys = features.key.float()
        return track(prototypes, keys.reshape(-1, clip_length, *keys.shape[1:]))


def object_prototypes(cls_attention: Tensor, query: Tensor, heads: Tensor) -> Tensor:
    """Return attention-weighted sums of the first frame's patch queries (equation 2), (B, O, D).

    Args:
        cls_attention: (B, A, N) CLS-to-patch attention.
        query: (B, A, 1+N, d), CLS first.
        heads: (O,) int64 on the same device.
    """
    return cls_attention[:, heads] @ _patches_of(query)


def refined_prototypes(prototypes: Tensor, patches: Tensor, tracking: TrackingConfig) -> Tensor:
    """Return the sums of the patch tokens assigned to each object (equations 4 and 5), (B, O, D).

    Args:
        prototypes: (B, O, D) of equation 2.
        patches: (B, N, D) patch tokens of the first frame.
        tracking: Sinkhorn-Knopp's constants.
    """
    if tracking.patch_center:
        patches = patches - patches.mean(dim=1, keepdim=True)
    if tracking.patch_norm:
        patches = F.normalize(patches, dim=-1)
    plan = assignment(
        patches @ prototypes.transpose(1, 2),
        epsilon=tracking.epsilon,
        iterations=tracking.iterations,
        marginals=tracking.marginals,
    )
    return plan.transpose(1, 2) @ patches


def track(prototypes: Tensor, key: Tensor) -> Tensor:
    """Return the cross-attention of prototypes to each frame (equations 3 and 6), (B, O, T, N).

    Args:
        prototypes: (B, O, D), refined (equation 6) or not (equation 3).
        key: (B, T, A, 1+N, d), CLS first.
    """
    keys = _patches_of(key)  # (B, T, N, D)
    scores: Tensor = torch.einsum("bod,btnd->botn", prototypes, keys) * keys.shape[-1] ** -0.5
    return scores.softmax(dim=-1)


def mask_threshold(
    maps: Tensor, *, all_mean: Callable[[Tensor], Tensor] = collectives.all_mean
) -> Tensor:
    """Return the mean over the global batch and the patches of maps of unit length, (O, T).

    Args:
        maps: (B, O, T, N).
        all_mean: Mean of a tensor over ranks, so that the masks do not depend on their number.
    """
    return all_mean(F.normalize(maps, dim=-1).mean(dim=(0, 3)))


def object_masks(
    maps: Tensor,
    *,
    mask: Literal["binary", "soft", "literal", "random_blocks"],
    all_mean: Callable[[Tensor], Tensor] = collectives.all_mean,
) -> Tensor:
    """Return what each patch is multiplied by, (B, O, T, N) float32 in [0, 1].

    Args:
        maps: (B, O, T, N) from `track`.
        mask: See `TrackingConfig.mask`.
        all_mean: Mean of a tensor over ranks; used by "binary" only.

    Raises:
        ValueError: "random_blocks", which are not made from maps.
    """
    if mask == "binary":
        threshold = mask_threshold(maps, all_mean=all_mean)
        return (F.normalize(maps, dim=-1) > threshold[None, :, :, None]).float()
    if mask == "soft":
        return maps / maps.amax(dim=-1, keepdim=True)
    if mask == "literal":
        return maps
    raise ValueError(f"masks {mask!r} are not made from maps")


def apply_masks(clip: Tensor, masks: Tensor) -> Tensor:
    """Return the clip once per object, each patch multiplied by its mask, (O, B, T, 3, H, W).

    The clip is normalized, so a hidden patch gets the mean color.

    Args:
        clip: (B, T, 3, H, W).
        masks: (B, O, T, N), patches in row-major order.
    """
    height, width = clip.shape[-2:]
    patch_size = math.isqrt(height * width // masks.shape[-1])
    pixels = masks.to(clip.dtype).transpose(0, 1)
    pixels = pixels.reshape(*pixels.shape[:-1], height // patch_size, width // patch_size)
    pixels = pixels.repeat_interleave(patch_size, -2).repeat_interleave(patch_size, -1)
    return clip * pixels.unsqueeze(3)


def _patches_of(tokens: Tensor) -> Tensor:
    """Return the patches at full width, (..., N, D), of tokens by head (..., A, 1+N, d)."""
    return tokens[..., 1:, :].transpose(-3, -2).flatten(-2)
