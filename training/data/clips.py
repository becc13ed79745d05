"""Batches of clips for this rank, starting at any step: the next batch depends on the step alone.

The workers only decode and take each clip's frame crop; what is random in the views is drawn here
too (a few numbers), and done on the device by `training.data.multi_crop`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from training.config.sections import AugmentConfig, DataConfig
from training.config.train import TrainConfig
from training.data.image_clips import StillImages
from training.data.multi_crop import ViewDraws, draw_boxes, draw_views
from training.rng import numpy_generator
from wtours.errors import TrainingError, WtoursError
from wtours.shards import ClipDataset, ClipSampler, ShardIndex


class Batch(NamedTuple):
    """This rank's b clips of a step."""

    frames: Tensor  # (b, T, 3, S, S) uint8, after the frame crop
    draws: ViewDraws  # of b clips
    positions: Tensor  # (b,) int64, in the endless stream of clips


Clips = ClipDataset | StillImages
"""What is trained on, by number."""


class ClipViews(Dataset[Batch | WtoursError]):
    """Decoded clips by their position in the stream, with what is drawn for their views.

    Args:
        clips: The shard set's clips, or still images.
        sampler: Says which clip stands at a position.
        data: Crops.
        augment: Photometric changes.
        seed: Of the run.
    """

    def __init__(
        self,
        clips: Clips,
        sampler: ClipSampler,
        *,
        data: DataConfig,
        augment: AugmentConfig,
        seed: int,
    ) -> None:
        self.clips = clips
        self.sampler = sampler
        self.data = data
        self.augment = augment
        self.seed = seed

    def __getitems__(self, positions: Sequence[int]) -> Batch | WtoursError:
        """Return the batch, or the error to raise in the training process: as one line, not two."""
        try:
            return default_collate([self._at(position) for position in positions])  # type: ignore[no-any-return]
        except WtoursError as error:
            return error

    def describe(self, position: int) -> dict[str, Any]:
        """Return which clip stands at a position, to be found again: video, frames and times."""
        number = self.sampler.clip_at(position)
        if isinstance(self.clips, StillImages):
            return {"position": position, **self.clips.describe(number)}
        rows = self.clips.clip_rows(number)
        frames = [self.clips.index.frame(row) for row in rows]
        return {
            "position": position,
            "video_id": frames[0].video_id,
            "frame_index": [frame.frame_index for frame in frames],
            "pts_us": [frame.pts_us for frame in frames],
        }

    def _at(self, position: int) -> Batch:
        frames = self.clips[self.sampler.clip_at(position)].decode()
        generator = numpy_generator(self.seed, "views", position)
        height, width = frames[0].shape[:2]
        box = draw_boxes(
            generator, (), height=height, width=width, scale=self.data.frame_crop_scale
        )
        return Batch(
            frames=crop_frames(frames, box, pixels=self.data.frame_crop_pixels),
            draws=draw_views(generator, self.data, self.augment),
            positions=torch.tensor(position),
        )


def crop_frames(
    frames: Sequence[NDArray[np.uint8]], box: NDArray[np.int64], *, pixels: int
) -> Tensor:
    """Return one box of every frame, resized, (T, 3, pixels, pixels) uint8.

    Bilinear without antialias, as in the released code.

    Args:
        frames: T arrays (H, W, 3).
        box: (4,) top, left, height, width in pixels.
        pixels: Side wanted.
    """
    top, left, height, width = box.tolist()
    stacked = torch.from_numpy(
        np.stack([frame[top : top + height, left : left + width] for frame in frames])
    )
    resized = F.interpolate(
        stacked.permute(0, 3, 1, 2), (pixels, pixels), mode="bilinear", align_corners=False
    )
    return resized.contiguous()


def open_data(path: Path, config: TrainConfig) -> Clips:
    """Return what the config's method is trained on: a shard set's clips, or images.

    Raises:
        ShardError: the shard set is missing, damaged, or has no such clip.
        ImageDataError: no image there.
    """
    if config.method == "dora_images":
        return StillImages(path)
    return open_clips(path, config.data)


def open_clips(shards_dir: Path, data: DataConfig) -> ClipDataset:
    """Return the clips of a shard set.

    Raises:
        ShardError: the shard set is missing, damaged, or has no such clip.
    """
    return ClipDataset(
        ShardIndex.open(shards_dir),
        clip_length=data.clip_length,
        frame_interval_seconds=data.frame_interval_seconds,
        across_cuts=data.across_cuts,
    )


def steps_in_epoch(num_clips: int, data: DataConfig, *, global_batch_size: int) -> int:
    """Return how many whole batches an epoch has.

    Raises:
        TrainingError: not one.
    """
    clips = data.clips_per_epoch or num_clips
    if clips < global_batch_size:
        raise TrainingError(
            f"an epoch of {clips} clips (the shards hold {num_clips}) does not fill a batch of "
            f"{global_batch_size}: lower optim.global_batch_size, raise data.clips_per_epoch, or "
            f"shard more video"
        )
    return clips // global_batch_size
