"""ViTs of `transformers`, as timm's: the same weights under timm's names.

One network class then serves every evaluation. ViT, Dinov2 and Dinov2 with registers are known,
and a folder that `wtours export --to hf` wrote (timm's own format).
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from training.data.normalization import MEAN, STD
from training.models.vit import create_vit
from wtours.errors import CheckpointError, MissingPackageError, UsageError
from wtours.storage.atomic import read_json

_ANY_VIT = "vit_tiny_patch16_224"
_KNOWN = ("vit", "dinov2", "dinov2_with_registers")
_BLOCK_NAMES = {
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "norm1": "norm1",
    "norm2": "norm2",
    "attention.o_proj": "attn.proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_SCALES = {"layer_scale1.lambda1": "ls1.gamma", "layer_scale2.lambda1": "ls2.gamma"}


@dataclass(frozen=True)
class HfViT:
    """A ViT with the weights of a transformers model, and the images it was trained on."""

    network: VisionTransformer
    crop_pixels: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def load_hf(name: str) -> HfViT:
    """Return the ViT of a folder that transformers saved, or of a name on the hub.

    Raises:
        MissingPackageError: transformers is not installed.
        CheckpointError: there is nothing usable under this name.
        UsageError: another kind of model.
    """
    config_file = Path(name) / "config.json"
    if config_file.is_file() and "architecture" in (content := read_json(config_file)):
        return _load_timm_folder(Path(name), content)
    try:
        import transformers
    except ImportError as error:
        raise MissingPackageError("transformers", "eval", "a backbone of transformers") from error
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        config = transformers.AutoConfig.from_pretrained(name)
        _require_known(name, config)
        model = transformers.AutoModel.from_pretrained(name, dtype=torch.float32)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(f"hf:{name} cannot be loaded ({reason})") from error
    try:
        pixels, _ = ImageProcessingMixin.get_image_processor_dict(name)
    except OSError:
        pixels = {}
    mean, std = (tuple(pixels.get(k, v)) for k, v in (("image_mean", MEAN), ("image_std", STD)))
    return HfViT(as_timm(model), config.image_size, mean, std)


def as_timm(model: nn.Module) -> VisionTransformer:
    """Return timm's ViT with the weights of transformers' ViTModel or Dinov2Model.

    Args:
        model: Of transformers, with one of the configs this module knows.
    """
    config: Any = model.config
    is_dinov2 = config.model_type != "vit"
    num_registers = getattr(config, "num_register_tokens", 0)
    network = create_vit(
        _ANY_VIT,
        img_size=config.image_size,
        patch_size=config.patch_size,
        depth=config.num_hidden_layers,
        embed_dim=config.hidden_size,
        num_heads=config.num_attention_heads,
        mlp_ratio=config.mlp_ratio if is_dinov2 else config.intermediate_size / config.hidden_size,
        qkv_bias=config.qkv_bias,
        init_values=1.0 if is_dinov2 else None,
        norm_layer=functools.partial(nn.LayerNorm, eps=config.layer_norm_eps),
        reg_tokens=num_registers,
        no_embed_class=num_registers > 0,
    )
    network.load_state_dict(_timm_names(model.state_dict(), num_registers))
    return network


def _require_known(name: str, config: Any) -> None:
    if config.model_type not in _KNOWN:
        raise UsageError(
            f"hf:{name} is a model of type {config.model_type!r}; known are {', '.join(_KNOWN)}"
        )
    if config.hidden_act != "gelu" or getattr(config, "use_swiglu_ffn", False):
        raise UsageError(f"hf:{name} has another activation than GELU, which is not supported")


def _timm_names(theirs: Mapping[str, Tensor], num_registers: int) -> dict[str, Tensor]:
    cls_token = theirs["embeddings.cls_token"]
    positions = theirs["embeddings.position_embeddings"]
    ours: dict[str, Tensor] = {}
    if num_registers:  # timm keeps the position of the CLS token in the token
        cls_token, positions = cls_token + positions[:, :1], positions[:, 1:]
        ours["reg_token"] = theirs["embeddings.register_tokens"]
    ours |= {"cls_token": cls_token, "pos_embed": positions}
    for kind in ("weight", "bias"):
        ours[f"patch_embed.proj.{kind}"] = theirs[f"embeddings.patch_embeddings.projection.{kind}"]
        ours[f"norm.{kind}"] = theirs[f"layernorm.{kind}"]
    for name, value in theirs.items():
        _, is_layer, rest = (
            name.rpartition("layer.") if "layer." in name else name.rpartition("layers.")
        )
        if not is_layer:
            continue
        number, _, rest = rest.partition(".")
        module, _, kind = rest.rpartition(".")
        if rest in _SCALES:
            ours[f"blocks.{number}.{_SCALES[rest]}"] = value
        elif module in _BLOCK_NAMES:
            ours[f"blocks.{number}.{_BLOCK_NAMES[module]}.{kind}"] = value
        elif module == "attention.q_proj":
            start = name.removesuffix(f"q_proj.{kind}")
            parts = [theirs[f"{start}{which}_proj.{kind}"] for which in "qkv"]
            ours[f"blocks.{number}.attn.qkv.{kind}"] = torch.cat(parts)
    return ours


def _load_timm_folder(folder: Path, content: dict[str, Any]) -> HfViT:
    facts = content["pretrained_cfg"]
    network = create_vit(content["architecture"], **_without_pool(content.get("model_args", {})))
    try:
        network.load_state_dict(load_file(folder / "model.safetensors"))
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{folder} does not hold the weights it tells of ({reason})"
        ) from error
    return HfViT(network, facts["input_size"][-1], tuple(facts["mean"]), tuple(facts["std"]))


def _without_pool(arguments: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in arguments.items() if key != "global_pool"}
