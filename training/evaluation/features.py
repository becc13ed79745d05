"""Features of labeled images from frozen backbones, in bounded memory.

One pass over the images serves every backbone: reading and decoding cost more than a small network.
"""

import itertools
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from training.data.image_decoding import decode_center, resize_for
from training.data.image_files import fingerprint
from training.data.normalization import Normalization, normalized
from training.evaluation.datasets.image_folder import ImageEntry, LabeledImages
from training.models.vit import encode, evaluating
from wtours.progress import Progress, no_progress
from wtours.storage.hashing import sha256_bytes

_MAX_DECODERS = 8


@dataclass(frozen=True)
class FeatureSet:
    """What backbones make of one split; rows are ordered by the images' names."""

    features: dict[str, Tensor]
    """(N, D) float32 on the CPU, rows of unit length, for each backbone's name."""
    labels: Tensor
    """(N,) int64, positions in the list of classes."""
    fingerprint: str
    """sha256 over the sorted names, sizes and sha256 of the encoded images: equal for the same
    images in a folder and in a tar."""


def extract_features(
    backbones: Mapping[str, VisionTransformer],
    images: LabeledImages,
    *,
    classes: tuple[str, ...],
    crop_pixels: int,
    batch_size: int,
    device: torch.device,
    normalization: Normalization | None = None,
    on_progress: Progress = no_progress,
) -> FeatureSet:
    """Return the CLS token after the final norm, L2-normalized, of each image and backbone.

    Images are resized and cropped as `training.data.image_decoding.decode_center` does. Memory
    holds one batch of images and all features.

    Args:
        backbones: From `training.models.vit.build_backbone`, on `device`; left in their mode.
        classes: What the labels count; every class of `images` is among them.
        crop_pixels: Side of the central square that the backbones see.
        normalization: Of the pixels; None: ImageNet's.

    Raises:
        ImageDataError: an image does not decode; the message names it.
    """

    def decode(item: tuple[ImageEntry, bytes]) -> NDArray[np.uint8]:
        return decode_center(
            item[1],
            what=f"{item[0].name} of {images.spec}",
            resize_pixels=resize_for(crop_pixels),
            crop_pixels=crop_pixels,
        )

    entries: list[ImageEntry] = []
    digests: list[str] = []
    parts: dict[str, list[Tensor]] = {name: [] for name in backbones}
    encoded = images.read()
    with ThreadPoolExecutor(min(_MAX_DECODERS, os.cpu_count() or 1)) as decoders:
        while batch := list(itertools.islice(encoded, batch_size)):
            pixels = np.stack(list(decoders.map(decode, batch)))
            batch_images = normalized(torch.from_numpy(pixels).to(device), normalization)
            for name, backbone in backbones.items():
                with torch.inference_mode(), evaluating(backbone):
                    tokens = encode(backbone, batch_images).float()
                    parts[name].append(F.normalize(tokens, dim=-1).cpu())
            entries += [entry for entry, _ in batch]
            digests += [sha256_bytes(data) for _, data in batch]
            on_progress(images.spec, len(entries), len(images.entries))

    order = sorted(range(len(entries)), key=lambda row: entries[row].name)
    label_of = {class_name: label for label, class_name in enumerate(classes)}
    return FeatureSet(
        features={name: torch.cat(rows)[order] for name, rows in parts.items()},
        labels=torch.tensor([label_of[entries[row].class_name] for row in order]),
        fingerprint=fingerprint(
            (entries[row].name, entries[row].file.size, digests[row]) for row in order
        ),
    )
