"""Video object segmentation by label propagation: the spine of `wtours eval vos`."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from training.data.image_files import FilesSeen
from training.distributed.world import best_device
from training.engine.precision import describe_float32
from training.evaluation.datasets.davis import Sequence, list_sequences, save_indices
from training.evaluation.dense.label_propagation import (
    PropagationConfig,
    normalization_for,
    propagate,
)
from training.evaluation.metrics.davis import BOUNDARY_TOLERANCE, boundary_accuracy, statistics
from training.evaluation.metrics.segmentation import mask_iou
from training.evaluation.results import EvalResult, write_result
from training.weights.backbones import Backbone
from wtours.errors import ImageDataError, UsageError
from wtours.progress import Progress, no_progress
from wtours.storage.atomic import atomic_path, remove, sweep_idle


def evaluate_vos(
    backbone: Backbone,
    davis: Path,
    *,
    split: str = "val",
    config: PropagationConfig | None = None,
    masks_dir: Path | None = None,
    device: torch.device | None = None,
    on_progress: Progress = no_progress,
) -> EvalResult:
    """Propagate each sequence's first masks, compare with the ground truth, and write the result.

    Args:
        davis: The folder, see `training.evaluation.datasets.davis`.
        split: A list in ImageSets/2017.
        masks_dir: Where the masks go, <sequence>/00000.png as the official evaluation reads them;
            masks of the same sequence are replaced. None: in the backbone's folder, eval/vos-masks.

    Raises:
        ImageDataError: files that are missing, unreadable or not laid out as DAVIS's.
        UsageError: `masks_dir` is where the true masks are.
    """
    config = config or PropagationConfig()
    sequences = list_sequences(davis, split)
    backbone.network.to(device or best_device())
    masks_dir = masks_dir or backbone.folder / "eval" / "vos-masks" / backbone.label
    if masks_dir.resolve() == sequences[0].masks[0].parents[1].resolve():
        raise UsageError(f"{masks_dir} holds the true masks of {davis}; choose another --out")
    sweep_idle(masks_dir)
    objects: list[dict[str, Any]] = []
    seen = FilesSeen()
    for sequence in sequences:
        seen.add(sequence.files(davis))
        objects += _measure(backbone, sequence, config, masks_dir, on_progress)
    protocol = _protocol(backbone, config)
    return write_result(
        backbone,
        "vos",
        protocol=protocol,
        data={
            "val": {
                "source": str(davis),
                "split": split,
                "num_sequences": len(sequences),
                "num_objects": len(objects),
                "fingerprint": seen.fingerprint(),
            }
        },
        results=_results(objects) | {"objects": objects},
        identity=[protocol],
        packages=("scipy",),
    )


def _measure(
    backbone: Backbone,
    sequence: Sequence,
    config: PropagationConfig,
    masks_dir: Path,
    on_progress: Progress,
) -> list[dict[str, Any]]:
    """Return the statistics of each object of the first frame; write the masks."""
    num_objects, num_frames = int(sequence.read_mask(0).max()), len(sequence.frames)
    if num_objects == 0:
        raise ImageDataError(f"sequence {sequence.name} has no object in {sequence.masks[0]}")
    scores = np.zeros((2, num_objects, num_frames))
    with atomic_path(masks_dir / sequence.name) as temp:
        temp.mkdir()
        for number, found in enumerate(propagate(backbone, sequence, config)):
            save_indices(temp / sequence.masks[number].name, found)
            if 0 < number < num_frames - 1:
                truth = sequence.read_mask(number)
                if truth.shape != found.shape:
                    raise ImageDataError(
                        f"{sequence.masks[number]} has another size than the first"
                    )
                pairs = [(found == index, truth == index) for index in range(1, num_objects + 1)]
                scores[0, :, number] = [mask_iou(*pair) for pair in pairs]
                scores[1, :, number] = [boundary_accuracy(*pair) for pair in pairs]
            on_progress(sequence.name, number + 1, num_frames)
        remove(masks_dir / sequence.name)  # of an earlier evaluation; now there is a whole one
    measured = scores[:, :, 1:-1]  # as in the official evaluation
    return [
        {
            "sequence": sequence.name,
            "object": index + 1,
            "j": statistics(measured[0, index]),
            "f": statistics(measured[1, index]),
        }
        for index in range(num_objects)
    ]


def _results(objects: list[dict[str, Any]]) -> dict[str, float]:
    """Return the means over all objects, in percent."""
    means = {
        f"{measure}_{part}_percent": 100 * float(np.mean([each[measure][part] for each in objects]))
        for measure in ("j", "f")
        for part in ("mean", "recall", "decay")
    }
    return {"jf_mean_percent": (means["j_mean_percent"] + means["f_mean_percent"]) / 2, **means}


def _protocol(backbone: Backbone, config: PropagationConfig) -> dict[str, Any]:
    normalization = normalization_for(backbone)
    return {
        "features": "patch tokens of the last block after the final norm, L2-normalised",
        **asdict(config),
        "long_side": "floored to a multiple of 64",
        "resize": "bilinear without antialias",
        "mean": normalization.mean,
        "std": normalization.std,
        "precision": describe_float32(),
        "labels": "soft, carried on; bilinear to pixels, each stretched to 0..1, highest wins",
        "boundary_tolerance": BOUNDARY_TOLERANCE,
        "not_measured": "the first and the last frame",
    }
