"""Masks of patches: random blocks (iBOT), and the teacher's attention (AttMask).

Also the blocks that DORA's object masks are compared with in Table 2c. They are drawn until the
wanted share is reached, where iBOT stops early.
"""

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.rng import numpy_generator
from training.transfer import send

HIDDEN_SHARE = (0.1, 0.5)
HINT_SHARE = 0.1
"""Of all patches: those that the teacher attends to most, some of which AttMask's hint shows."""
_LOG_RATIO = math.log(1 / 0.3)
_ATTEMPTS = 10


def block_masks(
    seed: int, positions: Tensor, *, shape: tuple[int, int, int], grid: tuple[int, int]
) -> Tensor:
    """Return masks of B clips, (G, B, O, T, rows * columns) float32; 1 is visible.

    Args:
        positions: (B,) int64, the clips' positions in the stream, from which their masks follow.
        shape: (G, O, T): a mask is drawn for each global view, object and frame.
    """
    hidden = _drawn(seed, "blocks", positions, shape, lambda draws: draw_blocks(draws, grid))
    return (~hidden).float()


def draw_blocks(generator: np.random.Generator, grid: tuple[int, int]) -> NDArray[np.bool_]:
    """Return which patches are hidden, (rows, columns) bool; at most the larger of HIDDEN_SHARE."""
    hidden = np.zeros(grid, bool)
    wanted = int(generator.uniform(*HIDDEN_SHARE) * hidden.size)
    smallest = (min(grid) // 3) ** 2  # smaller blocks only where no more fits
    for _ in range(_ATTEMPTS * hidden.size):
        room = wanted - int(hidden.sum())
        if room <= 0:
            break
        _add_block(generator, hidden, smallest=min(smallest, room), room=room)
    return hidden


def draw_ibot_blocks(
    generator: np.random.Generator, grid: tuple[int, int], *, ratio: float
) -> NDArray[np.bool_]:
    """Return which patches are masked, (rows, columns) bool, at most `ratio` of them.

    The distribution of iBOT's code: it stops where ten blocks in a row find no room, so that the
    share of masked patches falls a little short of the ratio.

    Args:
        generator: Drawn from in the order of iBOT's code.
        ratio: In [0, 1); its product with the number of patches is not rounded.
    """
    masked, target = np.zeros(grid, bool), ratio * math.prod(grid)
    smallest = (min(grid) // 3) ** 2
    while (room := target - int(masked.sum())) > 0:
        if not any(
            _add_block(generator, masked, smallest=smallest, room=room) for _ in range(_ATTEMPTS)
        ):
            break
    return masked


def draw_ratio(
    generator: np.random.Generator, *, ratios: tuple[float, float], masked_probability: float
) -> float:
    """Return the share of an image's patches to mask: 0, or uniform between the two ratios."""
    ratio = ratios[0] + (ratios[1] - ratios[0]) * generator.random()
    return ratio if generator.random() < masked_probability else 0.0


def ibot_masks(
    seed: int,
    positions: Tensor,
    *,
    shape: tuple[int, int],
    grid: tuple[int, int],
    ratios: tuple[float, float],
    masked_probability: float,
) -> Tensor:
    """Return which patches iBOT's student does not see, (G, B, T, rows * columns) bool.

    Args:
        positions: (B,) int64, the clips' positions in the stream, from which their masks follow.
        shape: (G, T): each frame of each global view has its own ratio and blocks.
        ratios: Bounds of the ratio, which is uniform between them.
        masked_probability: Of a frame's having a mask at all.
    """

    def draw(draws: np.random.Generator) -> NDArray[np.bool_]:
        ratio = draw_ratio(draws, ratios=ratios, masked_probability=masked_probability)
        return draw_ibot_blocks(draws, grid, ratio=ratio)

    return _drawn(seed, "ibot_masks", positions, shape, draw)


def _drawn(
    seed: int,
    purpose: str,
    positions: Tensor,
    shape: tuple[int, ...],
    draw: Callable[[np.random.Generator], NDArray[np.bool_]],
) -> Tensor:
    """Return masks of B clips, each of which its position draws, (G, B, ..., rows * columns)."""
    clips = []
    for position in positions.tolist():
        generator = numpy_generator(seed, purpose, position)
        masks = np.stack([draw(generator) for _ in range(math.prod(shape))])
        clips.append(torch.from_numpy(masks).reshape(*shape, -1))
    return torch.stack(clips, dim=1)


def attention_masks(
    attention: Tensor,
    *,
    ratio: float,
    kind: Literal["high", "low", "hint"] = "high",
    shown: float = 0.0,
    order: Tensor | None = None,
) -> Tensor:
    """Return which patches AttMask masks, (M, N) bool (Kakogeorgiou et al. 2022, section 3.2).

    Args:
        attention: (M, N) float32 of the CLS token to the patches, the mean over heads.
        ratio: Share of masked patches; N times this is cut down to a whole number.
        kind: "high": the patches that get the most attention; "low": the least; "hint": "high", of
            which some of the top HINT_SHARE are shown again.
        shown: For "hint", the share of all N patches that is shown again.
        order: For "hint", (M, int(N * HINT_SHARE)): the candidates with the lowest numbers are
            shown.
    """
    num_patches = attention.shape[-1]
    ranked = attention.argsort(dim=-1, descending=kind != "low", stable=True)
    masks = torch.zeros_like(attention, dtype=torch.bool)
    masks.scatter_(-1, ranked[:, : int(num_patches * ratio)], True)
    if kind == "hint":
        if order is None:
            raise ValueError("a hint needs the order in which its candidates are shown")
        # Both are on the CPU until here: a copy that the host does not wait for.
        (chosen,) = send([order.argsort(dim=-1)[:, : int(num_patches * shown)]], ranked.device)
        masks.scatter_(-1, ranked.gather(-1, chosen), False)
    return masks


def _add_block(
    generator: np.random.Generator, masked: NDArray[np.bool_], *, smallest: float, room: float
) -> bool:
    """Draw a block and, if it hides between 1 and `room` more patches, add it; say whether."""
    rows, columns = masked.shape
    area = smallest + (room - smallest) * generator.random()
    ratio = math.exp(-_LOG_RATIO + 2 * _LOG_RATIO * generator.random())
    height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
    if height >= rows or width >= columns:
        return False
    top = generator.integers(rows - height + 1)
    left = generator.integers(columns - width + 1)
    block = masked[top : top + height, left : left + width]
    fits = 0 < int((~block).sum()) <= room
    if fits:
        block[:] = True
    return fits
