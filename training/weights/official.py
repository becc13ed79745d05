"""Weights in the files of DINO's and DORA's authors, loaded without running what is in a file.

Known layouts: a training checkpoint, {"teacher": {"backbone.*", "head.*"}, "student": {…}, …},
and a backbone alone, {"cls_token", "blocks.…"}; each name may begin with "module.".
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.config.sections import DataConfig, ModelConfig
from training.config.train import TrainConfig
from training.data.source import DataIdentity
from training.engine.checkpoint import save_checkpoint
from training.engine.checkpoint_files import newest_checkpoint
from training.engine.optim import build_optimizer
from training.engine.state import TrainState
from training.methods.base import Network
from training.methods.registry import build_method, method_class
from training.models.loading import load_weights, require_weights
from training.weights.files import read_weights
from wtours.errors import CheckpointError, WtoursError
from wtours.text import first_line

HEAD_WIDTH = 64
"""Width of an attention head in every ViT of DINO and DORA; the weights do not tell it."""
_ANY_VIT = "vit_tiny_patch16_224"


def load_released(path: Path) -> tuple[TrainConfig, Network]:
    """Return a released teacher and a config that describes it, as `checkpoint.load_network` does.

    The sizes of the ViT are read off the weights. Where the file has no head (it is not needed to
    evaluate), the network's is untrained.

    Args:
        path: A .pth file; it is read with `weights_only`, so that it can hold nothing but tensors,
            plain values and the options of a training script.

    Raises:
        CheckpointError: not such a file, a file that would run code, or weights of another network.
    """
    weights = read_weights(path)
    head = {k: v for k, v in weights.items() if k.startswith("head.")}
    backbone = {k.removeprefix("backbone."): v for k, v in weights.items() if k not in head}
    refusal = f"{path} does not hold a ViT of DINO or DORA"
    try:
        config = _config_of(backbone, head)
        with torch.device("meta"):  # no memory, whatever sizes the names and shapes claim
            require_weights(method_class(config).build_network(config).backbone, backbone, refusal)
        network = method_class(config).build_network(config)
    except WtoursError:
        raise
    except Exception as error:  # timm, torch and pydantic have no common base
        raise CheckpointError(f"{refusal} ({type(error).__name__}: {first_line(error)})") from error
    load_weights(network.backbone, backbone, refusal)
    if head:
        load_weights(
            network.head, {k.removeprefix("head."): v for k, v in head.items()}, f"{refusal}: head"
        )
    return config, network.requires_grad_(False).eval()


def import_released(path: Path, run_dir: Path) -> Path:
    """Make a run of a released teacher, for every command that takes one; return its checkpoint.

    It is at step 0 of no shard set, so that it cannot be trained further by mistake.

    Raises:
        CheckpointError: as of `load_released`, or the run has a checkpoint already.
    """
    config, network = load_released(path)
    if newest_checkpoint(run_dir) is not None:
        raise CheckpointError(f"{run_dir} is a run already; choose another name by --run")
    method = build_method(config)
    for copied in (method.student, method.evaluated_network):
        copied.load_state_dict(network.state_dict())
    state = TrainState(method, build_optimizer(method.student, config.optim), step=0)
    return save_checkpoint(run_dir, state, config=config, data=DataIdentity("", 0), keep_last=1)


def _config_of(backbone: dict[str, Tensor], head: dict[str, Tensor]) -> TrainConfig:
    width, _, patch, _ = backbone["patch_embed.proj.weight"].shape
    if width % HEAD_WIDTH:
        raise ValueError(f"its width {width} is not {HEAD_WIDTH} for each attention head")
    side = math.isqrt(backbone["pos_embed"].shape[1] - 1) * patch
    depth = 1 + max(int(name.split(".")[1]) for name in backbone if name.startswith("blocks."))
    if depth > len(backbone):
        raise ValueError(f"{depth} blocks in {len(backbone)} weights")
    sizes: dict[str, Any] = {}
    if head:
        sizes = {
            "num_prototypes": len(head["head.last_layer.weight_v"]),
            "head_hidden_dim": len(head["head.mlp.0.weight"]),
            "head_batch_norm": "head.mlp.1.running_mean" in head,
        }
    return TrainConfig(
        model=ModelConfig(
            backbone=_ANY_VIT,
            patch_size=patch,
            depth=depth,
            embed_dim=width,
            num_heads=width // HEAD_WIDTH,
            **sizes,
        ),
        data=DataConfig(global_crop_pixels=side, local_crop_pixels=side // 2 // patch * patch),
    )
