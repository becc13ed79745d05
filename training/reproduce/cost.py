"""What a plan costs: GPU hours from counted multiplications, disk from counted weights.

    hours = clips an epoch x epochs x TFLOP of a clip / (effective TFLOP/s x 3600)

A clip's TFLOP is counted for the networks and the head's last layer; decoding, the object tracker
and the optimizer are not in it. `wtours estimate` measures a run on the machine at hand instead.
"""

import math
from dataclasses import dataclass

from training.config.train import TrainConfig

A100_TFLOPS, H200_TFLOPS = 40.0, 150.0
"""Effective TFLOP/s in bfloat16 that the printed hours assume: guesses, good to a factor of 1.5."""
_SMALL = {
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
}
_WEIGHT_COPIES = 5
"""In a checkpoint: student, teacher, two moments of AdamW, and the heads' share, float32."""


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
        config: Of the run.
        clips: One from each frame, as the released loader counts an epoch.
        tflops: Effective TFLOP/s of the device.
    """
    optim = config.optim
    a_epoch = config.data.clips_per_epoch or clips
    steps = optim.steps or round(optim.epochs * (a_epoch // optim.global_batch_size))
    per_clip = clip_tflop(config)
    hours = steps * optim.global_batch_size * per_clip / (tflops * 3600)
    weights = _backbone_weights(config) + config.model.num_prototypes * 257
    return Cost(steps, per_clip, tflops, hours, 4 * _WEIGHT_COPIES * weights)


def clip_tflop(config: TrainConfig) -> float:
    """Return the TFLOP of one clip: forward and backward of the student, forward of the teacher."""
    data = config.data
    large = forward_gmac(config, data.global_crop_pixels)
    small = forward_gmac(config, data.local_crop_pixels)
    student, teacher, locals_ = _views(config)
    head = 256 * config.model.num_prototypes / 1e9
    of_student = student * (large + head) + locals_ * (small + head)
    gmac = 3 * of_student + teacher * (large + head)
    return 2 * gmac * data.clip_length / 1000


def forward_gmac(config: TrainConfig, pixels: int) -> float:
    """Return the billions of multiplications of a ViT's forward pass over one square picture.

    A block of N tokens of width D takes 12 N D^2 in its matrices and 2 N^2 D in its attention.
    """
    width, depth, _ = _shape(config)
    patch = config.model.patch_size or 16
    tokens = (pixels // patch) ** 2 + 1
    block = 12 * tokens * width**2 + 2 * tokens**2 * width
    return (depth * block + (tokens - 1) * 3 * patch**2 * width) / 1e9


def _views(config: TrainConfig) -> tuple[int, int, int]:
    """Return large views of the student and of the teacher, and small views of the student."""
    local = config.data.local_crops
    match config.method:
        case "dora" | "dora_images":
            views = config.data.global_crops
            objects = config.tracking.num_objects * views
            return objects, views, local - config.loss.local_crops_skipped
        case "simclr" | "vicreg":
            return 2, 0, 0
        case "swav":
            return 2, 0, local
        case _:  # a student and a teacher that both see two global crops
            return 2, 2, local


def _shape(config: TrainConfig) -> tuple[int, int, int]:
    """Return width, depth and heads of the backbone, by its name where they are not set."""
    size = next((size for size in _SMALL if f"_{size}_" in config.model.backbone), "small")
    width, depth, heads = _SMALL[size]
    model = config.model
    return model.embed_dim or width, model.depth or depth, model.num_heads or heads


def _backbone_weights(config: TrainConfig) -> int:
    width, depth, _ = _shape(config)
    patch = config.model.patch_size or 16
    return depth * 12 * width**2 + 3 * patch**2 * width + math.ceil(width * 200)
