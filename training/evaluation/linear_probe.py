"""A linear classifier on frozen features, as DINO trains it: the spine of `wtours eval linear`."""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from training.data.normalization import normalized
from training.distributed.collectives import barrier
from training.distributed.world import World
from training.evaluation.datasets.image_folder import (
    LabeledImages,
    open_images,
    require_known_classes,
)
from training.evaluation.datasets.image_loader import ImageCrops, crop_batches
from training.evaluation.linear_classifiers import LinearHeads
from training.evaluation.linear_protocol import (
    History,
    LinearProbeConfig,
    classifier_inputs,
    describe_protocol,
    notes_on,
    summarize,
)
from training.evaluation.results import EvalResult, result_path, write_result
from training.models.vit import encode_blocks
from training.rng import torch_generator
from training.weights.backbones import Backbone
from wtours.errors import CheckpointError
from wtours.progress import Progress, no_progress
from wtours.storage.atomic import write_bytes
from wtours.storage.tensor_files import safetensors_bytes

LOG = logging.getLogger(__name__)
_IMAGES_AT_ONCE = 128


def evaluate_linear(
    backbone: Backbone,
    train: str,
    val: str,
    *,
    config: LinearProbeConfig,
    world: World,
    on_progress: Progress = no_progress,
) -> EvalResult | None:
    """Train linear classifiers on frozen features, measure after each epoch, and write the result.

    Every epoch ends with a checkpoint beside the result (`.safetensors`); the same call resumes
    from it and gives the same result as one that was never stopped. Every rank of torchrun calls
    this; the result does not depend on how many there are (but for rounding).

    Args:
        backbone: From `training.weights.backbones.open_backbone`; moved to the world's device.
        train: Labeled images to train on: see `training.evaluation.datasets.image_folder`; no
            compressed tar.
        val: Labeled images that are measured after each epoch.

    Returns:
        The written result on rank 0, None on the others.

    Raises:
        ImageDataError: images that are missing, unreadable or not in class folders.
    """
    train_images, val_images = open_images(train), open_images(val)
    require_known_classes(train_images, val_images)
    data = {
        name: images.describe(images.fingerprint(world, on_progress))
        for name, images in (("train", train_images), ("val", val_images))
    }
    protocol = describe_protocol(backbone, config)
    backbone.network.to(world.device)
    task = _Task(backbone, train_images.classes, config, world, on_progress)
    state_path = result_path(backbone, "linear", data, [protocol]).with_suffix(".safetensors")
    # Before the weights were part of it.
    earlier_path = state_path.with_name(
        state_path.name.replace(backbone.label, backbone.description["name"], 1)
    )

    val_features, val_labels = task.center_features(val_images)
    heads = LinearHeads(
        val_features.shape[1],
        len(train_images.classes),
        [rate * config.batch_size / 256 for rate in config.rates],
        device=world.device,
        generator=torch_generator(config.seed, "linear weights"),
    )
    weights: str = backbone.description["sha256"]
    history = _resume(state_path if state_path.is_file() else earlier_path, heads, weights)
    for epoch in range(history.epochs_done, config.epochs):
        loss = task.train_epoch(heads, train_images, epoch)
        hits, num_images = heads.hits(val_features, val_labels)
        percent = 100 * hits.double() / num_images
        history.loss.append(loss.tolist())
        history.top1.append(percent[:, 0].tolist())
        history.top5.append(percent[:, 1].tolist())
        if world.is_main:
            header = {"history": json.dumps(vars(history)), "weights": weights}
            write_bytes(state_path, safetensors_bytes(heads.state(), header))
    barrier()
    if not world.is_main:
        return None
    return write_result(
        backbone,
        "linear",
        protocol=protocol,
        data=data,
        results=summarize(config, history),
        notes=[*train_images.notes, *val_images.notes, *notes_on(data)],
        identity=[protocol],
        packages=("torchvision",),
    )


