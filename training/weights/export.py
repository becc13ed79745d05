"""A trained teacher as files that other programs load: the spine of `wtours export`."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from training.config.train import TrainConfig
from training.data.normalization import MEAN, STD
from training.engine.checkpoint import find_checkpoint, load_network, run_dir_of
from training.methods.base import Network
from training.weights.official import HEAD_WIDTH
from wtours.storage.atomic import write_bytes
from wtours.storage.hashing import canonical_json
from wtours.storage.tensor_files import pth_bytes, safetensors_bytes

Target = Literal["timm", "hf", "official", "detectron2", "seqtrack"]


@dataclass(frozen=True)
class Exported:
    """What was written, and the Python that loads it."""

    path: Path
    how_to_load: str


def export_run(run: Path, *, to: Target, out: Path | None = None) -> Exported:
    """Write a run's teacher for another program; files of the same names are replaced.

    Args:
        run: A run's folder (its newest whole checkpoint is taken) or one of its checkpoints.
        to: "timm": a folder with `model.safetensors` (the backbone under timm's names) and
            `config.json`, for `timm.create_model`. "hf": the same, for `transformers`.
            "official": a .pth as the released code reads it, {"teacher": {"backbone.*", "head.*"}}.
            "detectron2": a .pth for detectron2's own ViT, {"model": {"backbone.net.*"}}.
            "seqtrack": a .pth as SeqTrack reads weights of MAE, {"model": {"cls_token", …}}.
        out: The folder or file to write; None: in <run>/exports: timm, hf, official.pth, ….

    Raises:
        CheckpointError: no usable checkpoint.
    """
    checkpoint = find_checkpoint(run)
    config, network = load_network(checkpoint)
    write, describe, name = _TARGETS[to]
    out = out or run_dir_of(checkpoint) / "exports" / name
    write(out, config, network)
    return Exported(out, describe(out, config))


def timm_arguments(config: TrainConfig) -> dict[str, Any]:
    """Return what `timm.create_model` needs beside the name to build the run's backbone."""
    model = config.model
    sizes = {
        "patch_size": model.patch_size,
        "depth": model.depth,
        "embed_dim": model.embed_dim,
        "num_heads": model.num_heads,
    }
    return {
        "img_size": config.data.global_crop_pixels,
        "global_pool": "token",
        **{key: value for key, value in sizes.items() if value is not None},
    }


def _write_timm(folder: Path, config: TrainConfig, network: Network) -> None:
    backbone = network.backbone
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


def _describe_timm(folder: Path, config: TrainConfig) -> str:
    arguments = ", ".join(f"{key}={value!r}" for key, value in timm_arguments(config).items())
    return (
        f"timm.create_model({config.model.backbone!r}, num_classes=0, {arguments}, "
        f"checkpoint_path={str(folder / 'model.safetensors')!r})"
    )


def _describe_hf(folder: Path, _: TrainConfig) -> str:
    return f"transformers.AutoModel.from_pretrained({str(folder)!r})"


def _write_official(file: Path, _: TrainConfig, network: Network) -> None:
    write_bytes(file, pth_bytes({"teacher": dict(network.state_dict())}))


def _describe_official(file: Path, config: TrainConfig) -> str:
    call = f'torch.load({json.dumps(str(file))}, weights_only=True)["teacher"]'
    model = config.model
    if model.embed_dim is None or model.num_heads in (None, model.embed_dim // HEAD_WIDTH):
        return call
    # The format has no word of it: every ViT of DINO and DORA has heads of 64.
    return (
        f"{call}  # build it with {model.num_heads} attention heads: the file cannot say so, and "
        f"its readers, `wtours import` too, take {model.embed_dim // HEAD_WIDTH}"
    )


def _write_detectron2(file: Path, _: TrainConfig, network: Network) -> None:
    write_bytes(file, pth_bytes({"model": detectron2_weights(network.backbone)}))


def _describe_detectron2(file: Path, config: TrainConfig) -> str:
    return (
        f"train.init_checkpoint={str(file)!r}, "
        f"model.backbone.net.pretrain_img_size={config.data.global_crop_pixels}"
    )


def detectron2_weights(backbone: VisionTransformer) -> dict[str, Tensor]:
    """Return a backbone's weights under the names of a detector around detectron2's ViT.

    That one has no CLS token (of the position embedding it skips the CLS token's row) and no final
    norm, so these two are left out.
    """
    return {
        f"backbone.net.{name}": value
        for name, value in backbone.state_dict().items()
        if name != "cls_token" and not name.startswith("norm.")
    }


def _write_seqtrack(file: Path, _: TrainConfig, network: Network) -> None:
    write_bytes(file, pth_bytes({"model": dict(network.backbone.state_dict())}))


def _describe_seqtrack(file: Path, _: TrainConfig) -> str:
    return f"MODEL.ENCODER.PRETRAIN_TYPE: mae, its url file://{file.absolute()}"


_TARGETS: dict[
    Target,
    tuple[Callable[[Path, TrainConfig, Network], None], Callable[[Path, TrainConfig], str], str],
] = {
    "timm": (_write_timm, _describe_timm, "timm"),
    "hf": (_write_timm, _describe_hf, "hf"),
    "official": (_write_official, _describe_official, "official.pth"),
    "detectron2": (_write_detectron2, _describe_detectron2, "detectron2.pth"),
    "seqtrack": (_write_seqtrack, _describe_seqtrack, "seqtrack.pth"),
}
