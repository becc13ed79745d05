"""The settings of a training run: typed, documented field by field, unknown keys refused.

The defaults are the preset `official`, the authors' released code; `training.config.presets` has
the others and merges a preset, a YAML file and `key=value` pairs into one `TrainConfig`.
"""

from collections.abc import Mapping
from typing import Any, Self

import yaml
from pydantic import ValidationError, model_validator

from training.config.methods import (
    REQUIRED,
    WITHOUT_HIDDEN_PATCHES,
    AttmaskConfig,
    IbotConfig,
    LossConfig,
    MethodName,
    SimclrConfig,
    SwavConfig,
    TrackingConfig,
    VicregConfig,
)
from training.config.sections import (
    AugmentConfig,
    CheckpointConfig,
    DataConfig,
    FaultsConfig,
    ModelConfig,
    OptimConfig,
    Section,
    WatchConfig,
    WholeNumber,
)
from wtours.errors import UsageError
from wtours.text import plain


class TrainConfig(Section):
    """Everything that decides what a training run computes."""

    seed: WholeNumber = 0
    """Everything random follows from this, the purpose and the step or clip position."""
    method: MethodName = "dora"
    """DORA; DINO: DORA without tracking and masks; or DORA*, on still images: objects are found and
    not tracked. The presets `dino` and `images` have what goes with them."""
    model: ModelConfig = ModelConfig()
    """Backbone and head."""
    tracking: TrackingConfig = TrackingConfig()
    """Object discovery and tracking."""
    loss: LossConfig = LossConfig()
    """Distillation."""
    simclr: SimclrConfig = SimclrConfig()
    """SimCLR."""
    swav: SwavConfig = SwavConfig()
    """SwAV."""
    vicreg: VicregConfig = VicregConfig()
    """VICReg."""
    ibot: IbotConfig = IbotConfig()
    """Masked patches of iBOT and AttMask."""
    attmask: AttmaskConfig = AttmaskConfig()
    """AttMask."""
    data: DataConfig = DataConfig()
    """Clips and crops."""
    augment: AugmentConfig = AugmentConfig()
    """Photometric changes."""
    optim: OptimConfig = OptimConfig()
    """Length, optimizer and schedules."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """Checkpoints."""
    faults: FaultsConfig = FaultsConfig()
    """Failed and hanging processes."""
    watch: WatchConfig = WatchConfig()
    """Monitors."""

    def with_values(self, section: str, **values: Any) -> Self:
        """Return the config with other values in one section, which are not checked."""
        changed = getattr(self, section).model_copy(update=values)
        return self.model_copy(update={section: changed})

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if 0 < self.data.local_crops < self.loss.local_crops_skipped:
            raise ValueError(
                f"loss.local_crops_skipped ({self.loss.local_crops_skipped}) must not be above "
                f"data.local_crops ({self.data.local_crops})"
            )
        for key, (value, reason) in REQUIRED[self.method].items():
            section, _, field = key.partition(".")
            if getattr(getattr(self, section), field) != value:
                raise ValueError(f"method={self.method} needs {key}={value}: {reason}")
        if self.model.drop_hidden_patches:
            self._check_hidden_patches()
        if self.optim.parallel == "fsdp2":
            self._check_fsdp2()
        if self.optim.warmup_epochs > self.optim.epochs:
            raise ValueError(
                f"optim.warmup_epochs ({self.optim.warmup_epochs:g}) must not be above "
                f"optim.epochs ({self.optim.epochs:g})"
            )
        return self

    def _check_hidden_patches(self) -> None:
        if reason := WITHOUT_HIDDEN_PATCHES.get(self.method):
            raise ValueError(
                f"model.drop_hidden_patches goes without method={self.method}: {reason}"
            )
        if self.tracking.mask not in ("binary", "random_blocks"):
            raise ValueError(
                f"model.drop_hidden_patches goes without tracking.mask={self.tracking.mask}: it "
                f"dims patches and hides none"
            )

    def _check_fsdp2(self) -> None:
        optim, overlay = self.optim, self.watch.overlay_every_steps
        for key, is_set, reason in (
            ("optim.name=lars", optim.name == "lars", "it takes norms of whole weights"),
            ("optim.precision=float16", optim.precision == "float16", "use bfloat16"),
            ("watch.overlay_every_steps", overlay is not None, "one process alone draws it"),
        ):
            if is_set:
                raise ValueError(f"optim.parallel=fsdp2 goes without {key}: {reason}")


def parse_config(value: Any) -> TrainConfig:
    """Return the config in a nested mapping, such as a checkpoint's.

    Raises:
        UsageError: a key or a value that is not allowed; one line, for the first of them.
    """
    try:
        return TrainConfig.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        is_field = bool(key) and not isinstance(first["input"], Mapping)
        detail = f"{key}={first['input']!r:.200}: {message}" if is_field else message
        raise UsageError(f"config: {plain(detail)[:1000]}") from error


def flatten(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return {"section.key": value} of a mapping of sections; a field may be a mapping itself."""
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            flat |= {f"{key}.{field}": inner for field, inner in item.items()}
        else:
            flat[str(key)] = item
    return flat


def to_yaml(config: TrainConfig) -> str:
    """Return the config as YAML that `resolve_config` reads back."""
    return str(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
