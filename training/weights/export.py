"""A trained teacher as files that others load, with a card: the spine of `wtours export`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from timm.models.vision_transformer import VisionTransformer

from training.config.train import TrainConfig, to_yaml
from training.data.normalization import MEAN, STD
from training.engine.checkpoint import load_trained
from training.engine.checkpoint_files import find_checkpoint, run_dir_of
from training.models.vit import num_heads
from training.weights.official import HEAD_WIDTH
from training.weights.onnx_export import onnx_bytes
from wtours.storage.atomic import sweep_idle, write_bytes
from wtours.storage.hashing import canonical_json
from wtours.storage.tensor_files import pth_bytes, safetensors_bytes
from wtours.text import counted, escape_markdown

Target = Literal["timm", "hf", "onnx", "official", "detectron2", "seqtrack"]
_FOLDERS = ("timm", "hf", "onnx")


@dataclass(frozen=True)
class Exported:
    """What was written, and the Python that loads it."""

    path: Path
    how_to_load: str
    card: Path
    """The model card: README.md in a folder, NAME.md beside a file."""


def export_run(run: Path, *, to: Target, out: Path | None = None) -> Exported:
    """Write a run's teacher for another program, and its card; files of these names are replaced.

    Args:
        run: A run's folder (its newest whole checkpoint is taken) or one of its checkpoints.
        to: "timm": a folder with `model.safetensors` (the backbone under timm's names) and
            `config.json`, for `timm.create_model`. "hf": the same, for `transformers`.
            "onnx": a folder with `model.onnx`, compared with torch's outputs before it is written.
            "official": a .pth as the released code reads it, {"teacher": {"backbone.*", "head.*"}}.
            "detectron2": a .pth for detectron2's own ViT, {"model": {"backbone.net.*"}}.
            "seqtrack": a .pth as SeqTrack reads weights of MAE, {"model": {"cls_token", …}}.
        out: The folder or file to write; None: in <run>/exports: timm, hf, official.pth, ….

    Raises:
        CheckpointError: no usable checkpoint, or an ONNX file that computes something else.
        MissingPackageError: what writes or checks ONNX is not installed.
    """
    checkpoint = find_checkpoint(run)
    of = load_trained(checkpoint)
    config, network = of.config, of.network
    name = to if to in _FOLDERS else f"{to}.pth"
    out = out or run_dir_of(checkpoint) / "exports" / name
    backbone = network.backbone
    sweep_idle(out if to in _FOLDERS else out.parent)
    match to:
        case "timm" | "hf":
            _write_timm(out, config, backbone)
        case "onnx":
            data = onnx_bytes(config, timm_arguments(config), backbone)
            write_bytes(out / "model.onnx", data)
        case "official":
            write_bytes(out, pth_bytes({"teacher": dict(network.state_dict())}))
        case "detectron2":
            # Under the names of a detector around detectron2's ViT, which has no CLS token (of the
            # position embedding it skips the CLS token's row) and no final norm.
            weights = {
                f"backbone.net.{name}": value
                for name, value in backbone.state_dict().items()
                if name != "cls_token" and not name.startswith("norm.")
            }
            write_bytes(out, pth_bytes({"model": weights}))
        case "seqtrack":
            write_bytes(out, pth_bytes({"model": dict(backbone.state_dict())}))
    card = out / "README.md" if to in _FOLDERS else out.with_suffix(".md")
    text = model_card(
        to,
        config,
        patch_pixels=int(backbone.patch_embed.patch_size[0]),
        name=run_dir_of(checkpoint).name,
        step=of.step,
        sha256=of.sha256,
        set_sha256=of.data.set_sha256,
        how_to_load=_how_to_load(to, Path(out.name), config, backbone),
    )
    write_bytes(card, text.encode())
    return Exported(out, _how_to_load(to, out, config, backbone), card)


def _how_to_load(to: Target, out: Path, config: TrainConfig, backbone: VisionTransformer) -> str:
    match to:
        case "timm":
            return f"timm.create_model({f'local-dir:{out}'!r}, pretrained=True, num_classes=0)"
        case "hf":
            return f"transformers.AutoModel.from_pretrained({str(out)!r})"
        case "onnx":
            path = str(out / "model.onnx")
            return (
                f"onnxruntime.InferenceSession({path!r})"
                '.run(["features"], {"image": images})  # (B, 3, S, S) float32, S = '
                f"{config.data.global_crop_pixels}"
            )
        case "detectron2":
            return (
                f"train.init_checkpoint={str(out)!r}, "
                f"model.backbone.net.pretrain_img_size={config.data.global_crop_pixels}"
            )
        case "seqtrack":
            return f"MODEL.ENCODER.PRETRAIN_TYPE: mae, its url file:// and {out}"
        case "official":
            call = f'torch.load({json.dumps(str(out))}, weights_only=True)["teacher"]'
            heads, told = num_heads(backbone), backbone.embed_dim // HEAD_WIDTH
            if heads == told:
                return call
            # The format has no word of it: every ViT of DINO and DORA has heads of 64.
            return (
                f"{call}  # build it with {heads} attention heads: the file cannot say so, and its "
                f"readers, `wtours import` too, take {told}"
            )


def timm_arguments(config: TrainConfig) -> dict[str, Any]:
    """Return what `timm.create_model` needs beside the name to build the run's backbone."""
    pixels = config.data.global_crop_pixels
    return {"img_size": pixels, "global_pool": "token", **config.model.sizes}


def _write_timm(folder: Path, config: TrainConfig, backbone: VisionTransformer) -> None:
    weights = {name: value.contiguous() for name, value in backbone.state_dict().items()}
    metadata = {"format": "pt"}  # as HF asks
    write_bytes(folder / "model.safetensors", safetensors_bytes(weights, metadata))
    pixels = config.data.global_crop_pixels
    content = {
        "architecture": config.model.backbone,
        "num_classes": 0,
        "num_features": backbone.embed_dim,
        "global_pool": "token",
        "model_args": timm_arguments(config),
        "pretrained_cfg": {
            "input_size": [3, pixels, pixels],
            "interpolation": "bicubic",
            "crop_pct": 0.875,
            "mean": list(MEAN),
            "std": list(STD),
            "num_classes": 0,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
    write_bytes(folder / "config.json", canonical_json(content))


_LIBRARIES = {"timm": "timm", "hf": "transformers", "onnx": "onnx"}


def model_card(
    to: str,
    config: TrainConfig,
    *,
    patch_pixels: int,
    name: str,
    step: int,
    sha256: str,
    set_sha256: str | None,
    how_to_load: str,
) -> str:
    """Return the card: what the encoder is, what it was trained on, and how to load it."""
    pixels = config.data.global_crop_pixels
    library = f"library_name: {_LIBRARIES[to]}\n" if to in _LIBRARIES else ""
    trained_on = (
        f"the shard set of hash `{set_sha256}`"
        if set_sha256 is not None
        else "images, or a shard set whose hash its checkpoint does not hold"
    )
    return f"""---
{library}pipeline_tag: image-feature-extraction
tags:
- self-supervised-learning
- vision-transformer
- {config.method}
---

# {escape_markdown(name)}

An image encoder ({config.model.backbone}), trained without labels by wtours (`{config.method}`).

| | |
|---|---|
| steps | {step:,}, of {counted(config.optim.global_batch_size, "clip")} each |
| trained on | {trained_on} |
| input | RGB of {pixels} x {pixels} pixels, in 0 to 1, minus {MEAN}, divided by {STD} |
| position embedding | for {pixels} x {pixels} pixels, patches of {patch_pixels} |
| seed | {config.seed} |
| checkpoint's weights | sha256 `{sha256}` |

## Loading

```
{how_to_load}
```

## Limits

It learned from what its data shows: check it on your task before you rely on it. Who made the
videos, and under which licenses, stands with the shard set.

## Settings

```yaml
{to_yaml(config).rstrip()}
```
"""
