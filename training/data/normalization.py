"""Per-channel normalization of RGB images."""

from typing import NamedTuple

from torch import Tensor

from training.transfer import constant

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as every ViT of timm


class Normalization(NamedTuple):
    """What is taken from pixels between 0 and 1, and what they are then divided by (RGB)."""

    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD


def normalized(images: Tensor, normalization: Normalization | None = None) -> Tensor:
    """Return uint8 RGB (B, H, W, 3) as the networks take it, (B, 3, H, W) float32."""
    return standardized(images.permute(0, 3, 1, 2).float() / 255, normalization)


def standardized(pixels: Tensor, normalization: Normalization | None = None) -> Tensor:
    """Return pixels (..., 3, H, W) in [0, 1] minus the mean, divided by the deviation."""
    constants = normalization or Normalization()
    mean, std = (constant(tuple(part), pixels.device)[:, None, None] for part in constants)
    return (pixels - mean) / std
