"""Random block-wise masks, as iBOT masks patches: the ablation that DORA's masks are compared with.

Rectangles are hidden until a share of the patches is reached that is drawn anew for each mask
(BEiT's masking with iBOT's ratio of .3 give or take .2; Zhou et al. 2022).
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.rng import numpy_generator

HIDDEN_SHARE = (0.1, 0.5)
_LOG_RATIO = math.log(1 / 0.3)
_ATTEMPTS = 10


def block_masks(
    seed: int, positions: Tensor, *, shape: tuple[int, int, int], grid: tuple[int, int]
) -> Tensor:
    """Return masks of B clips, (G, B, O, T, rows * columns) float32; 1 is visible.

    Args:
        seed: Of the run.
        positions: (B,) int64, the clips' positions in the stream, from which their masks follow.
        shape: (G, O, T): a mask is drawn for each global view, object and frame.
        grid: Rows and columns of patches.
    """
    clips = []
    for position in positions.tolist():
        generator = numpy_generator(seed, "blocks", position)
        hidden = [draw_blocks(generator, grid) for _ in range(math.prod(shape))]
        clips.append(torch.from_numpy(~np.stack(hidden)).float().reshape(*shape, -1))
    return torch.stack(clips, dim=1)


def draw_blocks(generator: np.random.Generator, grid: tuple[int, int]) -> NDArray[np.bool_]:
    """Return which patches are hidden, (rows, columns) bool; at most the larger of HIDDEN_SHARE."""
    rows, columns = grid
    hidden = np.zeros(grid, bool)
    wanted = int(generator.uniform(*HIDDEN_SHARE) * rows * columns)
    smallest = (min(grid) // 3) ** 2  # smaller blocks only where no more fits
    for _ in range(_ATTEMPTS * rows * columns):
        room = wanted - int(hidden.sum())
        if room <= 0:
            break
        area = generator.uniform(min(smallest, room), room)
        ratio = math.exp(generator.uniform(-_LOG_RATIO, _LOG_RATIO))
        height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if not (0 < height < rows and 0 < width < columns):
            continue
        top = generator.integers(rows - height + 1)
        left = generator.integers(columns - width + 1)
        block = hidden[top : top + height, left : left + width]
        if 0 < (~block).sum() <= room:
            block[:] = True
    return hidden
