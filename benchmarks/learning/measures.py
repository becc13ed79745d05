"""What bench_learning measures of one backbone; `python -m benchmarks.learning.measures` runs it.

A process of its own for each backbone, so that two can run side by side on two cores.
"""

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.learning.data import BenchData, frames_of, prepare
from training.config.train import TrainConfig
from training.data.image_decoding import crop_center, resize_for
from training.data.normalization import normalized
from training.distributed.world import best_device
from training.evaluation.dense.segmentation import evaluate_segmentation
from training.evaluation.dense.vos import PropagationConfig, evaluate_vos
from training.evaluation.knn import evaluate_knn
from training.methods.object_tracking import draw_heads, object_heads, object_masks
from training.rng import torch_generator
from training.visualization.attention_maps import attend, mask_overlap
from training.weights.backbones import Backbone, open_backbone
from wtours.storage.atomic import write_json
from wtours.synthetic import WalkTruth, load_truth

_CLIP_EVERY = 4
"""Frames between the starts of two clips whose masks are measured."""


def main() -> int:
    """Measure one backbone and publish what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("backbone")
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rendered", action="store_true", help="trained on rendered walks")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = prepare(options.folder, rendered=options.rendered)
    write_json(options.out, measure(options.backbone, data))
    return 0


def measure(name: str, data: BenchData) -> dict[str, Any]:
    """Return everything that is measured of a backbone, percentages but for the masks' IoU."""
    backbone = open_backbone(name, Path)
    backbone.network.to(best_device())
    segment = evaluate_segmentation(backbone, data.segmentation).content
    results = {"segment": segment["results"], "checkpoint": segment["checkpoint"]}
    if data.cifar is not None:
        knn = evaluate_knn(backbone, f"{data.cifar}:train", f"{data.cifar}:val").content
        results["cifar_knn"] = {
            score["k"]: score["top1_percent"] for score in knn["results"]["teacher"]
        }
    for sequences, davis in data.sequences.items():
        masks_dir = backbone.folder / "eval" / "masks" / backbone.label / sequences
        propagation = PropagationConfig(short_side=192)
        followed = evaluate_vos(backbone, davis, config=propagation, masks_dir=masks_dir).content
        results[f"vos_{sequences}"] = followed["results"]["jf_mean_percent"]
    assert backbone.config is not None
    return results | {"masks": measure_masks(backbone, backbone.config, *data.walk)}


def measure_masks(
    backbone: Backbone, config: TrainConfig, video: Path, truth_path: Path
) -> dict[str, float | None]:
    """Return how the tracked masks of a rendered walk agree with its true objects.

    Every head finds an object, up to as many as the run tracks. `instance_iou`: of each mask with
    the true object that it fits best, over all pixels of the clip's frames; mean over masks.
    `overlap`: IoU of two masks of a frame. `whole_frame_iou`: of a mask that hides nothing.
    """
    tracking = config.tracking
    available = object_heads(backbone.network, tracking)
    heads = draw_heads(
        available, min(tracking.num_objects, available), torch_generator(config.seed, "visualize")
    )
    truth, frames = load_truth(truth_path), list(frames_of(video))
    length, pixels = config.data.clip_length, backbone.crop_pixels
    fits: list[float] = []
    overlaps: list[float] = []
    whole: list[float] = []
    for start in range(0, len(frames) - length + 1, _CLIP_EVERY):
        numbers = range(start, start + length)
        crops = [
            crop_center(
                Image.fromarray(frames[number]),
                resize_pixels=resize_for(pixels),
                crop_pixels=pixels,
            )
            for number in numbers
        ]
        inputs = normalized(torch.from_numpy(np.stack(crops)), backbone.normalization)
        maps = attend(backbone.network, inputs, heads, tracking).refined
        instances = [instance_map(truth, number, pixels) for number in numbers]
        fits += best_fits(_enlarged(maps, backbone.patch_pixels, pixels), np.stack(instances))
        whole += best_fits(np.ones((1, length, pixels, pixels), np.bool_), np.stack(instances))
        overlap = mask_overlap(maps)
        overlaps += [] if overlap is None else [overlap]
    return {
        "instance_iou": float(np.mean(fits)),
        "whole_frame_iou": float(np.mean(whole)),
        "overlap": float(np.mean(overlaps)) if overlaps else None,
    }


def instance_map(truth: WalkTruth, frame_index: int, pixels: int) -> NDArray[np.int32]:
    """Return the track number of each pixel of the evaluation's crop, (pixels, pixels); 0: none."""
    whole = np.zeros((truth.height, truth.width), np.int32)
    for row in truth.detections.filter(pc.field("frame_index") == frame_index).to_pylist():
        whole[truth.mask(frame_index, row["track_id"])] = row["track_id"]
    short = min(whole.shape)
    size = (truth.width * resize_for(pixels) // short, truth.height * resize_for(pixels) // short)
    resized = Image.fromarray(whole).resize(size, Image.Resampling.NEAREST)
    left, top = (round((side - pixels) / 2) for side in size)  # as `crop_center`
    return np.asarray(resized.crop((left, top, left + pixels, top + pixels)))


def best_fits(masks: NDArray[np.bool_], instances: NDArray[np.int32]) -> list[float]:
    """Return the IoU of each mask with the object that it fits best; nothing without an object.

    Args:
        masks: (O, T, H, W).
        instances: (T, H, W) numbers of objects, 0 where there is none.
    """
    numbers = [number for number in np.unique(instances) if number]
    if not numbers:
        return []
    return [max(_iou(mask, instances == number) for number in numbers) for mask in masks]


def _iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float((one & other).sum() / max(1, (one | other).sum()))


def _enlarged(maps: torch.Tensor, patch: int, pixels: int) -> NDArray[np.bool_]:
    masks = object_masks(maps[None], mask="binary")[0].bool()
    grid = masks.reshape(*masks.shape[:-1], pixels // patch, pixels // patch).numpy()
    return grid.repeat(patch, axis=-2).repeat(patch, axis=-1)


def means_of_last(rows: Sequence[dict[str, Any]], keys: Sequence[str]) -> dict[str, float]:
    """Return means over the last tenth of the rows of a run's metrics, of what they have."""
    last = list(itertools.islice(reversed(rows), max(1, len(rows) // 10)))
    found = {key: [row[key] for row in last if row.get(key) is not None] for key in keys}
    return {key: float(np.mean(values)) for key, values in found.items() if values}


if __name__ == "__main__":
    raise SystemExit(main())
