"""Settings that a run does not use: of another method, or of a part that is switched off.

A config holds the settings of all methods, so that one file can be tried with each. What is set and
changes nothing is said before training, and not found out afterwards.
"""

from collections.abc import Iterator
from typing import Any

from training.config.methods import MethodName
from training.config.presets import PRESETS, resolve_config
from training.config.train import TrainConfig, flatten

_TRACKED: tuple[MethodName, ...] = ("dora", "dora_images")
_MASKED: tuple[MethodName, ...] = ("ibot", "attmask")
_TAUGHT: tuple[MethodName, ...] = (*_TRACKED, "dino", *_MASKED)
_METHODS: dict[str, tuple[MethodName, ...]] = {
    "tracking": _TRACKED,
    "loss": _TAUGHT,
    "simclr": ("simclr",),
    "swav": ("swav",),
    "vicreg": ("vicreg",),
    "ibot": _MASKED,
    "attmask": ("attmask",),
    "model.num_prototypes": (*_TAUGHT, "swav"),
    "model.norm_last_layer": _TAUGHT,
    "optim.momentum": _TAUGHT,
    "optim.momentum_end": _TAUGHT,
    "optim.freeze_last_layer_epochs": (*_TAUGHT, "swav"),
}
"""The methods that use a section or a field; all use those that are not here."""
_OBJECTS = (
    *("num_heads", "sinkhorn", "epsilon", "iterations", "patch_center", "patch_norm"),
    *("marginals", "attention_scale"),
)
_SINKHORN = ("epsilon", "iterations", "patch_center", "patch_norm", "marginals")


def without_effect(config: TrainConfig) -> list[str]:
    """Return what a config sets and a run of it does not use, a line for each reason.

    Set is what differs from the values that the presets of the method have.
    """
    values = flatten(config.model_dump())
    usual = [
        flatten(resolve_config(name, None, []).model_dump())
        for name, changes in PRESETS.items()
        if changes.get("method", "dora") == config.method
    ]
    given = [key for key, value in values.items() if all(value != one[key] for one in usual)]
    by_reason: dict[str, list[str]] = {}
    unused = dict(_unused(config, values))
    for key in given:
        if key in unused:
            by_reason.setdefault(unused[key], []).append(f"{key}={values[key]}")
    return [
        f"{', '.join(keys)}: without effect on training with {reason}"
        for reason, keys in by_reason.items()
    ]


def _unused(config: TrainConfig, values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each field that training does not use, and the reason; the first of several last."""
    for keys, is_off, reason in _switched_off(config):
        if is_off:
            yield from ((key, reason) for key in keys)
    for key in values:
        methods = _METHODS.get(key) or _METHODS.get(key.partition(".")[0])
        if methods is not None and config.method not in methods:
            yield key, f"method={config.method}"


def _switched_off(config: TrainConfig) -> Iterator[tuple[tuple[str, ...], bool, str]]:
    """Yield fields, whether they are of no use beside others, and those others."""
    data, loss, optim, watch = config.data, config.loss, config.optim, config.watch
    of_local = (
        *("data.local_crop_scale", "augment.local_blur_probability"),
        *("data.local_crop_pixels", "loss.local_crops_skipped"),
    )
    yield of_local, not data.local_crops, "data.local_crops=0"
    yield (
        ("data.frame_interval_seconds", "data.across_cuts"),
        data.clip_length == 1,
        "data.clip_length=1",
    )
    yield (
        ("data.neighborhood_seconds",),
        data.clips_per_neighborhood == 1,
        "data.clips_per_neighborhood=1",
    )
    jitter = tuple(f"augment.{name}" for name in ("brightness", "contrast", "saturation", "hue"))
    yield jitter, not config.augment.jitter_probability, "augment.jitter_probability=0"
    yield _of("tracking", _SINKHORN), not config.tracking.sinkhorn, "tracking.sinkhorn=false"
    yield (
        _of("tracking", _OBJECTS),
        config.tracking.mask == "random_blocks",
        "tracking.mask=random_blocks",
    )
    is_balanced = loss.teacher_centering == "sinkhorn"
    centers = ("loss.center_momentum", "ibot.patch_center_momentum")
    yield centers, is_balanced, "loss.teacher_centering=sinkhorn"
    yield ("loss.sinkhorn_iterations",), not is_balanced, "loss.teacher_centering=mean"
    yield (
        ("loss.warmup_teacher_temp", "ibot.warmup_patch_temp"),
        loss.warmup_teacher_temp_epochs <= 1,
        f"loss.warmup_teacher_temp_epochs={loss.warmup_teacher_temp_epochs:g}",
    )
    yield ("swav.queue_start_epoch",), not config.swav.queue_length, "swav.queue_length=0"
    yield (
        ("attmask.hint_share",),
        config.attmask.kind != "hint",
        f"attmask.kind={config.attmask.kind}",
    )
    yield ("optim.lr_scaling",), optim.lr_clips is None, "optim.lr_clips=null"
    yield ("optim.clip_grad_by",), optim.clip_grad is None, "optim.clip_grad=null"
    of_knn = _of("watch", ("knn_every_steps", "knn_k"))
    yield of_knn, watch.knn_train is None, "watch.knn_train=null"
    yield (
        ("watch.overlay_clips",),
        watch.overlay_every_steps is None,
        "watch.overlay_every_steps=null",
    )


def _of(section: str, fields: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{section}.{field}" for field in fields)
