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

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from training.config.train import TrainConfig
from training.data.normalization import Normalization
from training.engine.checkpoint import load_trained, read_state
from training.engine.checkpoint_files import INITIAL, RANDOM, find_checkpoint, run_dir_of
from training.methods.registry import method_class
from training.models.loading import load_weights, require_finite
from training.models.vit import build_backbone, create_vit, num_heads
from training.rng import derived_seed
from training.weights.files import read_weights
from training.weights.huggingface import load_hf
from training.weights.official import load_released
from wtours.errors import CheckpointError, UsageError
from wtours.storage.hashing import sha256_bytes, sha256_file, unchanged
from wtours.storage.tensor_files import safetensors_bytes
from wtours.text import first_line

RunDir = Callable[[str], Path]


@dataclass(frozen=True)
class Backbone:
    """A frozen network to be measured."""

    network: VisionTransformer
    """In evaluation mode, without gradients."""
    crop_pixels: int
    """Side of the square that it was trained on."""
    normalization: Normalization
    """Of the pixels it takes."""
    folder: Path
    """What is measured is published in <folder>/eval."""
    description: dict[str, Any]
    """For the JSON: `name`, `kind` (run, released, timm, hf), `step` (null where there is none),
    `sha256` of the file of weights (of the weights, as safetensors, where there is no single file),
    `backbone` (what the network is made of), `seed`, `trained_on_set_sha256` (the set hash of a
    run's shards; null: not known, or images)."""
    config: TrainConfig | None = None
    """Of the run that it is of, else None."""

    @property
    def label(self) -> str:
        """Return what results are named by: the checkpoint and 8 digits of its weights' sha256."""
        return f"{self.description['name']}-{self.description['sha256'][:8]}"

    @property
    def device(self) -> torch.device:
        """Return where the network is."""
        return next(self.network.parameters()).device

    @property
    def patch_pixels(self) -> int:
        """Return the side of a patch."""
        return int(self.network.patch_embed.patch_size[0])


def open_backbone(text: str, run_dir: RunDir) -> Backbone:
    """Return the backbone that `text` names, on the CPU (see the head of this module).

    Args:
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
        model, _, weights = name.partition(",")
        is_file = weights not in ("", UNTRAINED)
        with unchanged(Path(weights)) if is_file else nullcontext():
            network, normalization = load_timm(model, weights)
            sha256 = sha256_file(Path(weights)) if is_file else None
        side, slug = int(network.patch_embed.img_size[0]), _slug("timm", model, Path(weights).stem)
        return _of_others(
            *(kind, slug, network, side, run_dir),
            normalization=normalization,
            sha256=sha256,
            model=model,
        )
    if colon and kind == "hf":
        network, side, normalization = load_hf(name)
        slug = _slug("hf", name)
        return _of_others(
            kind, slug, network, side, run_dir, normalization=normalization, model=name
        )
    bare, random = text.removesuffix(RANDOM), text.endswith(RANDOM)
    path = Path(bare)
    if path.is_file() or path.suffix in (".pth", ".pt"):
        with unchanged(path):
            config, released = load_released(path)
            sha256 = sha256_file(path)
        side, slug = config.data.global_crop_pixels, _slug(path.stem)
        return _of_others("released", slug, released.backbone, side, run_dir, sha256=sha256)
    in_place = path.is_dir() or "/" in bare
    return _of_run(find_checkpoint(path if in_place else run_dir(bare)), random=random)


def _of_run(checkpoint: Path, *, random: bool) -> Backbone:
    """Return the network of a checkpoint, or the random one that its run started from."""
    set_sha256: str | None = None
    if random:
        config = read_state(checkpoint)[1]
        network = initial_backbone(config)
        facts = {"name": INITIAL, "step": 0, "sha256": _sha256_of(network)}
    else:
        of = load_trained(checkpoint)
        config, network, set_sha256 = of.config, of.network.backbone, of.data.set_sha256
        facts = {"name": checkpoint.name, "step": of.step, "sha256": of.sha256}
    return Backbone(
        network,
        crop_pixels=config.data.global_crop_pixels,
        normalization=Normalization(),
        folder=run_dir_of(checkpoint),
        description={
            **facts,
            "kind": "run",
            "backbone": config.model.model_dump(mode="json"),
            "seed": config.seed,
            "trained_on_set_sha256": set_sha256,
        },
        config=config,
    )


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


def _of_others(
    kind: str,
    name: str,
    network: VisionTransformer,
    crop_pixels: int,
    run_dir: RunDir,
    *,
    normalization: Normalization | None = None,
    sha256: str | None = None,
    **facts: str,
) -> Backbone:
    """Return a network that is of no run of ours; a run's folder of its name gets the results."""
    return Backbone(
        _frozen(network),
        crop_pixels,
        normalization or Normalization(),
        run_dir(name),
        description={
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
            **facts,
        },
    )


def _require_usable(backbone: Backbone, text: str) -> Backbone:
    """Refuse what would publish numbers of nothing."""
    require_finite(backbone.network.state_dict(), f"{text} has weights that are damaged")
    mean, std = map(list[float], backbone.normalization)
    is_rgb = len(mean) == len(std) == 3 and all(map(math.isfinite, mean + std))
    if not is_rgb or min(std) <= 0:
        raise CheckpointError(
            f"{text}: mean {mean} and deviation {std} of the pixels must be three "
            f"numbers each, deviations above 0; correct its preprocessor_config.json or config.json"
        )
    return backbone


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
