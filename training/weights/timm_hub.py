"""Plain ViTs of timm: with the weights of the hub, of a file, or random ones."""

from pathlib import Path
from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer

from training.data.normalization import Normalization
from training.models.loading import load_weights
from training.models.vit import build_backbone, create_vit
from training.weights.files import read_weights
from wtours.errors import CheckpointError, UsageError
from wtours.text import first_line

UNTRAINED = "random"


def load_timm(model: str, weights: str) -> tuple[VisionTransformer, Normalization]:
    """Return timm's ViT of a name and the normalization of its pixels.

    Args:
        weights: "": of the hub; "random": with seed 0; else a .pth or .safetensors, whose
            normalization is taken for ImageNet's usual. A classifier in it is left out.

    Raises:
        UsageError: timm has no such model or no weights of it, or it is not a plain ViT.
        CheckpointError: the hub is out of reach, or the file does not hold these weights.
    """
    if not weights:
        network = _from_hub(model)
        facts: Any = timm.get_pretrained_cfg(model)
        return network, Normalization(facts.mean, facts.std) if facts else Normalization()
    if weights == UNTRAINED:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return build_backbone(model), Normalization()
    network = create_vit(model)
    found = {
        name.removeprefix("backbone."): value
        for name, value in read_weights(Path(weights)).items()
        if not name.startswith(("head.", "fc_norm."))
    }
    load_weights(network, found, f"{weights} does not hold the weights of {model}")
    return network, Normalization()


def _from_hub(model: str) -> VisionTransformer:
    if timm.is_model(model) and not timm.is_model_pretrained(model):
        raise UsageError(
            f"timm has no weights for {model!r}; say timm:{model},{UNTRAINED} or timm:{model},FILE"
        )
    try:
        return create_vit(model, pretrained=True)
    except UsageError:
        raise
    except Exception as error:  # the hub's client raises errors of its own, of httpx and of OSError
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise CheckpointError(
            f"timm's weights of {model!r} cannot be downloaded ({reason}); "
            f"where the hub is out of reach, say timm:{model},FILE or timm:{model},{UNTRAINED}"
        ) from error
