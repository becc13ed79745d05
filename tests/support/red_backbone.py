"""A ViT made by hand: its CLS token attends to red patches alone, and its keys tell red from green.

One block, one head, width 4, patches of 8 pixels. A patch's token is (x, -x, 0, 0), x positive on
red and negative on green; after the layer norm +-sqrt(2) (1, -1, 0, 0). Queries and keys are that
times 3, so the product of two patches is +-36, and the CLS token's with a red patch is 36 / 2.
"""

from pathlib import Path

import torch

from training.data.normalization import Normalization
from training.models.vit import create_vit
from training.weights.backbones import Backbone

PATCH = 8


def red_seer(folder: Path) -> Backbone:
    network = create_vit(
        "vit_tiny_patch16_224", img_size=48, patch_size=PATCH, embed_dim=4, depth=1, num_heads=1
    )
    weights = {name: torch.zeros_like(value) for name, value in network.state_dict().items()}
    weights["patch_embed.proj.weight"][0, 0] = weights["patch_embed.proj.weight"][1, 1] = 1
    weights["patch_embed.proj.weight"][0, 1] = weights["patch_embed.proj.weight"][1, 0] = -1
    weights["cls_token"][..., 0], weights["cls_token"][..., 1] = 1, -1
    for norm in ("blocks.0.norm1", "blocks.0.norm2", "norm"):
        weights[f"{norm}.weight"].fill_(1)
    weights["blocks.0.attn.qkv.weight"][0:4] = 3 * torch.eye(4)  # queries
    weights["blocks.0.attn.qkv.weight"][4:8] = 3 * torch.eye(4)  # keys
    network.load_state_dict(weights)
    return Backbone(
        network.requires_grad_(False).eval(),
        48,
        Normalization(),
        folder,
        {"name": "red-seer", "sha256": "0" * 64},
    )
