"""The model card of an exported encoder: README.md as the Hub shows it."""

from training.config.train import TrainConfig, to_yaml
from training.data.normalization import MEAN, STD
from wtours.text import counted, escape_markdown

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
