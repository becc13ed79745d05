"""Presets, and how a preset, a YAML file and `key=value` pairs become one `TrainConfig`.

A preset is what it changes in the defaults of `training.config.train`, which are the released
code's.
"""

import difflib
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from training.config.train import TrainConfig, flatten, parse_config
from wtours.errors import UsageError
from wtours.text import docs_page, first_line, parse_bytes

_DINO: dict[str, Any] = {
    "method": "dino",
    "data.global_crops": 2,
    "loss.local_crops_skipped": 0,
    "loss.object_weights": "mean",
    "loss.reduction": "pairs",
}

_ONE_NETWORK: dict[str, Any] = {
    "data.global_crops": 2,
    "loss.local_crops_skipped": 0,
    # Their recipes decay by 1e-6 with LARS, which says nothing about AdamW; constant, as for
    # MoCo v3's ViTs and in comparisons by DINO's author.
    "optim.weight_decay": 0.05,
    "optim.weight_decay_end": 0.05,
}
"""What methods without a teacher differ in from `official`."""

_IBOT: dict[str, Any] = {
    **_DINO,
    "method": "ibot",
    "model.num_prototypes": 8192,
    "loss.teacher_temp": 0.07,
}

PRESETS: dict[str, dict[str, Any]] = {
    "official": {},
    # It learned as well (docs/explanation/learning.md).
    "fast": {"model.drop_hidden_patches": True},
    # docs/explanation/parity.md has a row for each of these fields.
    "paper": {
        "tracking.mask": "soft",
        "loss.local_crops_skipped": 0,
        "loss.object_weights": "mean",
        "loss.reduction": "sum",
        "data.global_crops": 2,
        "optim.name": "lars",
        "optim.lr_clips": None,
        "optim.min_lr": 1e-6,
    },
    "dino": _DINO,
    "images": {
        "method": "dora_images",
        "data.clip_length": 1,
        # Of one frame, the released code's carried sum would count the first object three times.
        "loss.object_weights": "mean",
    },
    "simclr": {
        "method": "simclr",
        **_ONE_NETWORK,
        "data.local_crops": 0,
        "model.head_hidden_dim": 4096,
    },
    "swav": {
        "method": "swav",
        **_ONE_NETWORK,
        "model.num_prototypes": 3000,
        "model.head_batch_norm": True,
    },
    "vicreg": {
        "method": "vicreg",
        **_ONE_NETWORK,
        "data.local_crops": 0,
        "model.head_batch_norm": True,
    },
    "ibot": _IBOT,
    "attmask": {**_IBOT, "method": "attmask"},
    "demo": {
        # A ViT of 4 blocks on 96-pixel crops: some 2 clips a second on one CPU core.
        "model.backbone": "vit_tiny_patch16_224",
        "model.patch_size": 8,
        "model.depth": 4,
        "model.embed_dim": 192,
        "model.num_heads": 3,
        "model.drop_path_rate": 0.0,
        "model.num_prototypes": 1024,
        "data.clip_length": 4,
        "data.num_workers": 0,
        "data.frame_crop_pixels": 128,
        "data.global_crop_pixels": 96,
        "data.local_crops": 5,
        "data.local_crop_pixels": 48,
        # A moving mean stays uniform in runs as short as this; these two learn.
        "model.head_batch_norm": True,
        "loss.teacher_centering": "sinkhorn",
        "loss.local_crops_skipped": 0,
        # Sharper than the released code's .04: on drives of 305 frames, 200 steps brought the local
        # loss as far as 300 steps at .04, and the masked loss further.
        "loss.teacher_temp": 0.02,
        "loss.warmup_teacher_temp": 0.02,
        "optim.global_batch_size": 4,
        "optim.epochs": 10,
        "optim.steps": 200,
        "optim.lr": 6e-4,
        "optim.lr_clips": None,
        "optim.warmup_epochs": 1,
        "optim.momentum": 0.99,
        "optim.momentum_end": 0.999,
        "optim.freeze_last_layer_epochs": 0,
        "checkpoint.every_steps": 50,
    },
}
"""What each preset changes in the defaults, as {"section.key": value}."""

