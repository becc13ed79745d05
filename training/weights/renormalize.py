"""Weights for pixels that are normalized as ImageNet's, whatever they were trained with."""

import torch
from torch import Tensor

from training.data.normalization import Normalization
from wtours.errors import CheckpointError


def renormalize(weights: dict[str, Tensor], given: Normalization) -> None:
    """Let a ViT's patch embedding take pixels normalized as ImageNet's, in place of `given`.

    With y the pixels as ImageNet's, what the network expects is (y * s + m - m') / s' of each
    channel: a scale goes into its weights, a shift into the bias.

    Args:
        weights: By timm's names; the two of the patch embedding are replaced.
        given: What the network was trained with.

    Raises:
        CheckpointError: the patch embedding has no bias, as CLIP's.
    """
    if given == Normalization():
        return
    if "patch_embed.proj.bias" not in weights:
        raise CheckpointError(
            f"weights for pixels of mean {given.mean} cannot take those normalized as ImageNet's: "
            f"their patch embedding has no bias"
        )
    (mean, std), (own_mean, own_std) = (
        (torch.tensor(part, dtype=torch.float64)[:, None, None] for part in constants)
        for constants in (Normalization(), given)
    )
    kernel = weights["patch_embed.proj.weight"].double()  # (D, 3, p, p)
    shift = (kernel * ((mean - own_mean) / own_std)).sum(dim=(1, 2, 3))
    weights["patch_embed.proj.weight"] = (kernel * (std / own_std)).float()
    weights["patch_embed.proj.bias"] = (weights["patch_embed.proj.bias"].double() + shift).float()
