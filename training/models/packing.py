"""Images of different numbers of tokens in one tensor, one after another, without padding.

Norms, projections and MLPs take each token alone, so they need no more than that. Attention, a
small part of the work, pads each image to the longest and masks what is padding.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from training.transfer import send


@dataclass(frozen=True)
class Packing:
    """Where the tokens of M images lie, R in all, of which the longest image has L."""

    place: Tensor
    """(R,) int64, of each token in the padded images (M * L)."""
    image: Tensor
    """(R,) int64, the image of each token."""
    first: Tensor
    """(M,) int64, the first token of each image."""
    is_token: Tensor
    """(M, 1, 1, L) bool, False where there is padding: the attention's mask."""

    def pad(self, tokens: Tensor) -> Tensor:
        """Return the padded images (M, L, C) of tokens (R, C)."""
        images, longest = self.is_token.shape[0], self.is_token.shape[-1]
        padded = tokens.new_zeros(images * longest, tokens.shape[-1])
        return padded.index_copy(0, self.place, tokens).reshape(images, longest, -1)

    def unpad(self, padded: Tensor) -> Tensor:
        """Return the tokens (R, C) of padded images (M, L, C)."""
        return padded.flatten(0, 1).index_select(0, self.place)

    def drop(self, drop_path: Callable[[Tensor], Tensor], tokens: Tensor) -> Tensor:
        """Return tokens (R, C) after stochastic depth, which drops an image's together."""
        factors = drop_path(tokens.new_ones(len(self.first), 1, 1))
        return tokens * factors[:, 0].index_select(0, self.image)


def packing_of(lengths: Tensor, device: torch.device) -> Packing:
    """Return the packing of images with so many tokens each.

    Args:
        lengths: (M,) int64 > 0 on the CPU: the host knows the shapes without waiting.
        device: Of the tokens.
    """
    count, longest = len(lengths), int(lengths.max())
    image = torch.arange(count).repeat_interleave(lengths)
    first = lengths.cumsum(0) - lengths
    place = torch.arange(len(image)) + (torch.arange(count) * longest - first)[image]
    is_token = torch.arange(longest) < lengths[:, None]
    return Packing(*send([place, image, first, is_token[:, None, None]], device))
