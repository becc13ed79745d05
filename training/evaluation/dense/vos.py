"""Video object segmentation by DINO's label propagation: the spine of `wtours eval vos`."""

from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from training.data.image_files import FilesSeen
from training.data.normalization import Normalization, standardized
from training.engine.precision import describe_float32
from training.evaluation.datasets.davis import Sequence, list_sequences, save_indices
from training.evaluation.metrics.davis import BOUNDARY_TOLERANCE, boundary_accuracy, statistics
from training.evaluation.metrics.segmentation import mask_iou
from training.evaluation.results import EvalResult, write_result
from training.models.vit import encode_blocks
from training.weights.backbones import Backbone
from wtours.errors import ImageDataError, UsageError
from wtours.progress import Progress, no_progress
from wtours.storage.atomic import atomic_path, remove, sweep_idle

NORMALIZATION = Normalization((0.485, 0.456, 0.406), (0.228, 0.224, 0.225))
"""Of DINO's script, which has .228 where ImageNet's usual is .229; for backbones of the usual."""
_AT_ONCE = 2**25
"""Similarities in memory at a time: 128 MiB as float32."""


@dataclass(frozen=True)
class PropagationConfig:
    """How labels are propagated; the defaults are DINO's."""

    last_frames: int = 7
    """How many frames before this one are looked at, beside the first."""
    radius: int = 12
    """A patch looks at patches at most so many rows and columns away."""
    top: int = 5
    """A patch takes the masks of the so many patches that are most like it."""
    temperature: float = 0.1
    """A patch's weight is exp(cosine similarity / temperature)."""
    short_side: int = 480
    """Frames are resized so that this is their short side, in pixels."""


@torch.inference_mode()
def propagate(
    backbone: Backbone, sequence: Sequence, config: PropagationConfig
) -> Iterator[NDArray[np.uint8]]:
    """Yield the mask of each frame, (H, W) at the frames' own size; of the first, the given one.

    Memory holds the features and soft masks of `last_frames` + 1 frames.
    """
    first_mask = sequence.read_mask(0)
    yield first_mask
    size = working_size(first_mask.shape[:2], config.short_side, backbone.patch_pixels)
    grid = size[0] // backbone.patch_pixels, size[1] // backbone.patch_pixels
    small = Image.fromarray(first_mask).resize((grid[1], grid[0]), Image.Resampling.NEAREST)
    objects = torch.from_numpy(np.asarray(small).astype(np.int64)).flatten().to(backbone.device)
    first = (
        frame_features(backbone, sequence.read_frame(0), size),
        F.one_hot(objects, int(first_mask.max()) + 1).float(),  # (N, 1 + objects)
    )
    recent: deque[tuple[Tensor, Tensor]] = deque(maxlen=config.last_frames)
    for number in range(1, len(sequence.frames)):
        features = frame_features(backbone, sequence.read_frame(number), size)
        sources = [first, *recent]
        soft = propagate_masks(
            features,
            torch.cat([each for each, _ in sources]),
            torch.cat([each for _, each in sources]),
            grid=grid,
            config=config,
        )
        recent.append((features, soft))
        yield _hard(soft, grid, backbone.patch_pixels, first_mask.shape[:2])


def working_size(size: tuple[int, ...], short_side: int, patch_pixels: int) -> tuple[int, int]:
    """Return the height and width that frames are resized to.

    The short side is `short_side`, the other follows and is floored to a multiple of 64, as in
    DINO's script. Patches that do not divide these: whole patches, and the multiple is 4 of them.
    """
    unit = 64 if 64 % patch_pixels == 0 else 4 * patch_pixels
    short = short_side // patch_pixels * patch_pixels
    height, width = size
    other = int(short * max(size) / min(size)) // unit * unit
    return (other, short) if height > width else (short, other)


def propagate_masks(
    features: Tensor,
    source_features: Tensor,
    source_masks: Tensor,
    *,
    grid: tuple[int, int],
    config: PropagationConfig,
) -> Tensor:
    """Return the soft masks of a frame, (N, C), from those of its source frames.

    Args:
        features: (N, D) of the frame's patches, rows of unit length.
        source_features: (S * N, D) of S source frames, rows of unit length.
        source_masks: (S * N, C), soft.
        grid: Rows and columns of patches, N in all.
        config: See `PropagationConfig`; ties with the last of the top count too.
    """
    places = torch.cartesian_prod(*(torch.arange(n, device=features.device) for n in grid))
    num_sources = len(source_features) // len(features)
    piece = max(1, _AT_ONCE // len(source_features))
    propagated = []
    for part, there in zip(torch.split(features, piece), torch.split(places, piece), strict=True):
        near = ((there[:, None] - places[None]).abs() <= config.radius).all(dim=-1)
        weights = (part @ source_features.T / config.temperature).exp()
        weights = weights * near.repeat(1, num_sources)
        last_of_top = weights.topk(config.top, dim=1).values[:, -1:]
        weights = weights.where(weights >= last_of_top, 0)
        propagated.append(weights @ source_masks / weights.sum(dim=1, keepdim=True))
    return torch.cat(propagated)


def normalization_for(backbone: Backbone) -> Normalization:
    """Return what frames are normalized with: DINO's, or a backbone's own that is another."""
    usual = backbone.normalization == Normalization()
    return NORMALIZATION if usual else backbone.normalization


def frame_features(backbone: Backbone, frame: NDArray[np.uint8], size: tuple[int, int]) -> Tensor:
    """Return the patch tokens of a frame resized to a size, (N, D), rows of unit length."""
    pixels = standardized(resized(frame, size).to(backbone.device), normalization_for(backbone))
    (tokens,) = encode_blocks(backbone.network, pixels, (len(backbone.network.blocks),))
    return F.normalize(tokens.patch_tokens[0].float(), dim=1)


def resized(frame: NDArray[np.uint8], size: tuple[int, int]) -> Tensor:
    """Return a frame as (1, 3, height, width) float32 in [0, 1]: bilinear, without antialias.

    It is OpenCV's linear resize, which DINO uses, but for that one's rounding to whole numbers.
    """
    pixels = torch.from_numpy(frame.copy()).permute(2, 0, 1)[None].float() / 255
    if pixels.shape[-2:] == size:
        return pixels
    return F.interpolate(pixels, size, mode="bilinear", align_corners=False)


def _hard(
    soft: Tensor, grid: tuple[int, int], patch_pixels: int, size: tuple[int, ...]
) -> NDArray[np.uint8]:
    """Return the mask of the most likely object of each pixel, (H, W) at the frames' own size.

    Soft masks are enlarged, each is stretched to run from 0 to 1, and the highest wins.
    """
    maps = soft.T.reshape(1, -1, *grid)
    maps = F.interpolate(maps, scale_factor=patch_pixels, mode="bilinear", align_corners=False)[0]
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    span = high - low
    stretched = torch.where((high > 0) & (span > 0), (maps - low) / span.clamp(min=1e-12), maps)
    indices = stretched.argmax(dim=0).byte().cpu().numpy()
    whole = Image.fromarray(indices).resize((size[1], size[0]), Image.Resampling.NEAREST)
    return np.asarray(whole)


def evaluate_vos(
    backbone: Backbone,
    davis: Path,
    *,
    split: str = "val",
    config: PropagationConfig | None = None,
    masks_dir: Path | None = None,
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
