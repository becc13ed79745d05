"""The objects that a run's teacher finds in a frame and tracks, for any frames that follow."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from training.data.image_decoding import crop_center, resize_for
from training.data.normalization import normalized
from training.distributed.world import best_device
from training.engine.checkpoint import load_trained
from training.engine.checkpoint_files import find_checkpoint
from training.engine.precision import numerics
from training.visualization.attention_maps import attend, shown_heads


class RunTracker:
    """Of the newest whole checkpoint of a run; its heads are those that `visualize` draws.

    Args:
        run: A run's folder, or one of its checkpoints.
        device: Where the network runs; None: CUDA where there is one.

    Attributes:
        clip_seconds: Of the clips that it was trained on.
        params: What decides the maps; JSON.

    Raises:
        CheckpointError: no usable checkpoint.
    """

    def __init__(self, run: Path, *, device: torch.device | None = None) -> None:
        of = load_trained(find_checkpoint(run))
        self._config = of.config
        self._device = device or best_device()
        self._backbone = of.network.backbone.to(self._device)
        self._heads = shown_heads(self._backbone, self._config)
        data = self._config.data
        self.clip_seconds: float = data.clip_length * data.mean_interval_seconds
        self.params: dict[str, Any] = {
            "model_sha256": of.sha256,
            "heads": self._heads.tolist(),
            "crop_pixels": data.global_crop_pixels,
            "tracking": self._config.tracking.model_dump(mode="json"),
        }

    def track(self, frames: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Return where the objects of the first of T frames are in each, by equation 6.

        Args:
            frames: (H, W, 3) RGB.

        Returns:
            (T, O, h, w), a share of each object for every patch of the center crop.
        """
        pixels = self._config.data.global_crop_pixels
        crops = [
            crop_center(
                Image.fromarray(frame), resize_pixels=resize_for(pixels), crop_pixels=pixels
            )
            for frame in frames
        ]
        inputs = normalized(torch.from_numpy(np.stack(crops))).to(self._device)
        with numerics(self._config.optim, self._device):
            maps = attend(self._backbone, inputs, self._heads, self._config.tracking).refined
        side = math.isqrt(maps.shape[-1])
        by_frame: NDArray[np.float32] = maps.transpose(0, 1).numpy()
        return by_frame.reshape(len(frames), len(self._heads), side, side)
