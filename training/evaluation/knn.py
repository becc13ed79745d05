"""Weighted k-nearest-neighbor classification of frozen features, as DINO evaluates it."""

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from training.data.image_decoding import resize_for
from training.engine.precision import describe_float32
from training.evaluation.datasets.image_folder import open_images, require_known_classes
from training.evaluation.features import FeatureSet, extract_features
from training.evaluation.results import EvalResult, write_result
from training.weights.backbones import Backbone, initial_backbone
from wtours.errors import UsageError
from wtours.progress import Progress, no_progress

TEMPERATURE = 0.07
"""Of the votes' weights; DINO's."""
_IMAGES_AT_ONCE = 128
_SIMILARITIES_AT_ONCE = 2**26
"""Similarities in memory at a time: 256 MiB as float32."""


@dataclass(frozen=True)
class KnnScore:
    """Accuracy for one number of neighbors."""

    k: int
    k_used: int
    """At most the number of training images."""
    top1_percent: float
    """Of the validation images, 0 to 100."""
    top5_percent: float
    """The true class is among the five with most votes; a class without a vote is none of them."""


def knn_scores(
    train: Tensor,
    train_labels: Tensor,
    val: Tensor,
    val_labels: Tensor,
    *,
    ks: Sequence[int],
    temperature: float,
) -> list[KnnScore]:
    """Return the accuracy for each k.

    The k training images with the highest cosine similarity vote for their class, each with the
    weight exp(similarity / temperature). Validation images are taken in pieces, so that any number
    of them works, few and many.

    Args:
        train: (N, D) float32, rows of unit length; its device does the work.
        train_labels: (N,) int64, >= 0.
        val: (M, D) float32, rows of unit length, M >= 1.
        val_labels: (M,) int64.
        ks: Numbers of neighbors, each >= 1; more than N counts as N.
        temperature: Of the weights, > 0.
    """
    num_classes = int(train_labels.max()) + 1
    used = [min(k, len(train)) for k in ks]
    hits = torch.zeros(len(ks), 2, dtype=torch.int64)  # top-1, top-5
    piece = max(1, _SIMILARITIES_AT_ONCE // len(train))
    for part, labels in zip(torch.split(val, piece), torch.split(val_labels, piece), strict=True):
        similarity, neighbors = (part.to(train.device) @ train.T).topk(max(used), dim=1)
        # On the CPU: sums of votes on a GPU would depend on the order of its threads.
        similarity, classes = similarity.cpu().double(), train_labels[neighbors.cpu()]
        for row, k in enumerate(used):
            votes = count_votes(
                similarity[:, :k], classes[:, :k], num_classes=num_classes, temperature=temperature
            )
            hits[row] += top_hits(votes.masked_fill(votes == 0, -torch.inf), labels)
    percent = 100 * hits.double() / len(val)
    return [
        KnnScore(k, k_used, *percent[row].tolist())
        for row, (k, k_used) in enumerate(zip(ks, used, strict=True))
    ]


def top_hits(scores: Tensor, labels: Tensor) -> Tensor:
    """Return how many labels are ranked first, and among the first five, (2,) int64.

    Args:
        scores: (M, C), the highest first; ties go to the class that comes first, and a class with
            -inf is not ranked at all.
        labels: (M,) int64.
    """
    ranked = scores.argsort(dim=1, descending=True, stable=True)[:, :5]
    hit = (ranked == labels[:, None]) & (scores.gather(1, ranked) != -torch.inf)
    return torch.stack([hit[:, 0].sum(), hit.sum()])


def count_votes(
    similarity: Tensor, classes: Tensor, *, num_classes: int, temperature: float
) -> Tensor:
    """Return the votes for each class, (M, C), relative to the nearest neighbor's vote.

    Args:
        similarity: (M, k) floats of the neighbors, the nearest first; the votes are of their dtype.
        classes: (M, k) int64, their classes.
        temperature: See `knn_scores`. Dividing by the nearest neighbor's weight changes no
            order and lets no temperature overflow.
    """
    weights = ((similarity - similarity[:, :1]) / temperature).exp()
    votes = weights.new_zeros(len(similarity), num_classes)
    return votes.scatter_add_(1, classes, weights)


KS = (10, 20, 100, 200)
"""Numbers of neighbors that DINO reports; the paper's tables use 20."""
TEACHER, RANDOM = "teacher", "random_weights"


def evaluate_knn(
    backbone: Backbone,
    train: str,
    val: str,
    *,
    ks: Sequence[int] = KS,
    random_baseline: bool = False,
    on_progress: Progress = no_progress,
) -> EvalResult:
    """Classify labeled images by their nearest neighbors in frozen features, and write the result.

    Args:
        train: Labeled images that vote: see `training.evaluation.datasets.image_folder`.
        val: Labeled images that are classified.
        random_baseline: Whether the network that the run started from is measured beside it.

    Returns:
        The written result; `results` holds `training.evaluation.knn.KnnScore` as dicts, a list
        for "teacher" (the backbone named, whatever it is) and, if asked for, "random_weights".

    Raises:
        UsageError: a random baseline of a backbone that is no run, or of a run that did not start
            from random weights.
        ImageDataError: images that are missing, unreadable or not in class folders.
    """
    train_images, val_images = open_images(train), open_images(val)
    require_known_classes(train_images, val_images)

    networks, device = {TEACHER: backbone.network}, backbone.device
    if random_baseline:
        if backbone.config is None:
            raise UsageError("--random-baseline is of a run; name timm:NAME,random instead")
        networks[RANDOM] = initial_backbone(backbone.config).to(device)
    extract = functools.partial(
        extract_features,
        networks,
        classes=train_images.classes,
        crop_pixels=backbone.crop_pixels,
        batch_size=_IMAGES_AT_ONCE,
        device=device,
        normalization=backbone.normalization,
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
            temperature=TEMPERATURE,
        )
        for name in networks
    }
    return write_result(
        backbone,
        "knn",
        protocol=_protocol(backbone, ks),
        data={
            "train": train_images.describe(train_set.fingerprint),
            "val": val_images.describe(val_set.fingerprint),
        },
        results={name: [asdict(score) for score in of_one] for name, of_one in scores.items()},
        notes=[*train_images.notes, *val_images.notes, *_notes(ks, train_set, val_set)],
    )


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


def _protocol(backbone: Backbone, ks: Sequence[int]) -> dict[str, Any]:
    return {
        "features": "CLS token after the final norm, without the head, L2-normalised",
        "resize_pixels": resize_for(backbone.crop_pixels),
        "resize": "short side, bicubic with antialias",
        "crop_pixels": backbone.crop_pixels,
        "crop": "centre",
        "mean": backbone.normalization.mean,
        "std": backbone.normalization.std,
        "precision": describe_float32(),
        "ks": list(ks),
        "temperature": TEMPERATURE,
        "vote": "exp(cosine similarity / temperature), summed for each class",
    }
