"""Starting a run's backbones from weights that are there already (`model.init`)."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.data.normalization import Normalization
from training.methods.base import Method, Network
from training.models.loading import load_weights, require_weights
from training.models.vit import num_heads, position_embedding
from training.weights.backbones import open_backbone
from wtours.errors import CheckpointError

LOG = logging.getLogger(__name__)


def initialize_backbones(
    method: Method[Any], name: str, run_dir: Callable[[str], Path]
) -> dict[str, Any]:
    """Give the backbones of a method's networks the weights of a backbone that is there.

    The head stays random: it belongs to a method and its data. The position embedding is resized to
    the crops of the run as DINO does it, and a normalization of pixels other than ImageNet's goes
    into the patch embedding, so that the network gives the same tokens of the same image
    (but for the epsilon of its norms: 1e-6 here, 1e-12 in transformers).

    Returns:
        What the weights are, for the record: name, kind, sha256 and so on.

    Raises:
        CheckpointError: no usable weights of this name, of another size or number of heads, or for
            other pixels without a way to adapt them; the message says which.
        UsageError: an unknown model, or not a plain ViT with a CLS token.
    """
    found = open_backbone(name, run_dir)
    networks = [module for module in method.modules() if isinstance(module, Network)]
    target, weights = networks[0].backbone, dict(found.network.state_dict())
    rows, columns = target.patch_embed.grid_size
    with torch.no_grad():
        weights["pos_embed"] = position_embedding(found.network, (int(rows), int(columns)))
    renormalize(weights, found.normalization)
    what = f"model.init: {name} does not fit the model"
    require_weights(target, weights, what)  # first: its message says more
    theirs, ours = num_heads(found.network), num_heads(target)
    if theirs != ours:  # which no shape of a weight tells of
        raise CheckpointError(
            f"model.init: {name} has {theirs} attention heads and the model {ours}: set "
            f"model.num_heads={theirs}"
        )
    for network in networks:
        load_weights(network.backbone, weights, what)
    LOG.info("the backbone starts from %s; its head is random", name)
    return found.description


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
