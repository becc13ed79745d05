"""Crops and photometric changes: drawn per clip on the CPU, done in batches on the device.

What is drawn for a clip follows from its position alone (`training.rng`); the device work
has no randomness in it. What the released code draws per clip, per frame and per crop is kept: see
docs/explanation/parity.md, "Data".
"""

import math
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.config.sections import AugmentConfig, DataConfig
from training.data.color_jitter import ColorDraws, apply_color, draw_color
from training.data.normalization import standardized
from training.transfer import send

Kernel = Literal["bilinear", "bicubic"]
_RATIO = (3 / 4, 4 / 3)
_ATTEMPTS = 10


class ViewDraws(NamedTuple):
    """Everything random about the views of one clip (or, collated, of B clips: a leading B).

    Boxes are (top, left, height, width) in pixels of the frame crop.
    """

    global_boxes: Tensor  # (G, 4) int64
    flips: Tensor  # (G,) bool
    global_color: ColorDraws  # (G, T)
    local_boxes: Tensor  # (L, T, 4) int64
    local_color: ColorDraws  # (L, T)


def draw_views(
    generator: np.random.Generator, data: DataConfig, augment: AugmentConfig
) -> ViewDraws:
    """Draw the views of one clip."""
    side = data.frame_crop_pixels
    crops = (data.local_crops, data.clip_length)
    global_draws = [_draw_global(generator, data, augment)]
    local_boxes = draw_boxes(generator, crops, height=side, width=side, scale=data.local_crop_scale)
    local_color = draw_color(generator, crops, augment, augment.local_blur_probability)
    # Last, so that a second view leaves the first one and the local crops as they are without it.
    while len(global_draws) < data.global_crops:
        global_draws.append(_draw_global(generator, data, augment))
    boxes, flips, colors = zip(*global_draws, strict=True)
    return ViewDraws(
        global_boxes=torch.stack(boxes),
        flips=torch.stack(flips),
        global_color=ColorDraws(*map(torch.stack, zip(*colors, strict=True))),
        local_boxes=torch.from_numpy(local_boxes),
        local_color=local_color,
    )


def _draw_global(
    generator: np.random.Generator, data: DataConfig, augment: AugmentConfig
) -> tuple[Tensor, Tensor, ColorDraws]:
    side, frames = data.frame_crop_pixels, (data.clip_length,)
    box = draw_boxes(generator, (), height=side, width=side, scale=data.global_crop_scale)
    flip = bool(generator.random() < augment.flip_probability)
    color = draw_color(generator, frames, augment, augment.global_blur_probability)
    return torch.from_numpy(box), torch.tensor(flip), color


def draw_boxes(
    generator: np.random.Generator,
    shape: tuple[int, ...],
    *,
    height: int,
    width: int,
    scale: tuple[float, float],
) -> NDArray[np.int64]:
    """Draw boxes (top, left, height, width) as torchvision's RandomResizedCrop does, (*shape, 4).

    Ten attempts at an area (uniform in `scale`) and an aspect ratio (log-uniform in 3/4 to 4/3);
    where none fits, the largest central box within those ratios.
    """
    tries = (*shape, _ATTEMPTS)
    area = height * width * generator.uniform(*scale, tries)
    ratio = np.exp(generator.uniform(math.log(_RATIO[0]), math.log(_RATIO[1]), tries))
    widths = np.rint(np.sqrt(area * ratio)).astype(np.int64)
    heights = np.rint(np.sqrt(area / ratio)).astype(np.int64)
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = fits.argmax(axis=-1)[..., None]
    box_width = np.take_along_axis(widths, first, axis=-1)[..., 0]
    box_height = np.take_along_axis(heights, first, axis=-1)[..., 0]
    top = generator.integers(0, np.maximum(height - box_height, 0) + 1)
    left = generator.integers(0, np.maximum(width - box_width, 0) + 1)
    drawn = np.stack([top, left, box_height, box_width], axis=-1)
    return np.where(fits.any(axis=-1, keepdims=True), drawn, _central_box(height, width))


def make_global(frames: Tensor, draws: ViewDraws, *, pixels: int) -> Tensor:
    """Return the global crops, (G, B, T, 3, pixels, pixels) float32, normalized.

    Args:
        frames: (B, T, 3, S, S) uint8, on any device.
        draws: Of B clips, on the CPU.
        pixels: Side of a crop; bilinear without antialias, as in the released code.
    """
    images = frames.float() / 255
    crops = []
    all_boxes, all_flips = send([draws.global_boxes, draws.flips], frames.device)
    for boxes, flips in zip(all_boxes.unbind(1), all_flips.unbind(1), strict=True):
        rows, columns = _box_weights(boxes, frames, pixels, kernel="bilinear")
        columns = torch.where(flips[:, None, None], columns.flip(1), columns)
        crops.append(rows[:, None, None] @ images @ columns[:, None, None].transpose(-2, -1))
    return _finish(torch.stack(crops), draws.global_color)


def make_local(frames: Tensor, draws: ViewDraws, *, pixels: int) -> Tensor:
    """Return the local crops, (L, B, T, 3, pixels, pixels) float32, normalized.

    Args:
        frames: (B, T, 3, S, S) uint8, on any device.
        draws: Of B clips, on the CPU.
        pixels: Side of a crop; bicubic with antialias, as PIL resizes in the released code.
    """
    if not draws.local_boxes.shape[1]:
        return frames.new_zeros((0, *frames.shape[:3], pixels, pixels), dtype=torch.float32)
    images = frames.float() / 255
    crops = []
    (all_boxes,) = send([draws.local_boxes], frames.device)
    for boxes in all_boxes.unbind(1):  # one crop at a time bounds the memory
        rows, columns = _box_weights(boxes, frames, pixels, kernel="bicubic")
        crops.append(
            (rows[:, :, None] @ images @ columns[:, :, None].transpose(-2, -1)).clamp(0, 1)
        )
    return _finish(torch.stack(crops), draws.local_color)


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


def _box_weights(
    boxes: Tensor, frames: Tensor, pixels: int, *, kernel: Kernel
) -> tuple[Tensor, Tensor]:
    top, left, height, width = boxes.unbind(-1)
    side = frames.shape[-1]
    return (
        resample_weights(top, height, source=side, pixels=pixels, kernel=kernel),
        resample_weights(left, width, source=side, pixels=pixels, kernel=kernel),
    )


def _finish(crops: Tensor, color: ColorDraws) -> Tensor:
    """Return crops (V, B, T, 3, H, W) changed as drawn, (B, V, T), and normalized."""
    flat = ColorDraws(*(part.transpose(0, 1).flatten(0, 2) for part in color))
    return standardized(apply_color(crops.flatten(0, -4), flat)).view(crops.shape)


def _central_box(height: int, width: int) -> NDArray[np.int64]:
    ratio = min(max(width / height, _RATIO[0]), _RATIO[1])
    box_width = min(width, round(height * ratio))
    box_height = min(height, round(width / ratio))
    return np.array([(height - box_height) // 2, (width - box_width) // 2, box_height, box_width])
