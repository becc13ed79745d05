"""Starting a run's backbones from weights that are there already (`model.init`)."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from training.methods.base import Method, Network
from training.models.loading import load_weights, require_weights
from training.models.vit import num_heads, position_embedding
from training.weights.backbones import open_backbone
from training.weights.renormalize import renormalize
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

    Args:
        method: Changed in place.
        name: As `wtours eval` takes a backbone (`training.weights.backbones`).
        run_dir: The folder of a run by its name.

    Returns:
        What the weights are, for the record: name, kind, sha256 and so on.

    Raises:
        CheckpointError: no usable weights of this name, of another size or number of heads, or for
            other pixels without a way to adapt them; the message says which.
        UsageError: an unknown model, or not a plain ViT with a CLS token.
    """
    found = open_backbone(name, run_dir)
    networks = [module for module in method.modules() if isinstance(module, Network)]
    weights = _fitted(found.network, networks[0].backbone)
    renormalize(weights, found.normalization)
    what = f"model.init: {name} does not fit the model"
    require_weights(networks[0].backbone, weights, what)  # first: its message says more
    _require_heads(found.network, networks[0].backbone, name)
    for network in networks:
        load_weights(network.backbone, weights, what)
    LOG.info("the backbone starts from %s; its head is random", name)
    return found.description


def _require_heads(source: VisionTransformer, target: VisionTransformer, name: str) -> None:
    """Refuse another number of attention heads, which no shape of a weight tells of."""
    theirs, ours = num_heads(source), num_heads(target)
    if theirs != ours:
        raise CheckpointError(
            f"model.init: {name} has {theirs} attention heads and the model {ours}: set "
            f"model.num_heads={theirs}"
        )


def _fitted(source: VisionTransformer, target: VisionTransformer) -> dict[str, Tensor]:
    """Return the source's weights with the target's size of the position embedding."""
    weights = dict(source.state_dict())
    rows, columns = target.patch_embed.grid_size
    with torch.no_grad():
        weights["pos_embed"] = position_embedding(source, (int(rows), int(columns)))
    return weights
