"""What is fuzzed of the hub: a folder as transformers saves a model; importing it takes seconds."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import transformers

from tests.fuzz.targets import Step, Target
from training.weights.backbones import open_backbone


def _make_hub(folder: Path) -> None:
    sizes: dict[str, Any] = {
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "image_size": 32,
    }
    vit = transformers.ViTConfig(**sizes, intermediate_size=96, patch_size=8)
    dino = transformers.Dinov2Config(**sizes, mlp_ratio=2, patch_size=8)
    transformers.ViTModel(vit).save_pretrained(folder / "vit")
    transformers.Dinov2Model(dino).save_pretrained(folder / "dinov2")
    pixels = '{"do_normalize": true, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}'
    for name in ("vit", "dinov2"):
        (folder / name / "preprocessor_config.json").write_text(pixels)


def _hub_steps(folder: Path) -> Iterable[Step]:
    for name in ("vit", "dinov2"):
        yield partial(open_backbone, f"hf:{folder / name}", Path)


HUB = {"hub": Target(_make_hub, ("*/*",), _hub_steps)}
