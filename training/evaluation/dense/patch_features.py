"""Patch tokens of a frozen backbone and the labels under each patch, image by image."""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from training.data.normalization import normalized
from training.evaluation.datasets.segmentation import VOID, LabeledPixels
from training.models.vit import encode_blocks
from training.weights.backbones import Backbone
from wtours.progress import Progress, no_progress

CACHE_BYTES = 4 * 2**30
"""Tokens kept between passes; the rest is computed again in each."""
_POSITION_ORDER = 6
View = Literal["tokens", "tokens_and_position", "position"]
"""What a patch is described by: its token, also where it is (`position_features`), or only that."""


@dataclass(frozen=True)
class PatchGrid:
    """An image as the probes see it."""

    tokens: Tensor
    """(rows, columns, D) float16 on the CPU."""
    shares: Tensor
    """(rows, columns, C) float32, share of a patch's pixels that are of each class; what is not
    scored is left out, so they sum to at most 1."""


@dataclass
class _GridCache:
    """The grids of the first images that fit into `CACHE_BYTES`; all views of a split share it."""

    grids: dict[int, PatchGrid] = field(default_factory=dict)
    bytes: int = 0

    def keep(self, number: int, grid: PatchGrid) -> None:
        size = grid.tokens.nbytes + grid.shares.nbytes
        if self.bytes + size <= CACHE_BYTES:
            self.grids[number] = grid
            self.bytes += size


@dataclass(frozen=True, eq=False)
class SplitTokens:
    """The patch grids of a split, in any order and as often as wanted."""

    backbone: Backbone
    images: LabeledPixels
    short_side: int
    view: View = "tokens"
    cache: _GridCache = field(default_factory=_GridCache)

    @property
    def device(self) -> torch.device:
        """Return where the backbone is."""
        return self.backbone.device

    def __len__(self) -> int:
        return len(self.images)

    def seen_as(self, view: View) -> "SplitTokens":
        """Return the same split with other features of each patch; what is computed is shared."""
        return replace(self, view=view)

    def grid(self, number: int) -> PatchGrid:
        """Return the grid of an image."""
        grid = self.cache.grids.get(number) or self._compute(number)
        if self.view == "tokens":
            return grid
        parts = [position_features(*grid.tokens.shape[:2]).half()]
        if self.view == "tokens_and_position":
            parts.insert(0, grid.tokens)
        return PatchGrid(torch.cat(parts, dim=-1), grid.shares)

    def grids(self, on_progress: Progress = no_progress) -> Iterator[PatchGrid]:
        """Yield the grids of all images."""
        for number in range(len(self)):
            yield self.grid(number)
            on_progress(str(self.images.folder), number + 1, len(self))

    def _compute(self, number: int) -> PatchGrid:
        image, labels = self.images.pair(number)
        tokens = patch_tokens(self.backbone, image, self.short_side).half().cpu()
        rows, columns, _ = tokens.shape
        shares = class_shares(labels, (rows, columns), num_classes=self.images.layout.num_classes)
        grid = PatchGrid(tokens, shares)
        self.cache.keep(number, grid)
        return grid


def network_size(width: int, height: int, *, short_side: int, patch: int) -> tuple[int, int]:
    """Return (width, height) that an image is resized to: whole patches, nearest to its shape."""
    scale = short_side / min(width, height)
    wide, high = (max(1, round(side * scale / patch)) * patch for side in (width, height))
    return wide, high


@torch.inference_mode()
def patch_tokens(backbone: Backbone, image: Image.Image, short_side: int) -> Tensor:
    """Return the patch tokens after the final norm, (rows, columns, D) float32.

    The image is resized to `network_size`, bicubic with antialias.
    """
    patch = backbone.patch_pixels
    size = network_size(*image.size, short_side=short_side, patch=patch)
    pixels = np.asarray(image.resize(size, Image.Resampling.BICUBIC))
    batch = torch.from_numpy(pixels.copy())[None].to(backbone.device)
    inputs = normalized(batch, backbone.normalization)
    (output,) = encode_blocks(backbone.network, inputs, [len(backbone.network.blocks)])
    return output.patch_tokens[0].float().reshape(size[1] // patch, size[0] // patch, -1)


def class_shares(labels: NDArray[np.int64], grid: tuple[int, int], *, num_classes: int) -> Tensor:
    """Return the share of each class under each patch, (rows, columns, C) float32.

    A pixel on the border of two patches counts for both, by its area.

    Args:
        labels: (H, W), `VOID` or 0 to C - 1.
        grid: Rows and columns of patches that the labels are divided into.
    """
    whole = torch.from_numpy(np.where(labels == VOID, num_classes, labels))
    one_hot = F.one_hot(whole, num_classes + 1).float()[..., :num_classes]
    rows, columns = (
        _shares_of_pixels(pixels, parts) for pixels, parts in zip(labels.shape, grid, strict=True)
    )
    return torch.einsum("rh,hwc,sw->rsc", rows, one_hot, columns)


@functools.lru_cache(maxsize=16)  # images of one size ask for it at every step
def position_features(rows: int, columns: int) -> Tensor:
    """Return where each patch is as products of cosines, (rows, columns, 35) float32.

    cos(pi i y) cos(pi j x) for i, j from 0 to 5 but both 0; x and y are 0 at the left and the top
    edge of the image, 1 at the right and the bottom one.
    """
    order = torch.arange(_POSITION_ORDER)
    down, across = (
        torch.cos(math.pi * order * (torch.arange(parts)[:, None] + 0.5) / parts)
        for parts in (rows, columns)
    )
    both = torch.einsum("ri,cj->rcij", down, across).flatten(2)
    return both[..., 1:]


def _shares_of_pixels(pixels: int, parts: int) -> Tensor:
    """Return how much of each part each pixel makes up, (parts, pixels); rows sum to 1."""
    edges = torch.linspace(0, pixels, parts + 1, dtype=torch.float64)
    left = torch.arange(pixels, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], left + 1) - torch.maximum(edges[:-1, None], left)
    return (overlap.clamp(min=0) * parts / pixels).float()
