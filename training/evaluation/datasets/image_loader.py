"""Batches of labeled images for training a classifier: decoded and cropped in worker processes."""

import os
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from training.data.image_decoding import crop_center, decode_rgb, resize_for
from training.data.image_files import StoredFile
from training.data.loader import read_by_workers
from training.distributed.world import World
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
        label_of = {name: label for label, name in enumerate(classes)}
        entries = images.entries
        # Arrays: ImageNet's entries would take each worker of each epoch seconds to be sent.
        self._names = np.array([os.fsencode(entry.file.name) for entry in entries])
        self._places = np.array([(entry.file.size, entry.file.place) for entry in entries])
        self._labels = np.array([label_of[entry.class_name] for entry in entries])
        self._start = len(entries[0].file.name) - len(entries[0].name)  # below the class folders
        self._spec, self._source = images.spec, images.source.unlisted()
        self._crop_pixels = crop_pixels
        self._epoch = epoch
        self._draw = v2.Compose([v2.RandomResizedCrop(crop_pixels), v2.RandomHorizontalFlip()])

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, number: int) -> tuple[Tensor, int] | ImageDataError:
        name = os.fsdecode(self._names[number])
        file = StoredFile(name, *self._places[number].tolist())
        resize_pixels = resize_for(self._crop_pixels)
        try:
            image = decode_rgb(
                self._source.read(file),
                what=f"{name[self._start :]} of {self._spec}",
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
        return torch.from_numpy(square.copy()), int(self._labels[number])


def crop_batches(
    crops: ImageCrops, batches: Sequence[list[int]], *, num_workers: int, world: World
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield images (B, crop, crop, 3) uint8 and labels (B,) int64 of each batch of numbers.

    A batch may be empty: then both have no rows.

    Raises:
        ImageDataError: an image does not decode; the message names it.
        TrainingError: a worker was killed, or has no shared memory.
    """
    return read_by_workers(
        crops,
        batches,
        collate=_collate,
        num_workers=num_workers,
        world=world,
        option="--workers ",
    )


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
