"""Naming a frozen backbone: one way for every command of `wtours eval`.

    walk30                             a run: its newest whole checkpoint's teacher
    runs/walk30/checkpoints/step-…     one checkpoint of a run
    walk30,random                      the network that the run started from
    dino_deitsmall16_pretrain.pth      a file of DINO's or DORA's authors, as `wtours import` reads
    timm:vit_small_patch16_224.dino    a ViT of timm with its weights from the hub
    timm:NAME,weights.safetensors      the same ViT with the weights of a file (.pth, .safetensors)
    timm:NAME,random                   the same ViT with random weights
    hf:facebook/dino-vits16            a ViT or Dinov2 of transformers, or an exported run's folder

Whatever the name, the network is timm's ViT, so that `training.models.vit` gives its tokens, keys
and attention alike.
"""

import math
import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from training.config.train import TrainConfig
from training.data.normalization import Normalization
from training.engine.checkpoint import load_trained, read_state
from training.engine.checkpoint_files import INITIAL, RANDOM, find_checkpoint, run_dir_of
from training.methods.registry import method_class
from training.models.loading import require_finite
from training.models.vit import num_heads
from training.rng import derived_seed
from training.weights.huggingface import load_hf
from training.weights.official import load_released
from training.weights.timm_hub import UNTRAINED, load_timm
from wtours.errors import CheckpointError, UsageError
from wtours.storage.hashing import sha256_bytes, sha256_file, unchanged
from wtours.storage.tensor_files import safetensors_bytes

RunDir = Callable[[str], Path]


@dataclass(frozen=True)
class Backbone:
    """A frozen network to be measured.

    Attributes:
        network: In evaluation mode, without gradients.
        crop_pixels: Side of the square that it was trained on.
        normalization: Of the pixels it takes.
        folder: What is measured is published in <folder>/eval.
        description: For the JSON: `name`, `kind` (run, released, timm, hf), `step` (null where
            there is none), `sha256` of the file of weights (of the weights, as safetensors, where
            there is no single file), `backbone` (what the network is made of), `seed`,
            `trained_on_set_sha256` (the set hash of a run's shards; null: not known, or images).
        config: Of the run that it is of, else None.
    """

    network: VisionTransformer
    crop_pixels: int
    normalization: Normalization
    folder: Path
    description: dict[str, Any]
    config: TrainConfig | None = None

    @property
    def label(self) -> str:
        """Return what results are named by: the checkpoint and 8 digits of its weights' sha256."""
        return f"{self.description['name']}-{self.description['sha256'][:8]}"

    @property
    def patch_pixels(self) -> int:
        """Return the side of a patch."""
        return int(self.network.patch_embed.patch_size[0])

    def to(self, device: torch.device) -> "Backbone":
        """Move the network; return the backbone itself."""
        self.network.to(device)
        return self


def open_backbone(text: str, run_dir: RunDir) -> Backbone:
    """Return the backbone that `text` names, on the CPU (see the head of this module).

    Args:
        text: The name.
        run_dir: The folder of a run by its name; results of other backbones go to one as well.

    Raises:
        CheckpointError: no usable weights under this name (none, damaged, not finite); the message
            says why.
        UsageError: an unknown model, or not a plain ViT with a CLS token.
    """
    return _require_usable(_open(text, run_dir), text)


def _open(text: str, run_dir: RunDir) -> Backbone:
    kind, colon, name = text.partition(":")
    if colon and kind == "timm":
        return _open_timm(name, run_dir)
    if colon and kind == "hf":
        return _open_hf(name, run_dir)
    bare, random = text.removesuffix(RANDOM), text.endswith(RANDOM)
    path = Path(bare)
    if path.is_file() or path.suffix in (".pth", ".pt"):
        return _open_released(path, run_dir)
    in_place = path.is_dir() or "/" in bare
    checkpoint = find_checkpoint(path if in_place else run_dir(bare))
    return initial_of_run(checkpoint) if random else _open_run(checkpoint)


def initial_of_run(checkpoint: Path) -> Backbone:
    """Return the network that a run started from: its random weights at step 0.

    Raises:
        UsageError: it started from weights of model.init.
    """
    config = read_state(checkpoint)[1]
    network = initial_backbone(config)
    description = _run_description(INITIAL, 0, _sha256_of(network), config, None)
    return _of_run(network, checkpoint, config, description)


