"""How good a trained backbone is: the spine of `wtours eval knn`."""

import functools
import importlib.metadata
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer

from training.augment import MEAN, STD
from training.checkpoint import MODEL, find_checkpoint, load_network, read_state
from training.config import TrainConfig
from training.features import FeatureSet, extract_features, resize_for
from training.images import LabelledImages, open_images, require_known_classes
from training.knn import KnnScore, knn_scores
from training.networks import build_network
from training.randomness import derived_seed
from wtours.errors import UsageError
from wtours.fsio import digest, sha256_file, write_json
from wtours.progress import Progress, no_progress

FORMAT = 1
KS = (10, 20, 100, 200)
"""Numbers of neighbours that DINO reports; the paper's tables use 20."""
TEMPERATURE = 0.07
TEACHER, RANDOM = "teacher", "random_weights"


@dataclass(frozen=True)
class KnnReport:
    """Where a k-NN result was published, and what is in it.

    Attributes:
        path: The JSON.
        scores: Of the trained teacher, one for each k.
        random_scores: Of the network that the run started from; None: not asked for.
        notes: What a reader of the numbers must know, a line each.
        content: What the JSON holds; docs/evaluation.md lists its fields.
    """

    path: Path
    scores: list[KnnScore]
    random_scores: list[KnnScore] | None
    notes: list[str]
    content: dict[str, Any]


def evaluate_knn(  # noqa: PLR0913 - an argument for each thing that a user of the command may say
    run: Path,
    train: str,
    val: str,
    *,
    ks: Sequence[int] = KS,
    temperature: float = TEMPERATURE,
    batch_size: int = 128,
    random_baseline: bool = False,
    device: torch.device | None = None,
    on_progress: Progress = no_progress,
) -> KnnReport:
    """Classify labelled images by their nearest neighbours in a run's features, and publish it.

    Args:
        run: A run's folder (its newest whole checkpoint is taken) or one of its checkpoints.
        train: Labelled images that vote: DIR, TAR or TAR:prefix, see `training.images`.
        val: Labelled images that are classified.
        ks: Numbers of neighbours.
        temperature: Of the votes' weights.
        batch_size: Images in one pass of the networks.
        random_baseline: Whether the network that the run started from is measured beside it.
        device: Where the networks run; None: CUDA where there is one.
        on_progress: Counts images of each split.

    Raises:
        UsageError: a setting out of range.
        CheckpointError: no usable checkpoint.
        ImageDataError: images that are missing, unreadable or not in class folders.
    """
    _check_settings(ks, temperature, batch_size)
    checkpoint = find_checkpoint(run)
    train_images, val_images = open_images(train), open_images(val)
    require_known_classes(train_images, val_images)

    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config, network = load_network(checkpoint)
    backbones = {TEACHER: network.backbone.to(device)}
    if random_baseline:
        backbones[RANDOM] = initial_backbone(config).to(device)
    extract = functools.partial(
        extract_features,
        backbones,
        classes=train_images.classes,
        crop_pixels=config.data.global_crop_pixels,
        batch_size=batch_size,
        device=device,
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
        for name in backbones
    }

    notes = _notes(ks, train_set, val_set)
    content = {
        "format": FORMAT,
        "evaluation": "knn",
        "checkpoint": _describe_checkpoint(checkpoint, config),
        "protocol": _protocol(config.data.global_crop_pixels, ks, temperature),
        "train": _describe_images(train_images, train_set),
        "val": _describe_images(val_images, val_set),
        "results": {name: [asdict(score) for score in of_one] for name, of_one in scores.items()},
        "notes": notes,
        "versions": _versions(),
    }
    path = run_dir_of(checkpoint) / "eval" / _file_name(content)
    write_json(path, content)
    return KnnReport(path, scores[TEACHER], scores.get(RANDOM), notes, content)


def initial_backbone(config: TrainConfig) -> VisionTransformer:
    """Return the backbone that a run of this config starts from: its random weights at step 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(config.seed, "weights"))  # as pretrain.build_state
        return build_network(config).backbone.requires_grad_(False).eval()


def run_dir_of(checkpoint: Path) -> Path:
    """Return the run that a checkpoint is of, or the checkpoint where it lies outside a run."""
    parent = checkpoint.absolute().parent
    return parent.parent if parent.name == "checkpoints" else checkpoint


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


def _describe_checkpoint(checkpoint: Path, config: TrainConfig) -> dict[str, Any]:
    step, _, _ = read_state(checkpoint)
    return {
        "name": checkpoint.name,
        "step": step,
        "sha256": sha256_file(checkpoint / MODEL),
        "backbone": config.model.model_dump(mode="json"),
        "seed": config.seed,
    }


def _protocol(crop_pixels: int, ks: Sequence[int], temperature: float) -> dict[str, Any]:
    return {
        "features": "CLS token after the final norm, without the head, L2-normalised",
        "resize_pixels": resize_for(crop_pixels),
        "resize": "short side, bicubic with antialias",
        "crop_pixels": crop_pixels,
        "crop": "centre",
        "mean": MEAN,
        "std": STD,
        "precision": "float32",
        "ks": list(ks),
        "temperature": temperature,
        "vote": "exp(cosine similarity / temperature), summed for each class",
    }


def _describe_images(images: LabelledImages, features: FeatureSet) -> dict[str, Any]:
    return {
        "source": images.spec,
        "num_images": len(images.entries),
        "num_classes": len(images.classes),
        "fingerprint": features.fingerprint,
    }


def _versions() -> dict[str, str]:
    packages = ("wtours", "torch", "timm", "numpy", "pillow")
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {"python": platform.python_version(), **versions}


def _file_name(content: dict[str, Any]) -> str:
    """Return knn-<checkpoint>-<what the images are>.json: other images do not overwrite it."""
    data = digest([content["train"]["fingerprint"], content["val"]["fingerprint"]])[:8]
    return f"knn-{content['checkpoint']['name']}-{data}.json"