ABOUT = {
    "official": "DORA as the released code trains it",
    "fast": "official, but what the masks hide is not computed: other weights, in less time",
    "paper": "DORA as the paper describes it, where the code differs",
    "dino": "DINO on the same clips, crops and optimizer",
    "images": "DORA* on single images (Table 8)",
    "simclr": "SimCLR on the same clips and optimizer: two views of an image against all others",
    "swav": "SwAV on the same clips, crops and optimizer: views predict each other's cluster",
    "vicreg": "VICReg on the same clips and optimizer: two views alike, all dimensions in use",
    "ibot": "iBOT on the same clips, crops and optimizer: DINO and masked patches",
    "attmask": "AttMask on the same: iBOT that masks what its teacher attends to",
    "demo": "a small DORA, minutes on a CPU",
}
"""What each preset is, in a few words; docs/reference/methods.md says more of the methods."""


_MAX_YAML_BYTES = 2**20
_NOT_YAML = (yaml.YAMLError, ValueError, RecursionError)
"""ValueError: no UTF-8, a date that is none, a number of thousands of digits."""


def resolve_config(preset: str, config_file: Path | None, overrides: Sequence[str]) -> TrainConfig:
    """Return a preset changed by a YAML file, then by "section.key=value" pairs (values are YAML).

    Raises:
        UsageError: an unknown preset or key (the message has near matches), a value that is not
            allowed, a file that is absent or not a YAML mapping.
    """
    if preset not in PRESETS:
        raise UsageError(f"unknown preset {preset!r}; there are: {', '.join(PRESETS)}")
    flat = flatten(TrainConfig().model_dump()) | PRESETS[preset]
    if config_file is not None:
        flat |= _checked(flatten(_read_mapping(config_file)), known=flat)
    flat |= _checked(dict(_parse_override(text) for text in overrides), known=flat)
    return parse_config(_nest(flat))


def chosen_keys(config_file: Path | None, overrides: Sequence[str]) -> frozenset[str]:
    """Return the "section.key" that a YAML file and "section.key=value" pairs name."""
    of_file = flatten(_read_mapping(config_file)) if config_file is not None else {}
    return frozenset(of_file) | {_parse_override(text)[0] for text in overrides}


@dataclass(frozen=True)
class GpuMemory:
    """The memory that a step of one process has to fit, of `--gpu-memory`."""

    bytes: float
    fixed: Set[str] = frozenset()
    """Keys "section.field" that the user has chosen, which stay as they are."""


def parse_memory(text: str) -> float:
    """Return "24GB", "24" or "24GiB" as bytes.

    Raises:
        UsageError: it is no amount of memory, or less than 1 GB.
    """
    size = parse_bytes(text, bare="G")
    if size < 1e9:
        raise UsageError(f"--gpu-memory {text!r}: write for example 24GB")
    return size


def differing_fields(one: str, other: str) -> dict[str, tuple[Any, Any]]:
    """Return {"section.key": (value in `one`, value in `other`)} of the fields that differ.

    Raises:
        UsageError: an unknown preset.
    """
    ours, theirs = (flatten(resolve_config(name, None, []).model_dump()) for name in (one, other))
    return {key: (ours[key], theirs[key]) for key in ours if ours[key] != theirs[key]}


def _nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        section, _, name = key.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[name] = value
    return nested


def _checked(given: dict[str, Any], *, known: Mapping[str, Any]) -> dict[str, Any]:
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key[:100], known, n=3)
            by_name = [name for name in known if name.rpartition(".")[2] == key.rpartition(".")[2]]
            meant = ", ".join(dict.fromkeys(by_name + near))
            hint = f"did you mean: {meant}?" if meant else f"see {docs_page('reference/settings')}"
            raise UsageError(f"unknown config key {key[:100]!r}; {hint}")
    return given


def _parse_override(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(
            f"--set {text[:200]!r}: write it as key=value, for example optim.steps=500"
        )
    try:
        return key.strip(), _load_yaml(value)
    except _NOT_YAML as error:
        raise UsageError(f"--set {text[:200]!r}: the value is not YAML") from error


def _read_mapping(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_YAML_BYTES + 1)
        if len(data) > _MAX_YAML_BYTES:
            raise UsageError(f"config file {path} is larger than {_MAX_YAML_BYTES} bytes")
        value = _load_yaml(data.decode())
    except OSError as error:
        raise UsageError(f"config file {path} cannot be read: {error.strerror}") from error
    except _NOT_YAML as error:
        raise UsageError(f"config file {path} is not YAML ({first_line(error)})") from error
    if not isinstance(value, Mapping):
        raise UsageError(f"config file {path} must hold a mapping of sections to fields")
    return value


def _load_yaml(text: str) -> Any:
    """Return what YAML says, without aliases: a few lines of them stand for gigabytes."""
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
        raise yaml.YAMLError("it has aliases (*name), which a config does not need")
    return yaml.safe_load(text)