def initial_backbone(config: TrainConfig) -> VisionTransformer:
    """Return the backbone that a run of this config starts from: its random weights at step 0.

    Raises:
        UsageError: it starts from weights of model.init.
    """
    if config.model.init is not None:
        raise UsageError(
            f"the run did not start from random weights; its start is {config.model.init}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(config.seed, "weights"))  # as build.build_state
        return _frozen(method_class(config).build_network(config).backbone)


def _open_run(checkpoint: Path) -> Backbone:
    of = load_trained(checkpoint)
    description = _run_description(
        checkpoint.name, of.step, of.sha256, of.config, of.data.set_sha256
    )
    return _of_run(of.network.backbone, checkpoint, of.config, description)


def _of_run(
    network: VisionTransformer, checkpoint: Path, config: TrainConfig, description: dict[str, Any]
) -> Backbone:
    return Backbone(
        network,
        crop_pixels=config.data.global_crop_pixels,
        normalization=Normalization(),
        folder=run_dir_of(checkpoint),
        description=description,
        config=config,
    )


def _run_description(
    name: str, step: int, sha256: str, config: TrainConfig, set_sha256: str | None
) -> dict[str, Any]:
    return {
        "name": name,
        "kind": "run",
        "step": step,
        "sha256": sha256,
        "backbone": config.model.model_dump(mode="json"),
        "seed": config.seed,
        "trained_on_set_sha256": set_sha256,
    }


def _open_released(path: Path, run_dir: RunDir) -> Backbone:
    with unchanged(path):
        config, network = load_released(path)
        sha256 = sha256_file(path)
    name = _slug(path.stem)
    return Backbone(
        network.backbone,
        crop_pixels=config.data.global_crop_pixels,
        normalization=Normalization(),
        folder=run_dir(name),
        description=_description("released", name, sha256, network.backbone),
    )


def _open_timm(name: str, run_dir: RunDir) -> Backbone:
    model, _, weights = name.partition(",")
    is_file = weights not in ("", UNTRAINED)
    with unchanged(Path(weights)) if is_file else nullcontext():
        network, normalization = load_timm(model, weights)
        sha256 = sha256_file(Path(weights)) if is_file else None
    slug = _slug("timm", model, Path(weights).stem)
    return Backbone(
        _frozen(network),
        crop_pixels=int(network.patch_embed.img_size[0]),
        normalization=normalization,
        folder=run_dir(slug),
        description=_description("timm", slug, sha256, network) | {"model": model},
    )


def _open_hf(name: str, run_dir: RunDir) -> Backbone:
    found = load_hf(name)
    slug = _slug("hf", name)
    return Backbone(
        _frozen(found.network),
        crop_pixels=found.crop_pixels,
        normalization=found.normalization,
        folder=run_dir(slug),
        description=_description("hf", slug, None, found.network) | {"model": name},
    )


def _require_usable(backbone: Backbone, text: str) -> Backbone:
    """Refuse what would publish numbers of nothing.

    Raises:
        CheckpointError: weights or a normalization that are not numbers, or a deviation of 0.
    """
    require_finite(backbone.network.state_dict(), f"{text} has weights that are damaged")
    mean, std = map(list[float], backbone.normalization)
    is_rgb = len(mean) == len(std) == 3 and all(map(math.isfinite, mean + std))
    if not is_rgb or min(std) <= 0:
        raise CheckpointError(
            f"{text}: mean {mean} and deviation {std} of the pixels must be three "
            f"numbers each, deviations above 0; correct its preprocessor_config.json or config.json"
        )
    return backbone


def _description(
    kind: str, name: str, sha256: str | None, network: VisionTransformer
) -> dict[str, Any]:
    return {
        "name": name,
        "kind": kind,
        "step": None,
        "sha256": sha256 or _sha256_of(network),
        "backbone": {
            "patch_size": int(network.patch_embed.patch_size[0]),
            "depth": len(network.blocks),
            "embed_dim": network.embed_dim,
            "num_heads": num_heads(network),
        },
        "seed": None,
        "trained_on_set_sha256": None,
    }


def _sha256_of(network: nn.Module) -> str:
    weights = {name: value.contiguous() for name, value in network.state_dict().items()}
    return sha256_bytes(safetensors_bytes(weights))


def _frozen(network: VisionTransformer) -> VisionTransformer:
    network.requires_grad_(False).eval()
    return network


def _slug(*parts: str) -> str:
    """Return a run's name: timm-vit_small_patch16_224-dino, hf-facebook-dino-vits16."""
    text = "-".join(part for part in parts if part)
    return re.sub("[^A-Za-z0-9_]+", "-", text).strip("-")[-64:].lstrip("-_")
