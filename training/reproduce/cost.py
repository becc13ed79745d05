"""What a plan costs: GPU hours from counted multiplications, disk from counted weights.

    hours = clips an epoch x epochs x TFLOP of a clip / (effective TFLOP/s x 3600)

A clip's TFLOP is counted as `training.flops` does; decoding, the object tracker and the optimizer
are not in it. `wtours estimate` measures a run on the machine at hand instead.
"""

import itertools
import math
from dataclasses import dataclass

from training.config.train import TrainConfig
from training.flops import BackboneShape, clip_tflop, has_teacher

A100_TFLOPS = 40.0
"""Effective TFLOP/s in bfloat16 that the printed hours assume: a guess, good to a factor of 1.5."""
_SMALL = {
    "tiny": (192, 12),
    "small": (384, 12),
    "base": (768, 12),
    "large": (1024, 24),
}
_MOMENTS = 2
"""Of AdamW, in a checkpoint beside the weights of the student and of the teacher."""


@dataclass(frozen=True)
class Cost:
    """What one pretraining run takes."""

    steps: int
    tflop_per_clip: float
    tflops: float
    """Effective TFLOP/s of the device, an assumption."""
    gpu_hours: float
    disk_bytes: int
    """Of the checkpoint that stays."""


def run_cost(config: TrainConfig, *, clips: int, tflops: float = A100_TFLOPS) -> Cost:
    """Return the cost of a run on `clips` clips an epoch.

    Args:
        clips: One from each frame, as the released loader counts an epoch.
    """
    optim = config.optim
    a_epoch = config.data.clips_per_epoch or clips
    steps = optim.steps or round(optim.epochs * (a_epoch // optim.global_batch_size))
    per_clip = clip_tflop(config, _shape(config))
    hours = steps * optim.global_batch_size * per_clip / (tflops * 3600)
    copies = (2 if has_teacher(config) else 1) + _MOMENTS
    shape = _shape(config)
    width, patch = shape.width, shape.patch_size
    of_backbone = shape.depth * 12 * width**2 + 3 * patch**2 * width + math.ceil(width * 200)
    weights = of_backbone + _head_weights(config)
    return Cost(steps, per_clip, tflops, hours, 4 * copies * weights)


def _shape(config: TrainConfig) -> BackboneShape:
    """Return the shape of the backbone, by its name where it is not set."""
    size = next((size for size in _SMALL if f"_{size}_" in config.model.backbone), "small")
    width, depth = _SMALL[size]
    model = config.model
    return BackboneShape(model.embed_dim or width, model.depth or depth, model.patch_size or 16)


def _head_weights(config: TrainConfig) -> int:
    """Return the numbers in the matrices of a method's head."""
    width, model = _shape(config).width, config.model
    hidden, prototypes = model.head_hidden_dim, model.num_prototypes
    widths = {
        "simclr": (width, hidden, config.simclr.output_dim),
        "swav": (width, hidden, config.swav.output_dim, prototypes),
        "vicreg": (width, hidden, hidden, config.vicreg.output_dim),
    }.get(config.method, (width, hidden, hidden, 256, prototypes))
    return sum(rows * columns for rows, columns in itertools.pairwise(widths))
