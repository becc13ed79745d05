"""Batches of clips for this rank, starting at any step: the next batch depends on the step alone.

The workers only decode and take each clip's frame crop; what is random in the views is drawn here
too (a few numbers), and done on the device by `training.data.multi_crop`.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from training.config.sections import DataConfig
from training.config.train import TrainConfig
from training.data.image_clips import ImageClip, ImageClips
from training.data.multi_crop import ViewDraws, draw_boxes, draw_views
from training.data.source import DataIdentity
from training.rng import numpy_generator
from wtours.errors import ImageDataError, WtoursError
from wtours.shards import Clip, ClipDataset, ClipSampler, ShardIndex
from wtours.shards.sampler import ClipKey
from wtours.shards.schema import DATASET_FILE, set_sha256
from wtours.storage.store import as_location

LOG = logging.getLogger(__name__)


class Batch(NamedTuple):
    """This rank's b clips of a step."""

    frames: Tensor  # (b, T, 3, S, S) uint8, after the frame crop
    draws: ViewDraws  # of b clips
    positions: Tensor  # (b,) int64, in the endless stream of clips


class ClipViews(Dataset[Batch | WtoursError]):
    """Decoded clips by their position in the endless stream, with what is drawn for their views."""

    def __init__(self, source: "ClipSource", config: TrainConfig) -> None:
        self.source = source
        self.data, self.augment, self.seed = config.data, config.augment, config.seed
        self.sampler = source.sampler(config.data, seed=config.seed)

    def batch(self, positions: Sequence[int]) -> Batch:
        """Return the clips at some positions."""
        return default_collate([self._at(position) for position in positions])  # type: ignore[no-any-return]

    def __getitems__(self, positions: Sequence[int]) -> Batch | WtoursError:
        """Return the batch, or the error to raise in the training process: as one line, not two."""
        try:
            return self.batch(positions)
        except WtoursError as error:
            return error

    def describe(self, position: int) -> dict[str, Any]:
        """Return which clip stands at a position, to be found again."""
        return {"position": position, **self.source.describe(self.sampler.key_at(position))}

    def drawn(
        self, position: int, *, height: int, width: int
    ) -> tuple[NDArray[np.int64], ViewDraws]:
        """Return the frame crop (top, left, height, width) of a clip, and what is drawn in it."""
        generator = numpy_generator(self.seed, "views", position)
        box = draw_boxes(
            generator, (), height=height, width=width, scale=self.data.frame_crop_scale
        )
        return box, draw_views(generator, self.data, self.augment)

    def _at(self, position: int) -> Batch:
        frames = self.source[self.sampler.key_at(position)].decode()
        height, width = frames[0].shape[:2]
        box, draws = self.drawn(position, height=height, width=width)
        return Batch(
            frames=crop_frames(frames, box, pixels=self.data.frame_crop_pixels),
            draws=draws,
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


class ShardClips:
    """The encoded clips of a shard set by number; picklable, since workers read it."""

    def __init__(self, shards_dir: Path | str, data: DataConfig) -> None:
        self._clips = open_clips(shards_dir, data)
        self._clip_length = data.clip_length
        if not data.across_cuts and not self._clips.index.shots_known:
            LOG.warning("some videos are not analyzed: their clips may go over cuts")

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, key: ClipKey) -> Clip:
        return self._clips[key]

    def describe(self, key: ClipKey) -> dict[str, Any]:
        """Return the video, frame numbers and times of a clip."""
        frames = [self._clips.index.frame(row) for row in self._clips.clip_rows(key)]
        return {
            "video_id": frames[0].video_id,
            "frame_index": [frame.frame_index for frame in frames],
            "pts_us": [frame.pts_us for frame in frames],
        }

    def sampler(self, data: DataConfig, *, seed: int) -> ClipSampler:
        """Return the order of the clips; `ShardError` if a video of the mixture has none."""
        return self._clips.sampler(
            seed=seed,
            clips_per_epoch=data.clips_per_epoch,
            clips_per_video=data.clips_per_video,
            mixture=data.mixture,
            clips_per_neighborhood=data.clips_per_neighborhood,
            neighborhood_seconds=data.neighborhood_seconds,
        )

    @property
    def identity(self) -> DataIdentity:
        """Return the sha256 of the index, of the set and of its split, and the number of clips."""
        dataset, split = self._clips.index.dataset, self._clips.split
        return DataIdentity(
            dataset.index.sha256,
            len(self),
            set_sha256=set_sha256(dataset.shards),
            split_sha256=None if split is None else split.sha256,
        )

    @property
    def mean_bytes(self) -> float:
        """Return the mean size of a clip's JPEGs."""
        return float(self._clips.index.size.mean()) * self._clip_length


SourceClip = Clip | ImageClip
"""One encoded clip of T frames, or an image as a clip of one."""
ClipSource = ShardClips | ImageClips
"""Encoded clips by number."""


def open_source(
    place: Path | str, data: DataConfig, kind: Literal["clips", "images"]
) -> ClipSource:
    """Return the clips of a shard set, or the images of a folder or tar.

    Every method can be trained on images, as clips of one frame (Table 8 of the paper).

    Raises:
        ShardError: the shard set is missing, damaged, or has no such clip.
        ImageDataError: no image there.
    """
    path = as_location(place)
    if isinstance(path, str):
        if kind == "images":
            raise ImageDataError(f"{path}: images are read from a disk, not from an object store")
        return ShardClips(path, data)
    is_shard_set = path.is_dir() and (path / DATASET_FILE).is_file()
    single_images = data.clip_length == 1 and path.exists() and not is_shard_set
    return ImageClips(path) if kind == "images" or single_images else ShardClips(path, data)


def open_clips(shards_dir: Path | str, data: DataConfig) -> ClipDataset:
    """Return the clips of a shard set.

    Raises:
        ShardError: the shard set is missing, damaged, or has no such clip.
    """
    return ClipDataset(
        ShardIndex.open(shards_dir),
        clip_length=data.clip_length,
        frame_interval_seconds=data.frame_interval_seconds,
        across_cuts=data.across_cuts,
        min_start_distance_seconds=data.min_start_distance_seconds,
        split=data.split,
    )
