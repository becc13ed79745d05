"""Objects found in one image without training: by attention, and by LOST's seed expansion.

Masks are on the grid of patches; boxes are left, top, right, bottom in pixels, ends exclusive.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from training.evaluation.metrics.segmentation import Mask

Box = NDArray[np.float64]

KEPT_MASS = 0.8
"""Share of the attention; the paper, B.3."""
LOST_SEEDS = 100
"""How many patches of low degree LOST expands its seed by."""


@dataclass(frozen=True)
class Found:
    """What was found in one image.

    Attributes:
        mask: (rows, columns) bool, patches of the object or objects.
        component: (rows, columns) bool, the connected part of the mask that the box is around.
    """

    mask: Mask
    component: Mask


def by_attention(cls_attention: Tensor, grid: tuple[int, int]) -> Found:
    """Keep the patches that hold most of the CLS token's attention, averaged over the heads.

    Patches are dropped from the weakest on while what is dropped stays within 1 - `KEPT_MASS` of
    the whole, as DINO does it for each head. The box is around the largest 4-connected part, of
    equally large ones around the first by rows: the paper does not say how it makes one.

    Args:
        cls_attention: (A, N) of one image.
        grid: Rows and columns of patches, N in all.
    """
    weights = cls_attention.double().mean(dim=0)
    order = weights.argsort(stable=True)
    dropped_so_far = (weights[order] / weights.sum()).cumsum(dim=0)
    kept = torch.zeros_like(weights, dtype=torch.bool)
    kept[order] = dropped_so_far > 1 - KEPT_MASS
    mask = kept.reshape(grid).cpu().numpy()
    parts, _ = ndimage.label(mask)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return Found(mask, parts == sizes.argmax())


def by_lost(keys: Tensor, grid: tuple[int, int], *, num_seeds: int = LOST_SEEDS) -> Found:
    """Find one object as LOST does: a seed patch unlike the others, and what is like it.

    Two patches are linked where their keys' product is positive. The seed has the fewest links;
    among the `num_seeds` patches with the fewest, those linked to the seed vote: a patch belongs
    to the object if its products with them add up to more than 0. Of that, the 4-connected part
    that holds the seed is the object.

    Args:
        keys: (N, D) of one image's patches, heads concatenated; not normalized.
        grid: Rows and columns of patches, N in all.
    """
    products = keys.float() @ keys.float().T
    links = (products > 0).sum(dim=1) - (products.diagonal() > 0).int()
    order = links.argsort(stable=True)
    seed, low = order[0], order[:num_seeds]
    similar = low[products[seed, low] > 0]
    mask = (products[similar].sum(dim=0) > 0).reshape(grid).cpu().numpy()
    parts, _ = ndimage.label(mask)
    return Found(mask, parts == parts.ravel()[int(seed)])


def box_of(component: Mask, *, patch_pixels: int, size: tuple[int, int]) -> Box:
    """Return the box around a component, (4,), clipped to the image.

    Args:
        component: (rows, columns), some patch of it is True.
        patch_pixels: Side of a patch.
        size: Height and width of the image.
    """
    rows, columns = np.nonzero(component)
    corners = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    height, width = size
    limits = np.array([width, height, width, height], dtype=np.float64)
    return np.minimum(np.array(corners, dtype=np.float64) * patch_pixels, limits)


def to_pixels(mask: Mask, *, patch_pixels: int, size: tuple[int, int]) -> Mask:
    """Return the mask of an image's pixels, size[0] x size[1]: every pixel as its patch."""
    whole = mask.repeat(patch_pixels, axis=0).repeat(patch_pixels, axis=1)
    return whole[: size[0], : size[1]]
