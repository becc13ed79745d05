"""ViTs of `transformers`, as timm's: the same weights under timm's names.

One network class then serves every evaluation. ViT, Dinov2 and Dinov2 with registers are known,
and a folder that `wtours export --to hf` wrote (timm's own format).
"""

import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from training.data.normalization import MEAN, STD, Normalization
from training.models.loading import build_with, load_weights, read_safetensors
from training.models.vit import create_vit
from wtours.errors import CheckpointError, MissingPackageError, UsageError, WtoursError
from wtours.storage.atomic import read_json
from wtours.text import first_line

_MAX_DEPTH, _MAX_WIDTH = 1000, 2**16
_SIZES = frozenset({"img_size", "patch_size", "depth", "embed_dim", "num_heads"})
_NOT_USED = ("pooler.", "embeddings.mask_token")
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


def load_hf(name: str) -> tuple[VisionTransformer, int, Normalization]:
    """Return the ViT of a folder that transformers saved, or of a name on the hub.

    With it the pixels of the side, and the normalization, of the images that it was trained on.

    Raises:
        MissingPackageError: transformers is not installed.
        CheckpointError: there is nothing usable under this name.
        UsageError: another kind of model.
    """
    config_file = Path(name) / "config.json"
    if config_file.is_file():
        content = _read_object(config_file)
        if "architecture" in content:
            return _load_timm_folder(Path(name), content)
    try:
        import transformers
    except ImportError as error:
        raise MissingPackageError("transformers", "eval", "a backbone of transformers") from error

    try:
        config = transformers.AutoConfig.from_pretrained(name)
        _require_known(name, config)
        model, report = transformers.AutoModel.from_pretrained(
            name, dtype=torch.float32, output_loading_info=True
        )
    except WtoursError:
        raise
    except Exception as error:  # the hub's client and the readers of configs have their own
        raise CheckpointError(f"hf:{name} cannot be loaded ({first_line(error)})") from error
    # Where a weight is missing transformers draws it at random, and says so in its log.
    wrong = sorted(key for key in report["missing_keys"] if not key.startswith(_NOT_USED))
    wrong += map(str, report["mismatched_keys"])
    if wrong:
        raise CheckpointError(
            f"hf:{name} does not hold the weights of its config: {len(wrong)} are missing or of "
            f"another size, {wrong[0]} for example"
        )
    return as_timm(model), _side(name, config, "image_size"), _normalization(name)


def _normalization(name: str) -> Normalization:
    """Return what the pixels are normalized with; ImageNet's usual where nothing is said."""
    from transformers.image_processing_base import ImageProcessingMixin

    file = Path(name) / "preprocessor_config.json"
    if file.is_file():
        pixels = _read_object(file)
    else:
        try:
            pixels, _ = ImageProcessingMixin.get_image_processor_dict(name)
        except OSError:
            pixels = {}
    if pixels.get("do_normalize") is False:
        return Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    factor = 1 if pixels.get("do_rescale") is False else pixels.get("rescale_factor", 1 / 255)
    is_number = isinstance(factor, int | float)
    if not (is_number and math.isclose(factor, 1 / 255, rel_tol=1e-3)):
        raise UsageError(f"hf:{name} rescales pixels by another factor than 1/255")
    return _as_normalization(pixels, name)


def _as_normalization(facts: dict[str, Any], name: str) -> Normalization:
    try:
        mean, std = facts.get("image_mean", MEAN), facts.get("image_std", STD)
        return Normalization(tuple(map(float, mean)), tuple(map(float, std)))  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"hf:{name} has a mean or deviation of the pixels that is no list of numbers"
        ) from error


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except RecursionError:
        content = None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return content


def _side(name: str, config: Any, key: str) -> int:
    """Return a size of a config that may be one number or two equal ones."""
    value = getattr(config, key)
    sides = set(value) if isinstance(value, list | tuple) else {value}
    if len(sides) != 1 or not all(type(side) is int and side > 0 for side in sides):
        raise UsageError(f"hf:{name} has {key} {value}; only squares are supported")
    return int(sides.pop())


def as_timm(model: nn.Module) -> VisionTransformer:
    """Return timm's ViT with the weights of transformers' ViTModel or Dinov2Model."""
    config: Any = model.config
    is_dinov2 = config.model_type != "vit"
    num_registers = getattr(config, "num_register_tokens", 0)
    network = create_vit(
        _ANY_VIT,
        img_size=_side(config.model_type, config, "image_size"),
        patch_size=_side(config.model_type, config, "patch_size"),
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
    weights = _timm_names(model.state_dict(), num_registers)
    load_weights(network, weights, f"a {config.model_type} of transformers does not fit timm's ViT")
    return network


def _require_known(name: str, config: Any) -> None:
    if config.model_type not in _KNOWN:
        raise UsageError(
            f"hf:{name} is a model of type {config.model_type!r}; known are {', '.join(_KNOWN)}"
        )
    if config.hidden_act != "gelu" or getattr(config, "use_swiglu_ffn", False):
        raise UsageError(f"hf:{name} has another activation than GELU, which is not supported")
    if config.num_channels != 3:
        raise UsageError(f"hf:{name} takes images of {config.num_channels} channels, not of 3")
    for key in ("image_size", "patch_size"):
        _side(name, config, key)
    depth, width = config.num_hidden_layers, config.hidden_size
    if not (0 < depth <= _MAX_DEPTH and 0 < width <= _MAX_WIDTH):
        raise UsageError(f"hf:{name} has {depth} layers of {width}, which no ViT has")


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


def _load_timm_folder(
    folder: Path, content: dict[str, Any]
) -> tuple[VisionTransformer, int, Normalization]:
    """Return what `wtours export --to hf` (or --to timm) wrote."""
    weights = read_safetensors(folder / "model.safetensors")
    refusal = f"{folder} does not hold the weights its config.json tells of"
    try:
        arguments = {
            key: value for key, value in content.get("model_args", {}).items() if key in _SIZES
        }
        if not all(type(v) is int and v > 0 for v in arguments.values()):
            raise ValueError("sizes that are no numbers")
        if arguments.get("depth", 0) > len(weights):
            raise ValueError(f"{arguments['depth']} blocks")
        build = functools.partial(create_vit, content["architecture"], **arguments)
        network = build_with(build, weights, refusal)
        facts = content["pretrained_cfg"]
        crop_pixels = int(facts["input_size"][-1])
        pixels = {"image_mean": facts["mean"], "image_std": facts["std"]}
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise CheckpointError(
            f"{folder / 'config.json'} is damaged ({type(error).__name__}: {first_line(error)})"
        ) from error
    return network, crop_pixels, _as_normalization(pixels, str(folder))