def linear_features(
    backbone: Backbone, images: Tensor, blocks: Sequence[int], *, patch_average: bool
) -> Tensor:
    """Return what the classifiers see of images (B, crop, crop, 3) uint8: (B, F) float32.

    The CLS tokens after `blocks`, each through the final norm, concatenated; then, where asked
    for, the mean of the last block's patch tokens.
    """
    width = backbone.network.embed_dim * (len(blocks) + patch_average)
    device = backbone.device
    parts = [torch.empty(0, width, device=device)]
    with torch.inference_mode():
        for piece in torch.split(images, _IMAGES_AT_ONCE) if len(images) else ():
            pixels = normalized(piece.to(device, non_blocking=True), backbone.normalization)
            tokens = encode_blocks(backbone.network, pixels, blocks)
            columns = [each.cls_token for each in tokens]
            if patch_average:
                columns.append(tokens[-1].patch_tokens.mean(dim=1))
            parts.append(torch.cat(columns, dim=1).float())
    return torch.cat(parts)  # outside of inference mode: the heads differentiate through it


@dataclass(eq=False)
class _Task:
    """What stays the same over the epochs."""

    backbone: Backbone
    classes: tuple[str, ...]
    config: LinearProbeConfig
    world: World
    on_progress: Progress

    def __post_init__(self) -> None:
        self.blocks, self.patch_average = classifier_inputs(self.backbone)

    def center_features(self, images: LabeledImages) -> tuple[Tensor, Tensor]:
        """Return the features and labels of this rank's share of a split, on the device."""
        numbers = torch.arange(len(images.entries))[self.world.rank :: self.world.world_size]
        # Of a rank without images one empty batch, whose features have their width all the same.
        batches = [batch.tolist() for batch in torch.split(numbers, _IMAGES_AT_ONCE)]
        found = self._features(images, batches, epoch=None, item=images.spec)
        features, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
        return features, labels

    def train_epoch(self, heads: LinearHeads, images: LabeledImages, epoch: int) -> Tensor:
        """Train on every image once; return each head's mean loss, (heads,)."""
        config, world = self.config, self.world
        generator = torch_generator(config.seed, "linear order", epoch)
        order = torch.randperm(len(images.entries), generator=generator)
        batches = torch.split(order, config.batch_size)
        shares = [batch[world.rank :: world.world_size].tolist() for batch in batches]
        heads.set_epoch(epoch, config.epochs)
        total = torch.zeros(len(config.rates), device=world.device)
        item = f"epoch {epoch + 1} of {config.epochs}"
        for batch, (features, labels) in zip(
            batches, self._features(images, shares, epoch=epoch, item=item), strict=True
        ):
            total += heads.step(features, labels, batch_size=len(batch)) * len(batch)
        return total / len(order)

    def _features(
        self, images: LabeledImages, batches: list[list[int]], *, epoch: int | None, item: str
    ) -> Iterator[tuple[Tensor, Tensor]]:
        crops = ImageCrops(
            images,
            classes=self.classes,
            crop_pixels=self.backbone.crop_pixels,
            epoch=None if epoch is None else (self.config.seed, epoch),
        )
        device = self.world.device
        done, total = 0, sum(map(len, batches))
        for squares, labels in crop_batches(
            crops,
            batches,
            num_workers=self.config.num_workers,
            world=self.world,
        ):
            features = linear_features(
                self.backbone, squares, self.blocks, patch_average=self.patch_average
            )
            done += len(labels)
            self.on_progress(item, done, total)
            yield features, labels.to(device)


def _resume(path: Path, heads: LinearHeads, weights: str) -> History:
    """Set the heads to what was kept of the same backbone weights (sha256); return their history.

    A name can come to mean other weights: a run trained again, another file of the same name.
    """
    if not path.is_file():
        return History()
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata()
        if header.get("weights") != weights:
            LOG.warning("%s is of other weights of the backbone: starting over", path)
            return History()
        history = History(**json.loads(header["history"]))
        heads.load_state(load_file(path))
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be resumed from ({type(error).__name__}); remove it to start over"
        ) from error
    return history
