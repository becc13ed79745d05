"""Color jitter, gray and blur with their own parameters for every image of a batch.

The operations are torchvision's functional ones on float images in [0, 1], batched over parameters.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.config.sections import AugmentConfig
from training.transfer import constant, send

_BLUR_SIGMA = (0.1, 2.0)
_BLUR_RADIUS = math.ceil(3 * _BLUR_SIGMA[1])
_GRAY_WEIGHTS = (0.2989, 0.587, 0.114)


Adjustment = Callable[[Tensor, Tensor], Tensor]
"""Changes images (n, 3, H, W) by a number for each, (n,)."""


class ColorDraws(NamedTuple):
    """What happens to each image's colors; every tensor has the same leading shape."""

    jitter: Tensor  # (...) bool, whether the next five apply
    brightness: Tensor  # (...) float32 factor
    contrast: Tensor  # (...) float32 factor
    saturation: Tensor  # (...) float32 factor
    hue: Tensor  # (...) float32 shift in turns
    order: Tensor  # (..., 4) int64, a permutation of 0 brightness, 1 contrast, 2 saturation, 3 hue
    gray: Tensor  # (...) bool
    blur_sigma: Tensor  # (...) float32 in pixels; 0: no blur


def draw_color(
    generator: np.random.Generator,
    shape: tuple[int, ...],
    augment: AugmentConfig,
    blur_probability: float,
) -> ColorDraws:
    """Draw for `shape` images, each on its own."""

    def chance(probability: float) -> Tensor:
        return torch.from_numpy(generator.random(shape) < probability)

    def uniform(low: float, high: float) -> Tensor:
        return torch.from_numpy(generator.uniform(low, high, shape).astype(np.float32))

    def factor(strength: float) -> Tensor:
        return uniform(max(0.0, 1 - strength), 1 + strength)

    return ColorDraws(
        jitter=chance(augment.jitter_probability),
        brightness=factor(augment.brightness),
        contrast=factor(augment.contrast),
        saturation=factor(augment.saturation),
        hue=uniform(-augment.hue, augment.hue),
        order=torch.from_numpy(generator.random((*shape, 4)).argsort(axis=-1)),
        gray=chance(augment.grey_probability),
        blur_sigma=chance(blur_probability) * uniform(*_BLUR_SIGMA),
    )


def apply_color(images: Tensor, draws: ColorDraws) -> Tensor:
    """Return the images jittered, grayed and blurred.

    Args:
        images: (n, 3, H, W) float32 in [0, 1]; H and W at least 7.
        draws: Of n images, on the CPU: choosing images there costs the device no wait.
    """
    steps: list[tuple[Adjustment, Tensor, Tensor]] = []  # what is done, to which images, how much
    for place in range(4):
        for operation, (adjust, amounts) in enumerate(
            (
                (adjust_brightness, draws.brightness),
                (adjust_contrast, draws.contrast),
                (adjust_saturation, draws.saturation),
                (adjust_hue, draws.hue),
            )
        ):
            chosen = (draws.jitter & (draws.order[:, place] == operation)).nonzero()[:, 0]
            steps.append((adjust, chosen, amounts[chosen]))
    gray, blurred = draws.gray.nonzero()[:, 0], draws.blur_sigma.nonzero()[:, 0]
    steps.append((_gray_out, gray, gray.float()))
    steps.append((gaussian_blur, blurred, draws.blur_sigma[blurred]))

    images = images.clone()
    moved = send([part for step in steps for part in step[1:]], images.device)
    for number, (change, _, _) in enumerate(steps):
        index, amount = moved[2 * number : 2 * number + 2]
        if len(index):
            images[index] = change(images[index], amount)
    return images


def adjust_brightness(images: Tensor, factors: Tensor) -> Tensor:
    """Return (n, 3, H, W) times (n,) factors, clipped to [0, 1]."""
    return (images * factors[:, None, None, None]).clamp(0, 1)


def adjust_contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Return the images blended with their mean gray: 0 is that gray, 1 the image."""
    return _blend(images, _to_gray(images).mean(dim=(2, 3), keepdim=True), factors)


def adjust_saturation(images: Tensor, factors: Tensor) -> Tensor:
    """Return the images blended with their gray version: 0 is gray, 1 the image."""
    return _blend(images, _to_gray(images), factors)


def adjust_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Return the images with their hue turned by (n,) turns in [-0.5, 0.5], through HSV."""
    value, argmax = images.max(dim=1)
    chroma = value - images.amin(dim=1)
    red, green, blue = images.unbind(1)
    divisor = torch.where(chroma == 0, torch.ones_like(chroma), chroma)
    by_channel = torch.stack(
        [(green - blue) / divisor, (blue - red) / divisor + 2, (red - green) / divisor + 4], dim=1
    )
    sextant = by_channel.gather(1, argmax[:, None])[:, 0]  # hue in sixths of a turn
    turned = (sextant + 6 * turns[:, None, None])[:, None]
    # HSV to RGB, one line a channel.
    offsets = constant((5.0, 3.0, 1.0), images.device)[:, None, None]
    k = (offsets + turned) % 6
    return value[:, None] - chroma[:, None] * torch.minimum(k, 4 - k).clamp(0, 1)


def gaussian_blur(images: Tensor, sigmas: Tensor) -> Tensor:
    """Return (n, C, H, W) blurred by (n,) sigmas in pixels; kernel of 13, edges reflected."""
    count, channels = images.shape[:2]
    offsets = torch.arange(-_BLUR_RADIUS, _BLUR_RADIUS + 1, device=images.device)
    kernels = torch.exp(-0.5 * (offsets / sigmas[:, None]) ** 2)
    kernels = (kernels / kernels.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)
    planes = F.pad(images, [_BLUR_RADIUS] * 4, mode="reflect").flatten(0, 1)[None]
    groups = count * channels
    planes = F.conv2d(planes, kernels[:, None, :, None], groups=groups)
    planes = F.conv2d(planes, kernels[:, None, None, :], groups=groups)
    return planes.view_as(images)


def _blend(images: Tensor, other: Tensor, factors: Tensor) -> Tensor:
    factor = factors[:, None, None, None]
    return (factor * images + (1 - factor) * other).clamp(0, 1)


def _gray_out(images: Tensor, _: Tensor) -> Tensor:
    return _to_gray(images).expand(-1, 3, -1, -1)


def _to_gray(images: Tensor) -> Tensor:
    weights = constant(_GRAY_WEIGHTS, images.device)[:, None, None]
    return (images * weights).sum(dim=1, keepdim=True)
