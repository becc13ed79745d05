"""Resizing a box of an image as two matrix products, so that every image can have its own box."""

from typing import Literal

import torch
from torch import Tensor

Kernel = Literal["bilinear", "bicubic"]


def resample_weights(
    start: Tensor, length: Tensor, *, source: int, pixels: int, kernel: Kernel
) -> Tensor:
    """Return the matrices that resize [start, start + length) to `pixels`, (..., pixels, source).

    `rows @ image @ columns.T` is the box of the image, resized. Only pixels inside the box count;
    every row sums to 1.

    Args:
        start: (...) int64, first pixel of the box.
        length: (...) int64, pixels of the box, > 0.
        source: Pixels of the whole image along this axis.
        pixels: Pixels wanted.
        kernel: "bilinear": without antialias, as `torch.nn.functional.interpolate`. "bicubic":
            antialiased (Keys, a = -0.5), as PIL and `interpolate(antialias=True)`.
    """
    first, extent = start[..., None, None].float(), length[..., None, None].float()
    scale = extent / pixels
    output = torch.arange(pixels, device=start.device)[:, None]
    center = (output + 0.5) * scale - 0.5  # in pixels of the box, its first pixel at 0
    position = torch.arange(source, device=start.device) - first
    if kernel == "bilinear":
        inside_center = torch.minimum(center.clamp(min=0), extent - 1)
        return (1 - (position - inside_center).abs()).clamp(min=0)
    inside = (position >= 0) & (position < extent)
    weights = _keys_cubic((position - center) / scale.clamp(min=1)) * inside
    return weights / weights.sum(dim=-1, keepdim=True)


def _keys_cubic(x: Tensor) -> Tensor:
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))
