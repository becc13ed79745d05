"""How well frozen features tell classes apart: the spine of `wtours eval knn`."""

import functools
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from training.backbones import Backbone, best_device, initial_backbone
from training.features import FeatureSet, extract_features, resize_for
from training.images import LabelledImages, open_images, require_known_classes
from training.knn import TEMPERATURE, knn_scores
from training.results import Published, publish
from wtours.errors import UsageError
from wtours.progress import Progress, no_progress

KS = (10, 20, 100, 200)
"""Numbers of neighbours that DINO reports; the paper's tables use 20."""
TEACHER, RANDOM = "teacher", "random_weights"


def evaluate_knn(  # noqa: PLR0913 - an argument for each thing that a user of the command may say
    backbone: Backbone,
    train: str,
    val: str,
    *,
    ks: Sequence[int] = KS,
    temperature: float = TEMPERATURE,
    batch_size: int = 128,
    random_baseline: bool = False,
    device: torch.device | None = None,
    on_progress: Progress = no_progress,
) -> Published:
    """Classify labelled images by their nearest neighbours in frozen features, and publish it.

    Args:
        backbone: From `training.backbones.open_backbone`.
        train: Labelled images that vote: see `training.images`.
        val: Labelled images that are classified.
        ks: Numbers of neighbours.
        temperature: Of the votes' weights.
        batch_size: Images in one pass of the networks.
        random_baseline: Whether the network that the run started from is measured beside it.
        device: Where the networks run; None: CUDA where there is one.
        on_progress: Counts images of each split.

    Returns:
        The published result; `results` holds `training.knn.KnnScore` as dicts, a list for
        "teacher" (the backbone named, whatever it is) and, if asked for, "random_weights".

    Raises:
        UsageError: a setting out of range, or a random baseline of a backbone that is no run.
        ImageDataError: images that are missing, unreadable or not in class folders.
    """
    _check_settings(ks, temperature, batch_size)
    train_images, val_images = open_images(train), open_images(val)
    require_known_classes(train_images, val_images)

    device = device or best_device()
    networks = {TEACHER: backbone.network.to(device)}
    if random_baseline:
        if backbone.config is None:
            raise UsageError("a random baseline is of a run; name timm:NAME,random instead")
        networks[RANDOM] = initial_backbone(backbone.config).to(device)
    extract = functools.partial(
        extract_features,
        networks,
        classes=train_images.classes,
        crop_pixels=backbone.crop_pixels,
        batch_size=batch_size,
        device=device,
        normalisation=backbone.normalisation,
        on_progress=on_progress,
    )
    train_set, val_set = extract(train_images), extract(val_images)
    scores = {
        name: knn_scores(
            train_set.features[name].to(device),
            train_set.labels,
            val_set.features[name],
            val_set.labels,
            ks=ks,
            temperature=temperature,
        )
        for name in networks
    }
    return publish(
        backbone,
        "knn",
        protocol=_protocol(backbone, ks, temperature),
        data={
            "train": describe_images(train_images, train_set.fingerprint),
            "val": describe_images(val_images, val_set.fingerprint),
        },
        results={name: [asdict(score) for score in of_one] for name, of_one in scores.items()},
        notes=_notes(ks, train_set, val_set),
    )


def describe_images(images: LabelledImages, fingerprint: str) -> dict[str, Any]:
    """Return what a result's JSON says about a split of labelled images."""
    return {
        "source": images.spec,
        "num_images": len(images.entries),
        "num_classes": len(images.classes),
        "fingerprint": fingerprint,
    }


def _check_settings(ks: Sequence[int], temperature: float, batch_size: int) -> None:
    if not ks or min(ks) < 1:
        raise UsageError(f"k ({', '.join(map(str, ks))}) must be one or more numbers >= 1")
    if not temperature > 0:
        raise UsageError(f"temperature ({temperature}) must be > 0")
    if batch_size < 1:
        raise UsageError(f"batch size ({batch_size}) must be >= 1")


def _notes(ks: Sequence[int], train_set: FeatureSet, val_set: FeatureSet) -> list[str]:
    num_train = len(train_set.labels)
    capped = [str(k) for k in ks if k > num_train]
    notes = []
    if capped:
        notes.append(
            f"k={', '.join(capped)}: there are {num_train} training images, so all of them vote"
        )
    if train_set.fingerprint == val_set.fingerprint:
        notes.append("the training and validation images are the same: each finds itself")
    return notes


def _protocol(backbone: Backbone, ks: Sequence[int], temperature: float) -> dict[str, Any]:
    return {
        "features": "CLS token after the final norm, without the head, L2-normalised",
        "resize_pixels": resize_for(backbone.crop_pixels),
        "resize": "short side, bicubic with antialias",
        "crop_pixels": backbone.crop_pixels,
        "crop": "centre",
        "mean": backbone.normalisation.mean,
        "std": backbone.normalisation.std,
        "precision": "float32",
        "ks": list(ks),
        "temperature": temperature,
        "vote": "exp(cosine similarity / temperature), summed for each class",
    }
