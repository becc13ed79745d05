"""Batches of labeled images for training a classifier: decoded and cropped in worker processes."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from training.data.image_decoding import crop_center, decode_rgb, resize_for
from training.evaluation.datasets.image_folder import LabeledImages
from training.rng import derived_seed
from wtours.errors import ImageDataError


class ImageCrops(Dataset[tuple[Tensor, int] | ImageDataError]):
    """A square of each image, (crop, crop, 3) uint8 RGB, and its label.

    With an epoch it is DINO's training crop: RandomResizedCrop (area .08 to 1, bilinear) and a
    flip; without, the center as `training.data.image_decoding.crop_center` takes it. The draws
    for an image follow from the epoch (a seed and a number) and the image's number alone. An image
    that does not decode is given as its error, which a worker process could not raise in one line.
    """

    def __init__(
        self,
        images: LabeledImages,
        *,
        classes: Sequence[str],
        crop_pixels: int,
        epoch: tuple[int, int] | None = None,
    ) -> None:
        self._images = images
        self._label_of = {name: label for label, name in enumerate(classes)}
        self._crop_pixels = crop_pixels
        self._epoch = epoch
        self._draw = v2.Compose([v2.RandomResizedCrop(crop_pixels), v2.RandomHorizontalFlip()])

    def __len__(self) -> int:
        return len(self._images.entries)

    def __getitem__(self, number: int) -> tuple[Tensor, int] | ImageDataError:
        entry = self._images.entries[number]
        resize_pixels = resize_for(self._crop_pixels)
        try:
            image = decode_rgb(
                self._images.source.read(entry.file),
                what=f"{entry.name} of {self._images.spec}",
                short_side=resize_pixels,
            )
        except ImageDataError as error:
            return error
        if self._epoch is None:
            square = crop_center(image, resize_pixels=resize_pixels, crop_pixels=self._crop_pixels)
        else:
            with torch.random.fork_rng(devices=[]):
                seed, epoch = self._epoch
                torch.manual_seed(derived_seed(seed, "crop", epoch, number))
                square = np.asarray(self._draw(image))
        return torch.from_numpy(square.copy()), self._label_of[entry.class_name]


def crop_batches(
    crops: ImageCrops, batches: Sequence[list[int]], *, num_workers: int, pin_memory: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield images (B, crop, crop, 3) uint8 and labels (B,) int64 of each batch of numbers.

    A batch may be empty: then both have no rows.

    Raises:
        ImageDataError: an image does not decode; the message names it.
    """
    loader: DataLoader[tuple[Tensor, int] | ImageDataError] = DataLoader(
        crops,
        batch_sampler=batches,
        collate_fn=_collate,
        num_workers=num_workers,
        pin_memory=pin_memory,
    )
    for batch in loader:
        if isinstance(batch, ImageDataError):
            raise batch
        yield batch


def _collate(
    items: Sequence[tuple[Tensor, int] | ImageDataError],
) -> tuple[Tensor, Tensor] | ImageDataError:
    squares, labels = [], []
    for item in items:
        if isinstance(item, ImageDataError):
            return item
        squares.append(item[0])
        labels.append(item[1])
    if not squares:
        return torch.empty(0, 0, 0, 3, dtype=torch.uint8), torch.empty(0, dtype=torch.int64)
    return torch.stack(squares), torch.tensor(labels)
