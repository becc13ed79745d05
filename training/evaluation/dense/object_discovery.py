"""Objects found without training, by attention or LOST's seed expansion: `wtours eval discover`.

Masks are on the grid of patches; boxes are left, top, right, bottom in pixels, ends exclusive.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage
from torch import Tensor
from torchvision.ops import box_iou

from training.data.image_files import FilesSeen
from training.data.normalization import normalized
from training.engine.precision import describe_float32
from training.evaluation.datasets.voc import VocFolder, VocImage
from training.evaluation.metrics.segmentation import Mask, mask_iou
from training.evaluation.results import EvalResult, write_result
from training.models.vit import encode_with_attention
from training.weights.backbones import Backbone
from wtours.progress import Progress, no_progress
from wtours.storage.atomic import atomic_path, sweep_idle
from wtours.text import counted

Box = NDArray[np.float64]

KEPT_MASS = 0.8
"""Share of the attention; the paper, B.3."""
LOST_SEEDS = 100
"""How many patches of low degree LOST expands its seed by."""


@dataclass(frozen=True)
class Found:
    """What was found in one image."""

    mask: Mask
    """(rows, columns) bool, patches of the object or objects."""
    component: Mask
    """(rows, columns) bool, the connected part of the mask that the box is around."""


def by_attention(cls_attention: Tensor, grid: tuple[int, int]) -> Found:
    """Keep the patches that hold most of the CLS token's attention, averaged over the heads.

    Patches are dropped from the weakest on while what is dropped stays within 1 - `KEPT_MASS` of
    the whole, as DINO does it for each head. The box is around the largest 4-connected part, of
    equally large ones around the first by rows: the paper does not say how it makes one.

    Args:
        cls_attention: (A, N) of one image.
        grid: Rows and columns of patches, N in all.
    """
    weights = cls_attention.double().mean(dim=0)
    order = weights.argsort(stable=True)
    dropped_so_far = (weights[order] / weights.sum()).cumsum(dim=0)
    kept = torch.zeros_like(weights, dtype=torch.bool)
    kept[order] = dropped_so_far > 1 - KEPT_MASS
    mask = kept.reshape(grid).cpu().numpy()
    parts, _ = ndimage.label(mask)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return Found(mask, parts == sizes.argmax())


def by_lost(keys: Tensor, grid: tuple[int, int], *, num_seeds: int = LOST_SEEDS) -> Found:
    """Find one object as LOST does: a seed patch unlike the others, and what is like it.

    Two patches are linked where their keys' product is positive. The seed has the fewest links;
    among the `num_seeds` patches with the fewest, those linked to the seed vote: a patch belongs
    to the object if its products with them add up to more than 0. Of that, the 4-connected part
    that holds the seed is the object.

    Args:
        keys: (N, D) of one image's patches, heads concatenated; not normalized.
        grid: Rows and columns of patches, N in all.
    """
    products = keys.float() @ keys.float().T
    links = (products > 0).sum(dim=1) - (products.diagonal() > 0).int()
    order = links.argsort(stable=True)
    seed, low = order[0], order[:num_seeds]
    similar = low[products[seed, low] > 0]
    mask = (products[similar].sum(dim=0) > 0).reshape(grid).cpu().numpy()
    parts, _ = ndimage.label(mask)
    return Found(mask, parts == parts.ravel()[int(seed)])


def box_of(component: Mask, *, patch_pixels: int, size: tuple[int, int]) -> Box:
    """Return the box around a component, (4,), clipped to the image.

    Args:
        component: (rows, columns), some patch of it is True.
        patch_pixels: Side of a patch.
        size: Height and width of the image.
    """
    rows, columns = np.nonzero(component)
    corners = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    height, width = size
    limits = np.array([width, height, width, height], dtype=np.float64)
    return np.minimum(np.array(corners, dtype=np.float64) * patch_pixels, limits)


def to_pixels(mask: Mask, *, patch_pixels: int, size: tuple[int, int]) -> Mask:
    """Return the mask of an image's pixels, size[0] x size[1]: every pixel as its patch."""
    whole = mask.repeat(patch_pixels, axis=0).repeat(patch_pixels, axis=1)
    return whole[: size[0], : size[1]]


Method = Literal["attention", "lost"]
HIT_IOU = 0.5
SPLIT = "Segmentation/val"
"""The 1449 images that the paper measures on."""
_RED, _GREEN = (255, 40, 40), (40, 220, 40)


def evaluate_discover(
    backbone: Backbone,
    voc: Path,
    *,
    split: str = SPLIT,
    method: Method = "attention",
    pictures: Path | None = None,
    on_progress: Progress = no_progress,
) -> EvalResult:
    """Find objects in the images of a VOC folder, compare with its annotations, write the result.

    Args:
        voc: The folder, see `training.evaluation.datasets.voc`.
        split: A list below ImageSets.
        method: "attention": the paper's; "lost": LOST's seed expansion.
        pictures: A folder to draw every image in, with its boxes and masks; None: none are drawn.

    Raises:
        ImageDataError: files that are missing, unreadable or not laid out as VOC's.
    """
    folder = VocFolder(voc, split)
    if pictures is not None:
        sweep_idle(pictures)
    ious: list[float] = []
    jaccards: list[float] = []
    seen = FilesSeen()
    for number, name in enumerate(folder.names, start=1):
        image = folder.read(name)
        found = find_objects(backbone, image.image, method)
        patch, size = backbone.patch_pixels, (image.image.height, image.image.width)
        box = box_of(found.component, patch_pixels=patch, size=size)
        mask = to_pixels(found.mask, patch_pixels=patch, size=size)
        overlaps = box_iou(torch.from_numpy(box[None]), torch.from_numpy(image.boxes))
        ious.append(float(overlaps.max()))
        if image.objects is not None:
            jaccards.append(mask_iou(mask, image.objects, image.void))
        if pictures is not None:
            _draw(pictures / f"{name}.png", image, box, mask)
        seen.add(image.files)
        on_progress(split, number, len(folder.names))

    missing, images = len(ious) - len(jaccards), counted(len(ious), "image")
    note = f"{missing} of {images} without a mask: counted for CorLoc only"
    protocol = _protocol(backbone, method)
    return write_result(
        backbone,
        "discover",
        protocol=protocol,
        data={
            "val": {
                "source": str(voc),
                "split": split,
                "num_images": len(ious),
                "fingerprint": seen.fingerprint(),
            }
        },
        results={
            "corloc_percent": 100 * float(np.mean([iou >= HIT_IOU for iou in ious])),
            "num_hits": sum(iou >= HIT_IOU for iou in ious),
            "mean_best_iou": float(np.mean(ious)),
            "jaccard_percent": 100 * float(np.mean(jaccards)) if jaccards else None,
            "num_images_with_mask": len(jaccards),
        },
        notes=[note] if missing else [],
        identity=[protocol],
        packages=("scipy",),
    )


@torch.inference_mode()
def find_objects(backbone: Backbone, image: Image.Image, method: Method) -> Found:
    """Return what a method finds in one image, at its own size.

    As in LOST the normalized image is filled up with zeros, below and on the right, to whole
    patches.
    """
    patch = backbone.patch_pixels
    pixels = torch.from_numpy(np.asarray(image).copy())[None].to(backbone.device)
    whole = normalized(pixels, backbone.normalization)
    height, width = whole.shape[-2:]
    whole = F.pad(whole, (0, -width % patch, 0, -height % patch))
    grid = whole.shape[-2] // patch, whole.shape[-1] // patch
    tokens = encode_with_attention(backbone.network, whole)
    if method == "attention":
        return by_attention(tokens.cls_attention[0], grid)
    return by_lost(tokens.key[0, :, 1:].transpose(0, 1).flatten(1), grid)


def _draw(path: Path, image: VocImage, box: Box, mask: Mask) -> None:
    """Draw what was found in red (mask and box) over the annotated boxes in green."""
    pixels = np.asarray(image.image).astype(float)
    pixels[mask] = 0.5 * pixels[mask] + 0.5 * np.array(_RED)
    drawing = Image.fromarray(pixels.astype(np.uint8))
    draw = ImageDraw.Draw(drawing)
    for color, boxes in ((_GREEN, image.boxes), (_RED, box[None])):
        for left, top, right, bottom in boxes:
            corners = (left, top, max(left, right - 1), max(top, bottom - 1))
            draw.rectangle(corners, outline=color, width=2)
    with atomic_path(path) as temp:
        drawing.save(temp, "PNG")


def _protocol(backbone: Backbone, method: Method) -> dict[str, Any]:
    how: dict[Method, dict[str, Any]] = {
        "attention": {
            "mask": "patches with most of the last block's CLS attention, mean over heads",
            "kept_mass": KEPT_MASS,
            "box": "around the largest 4-connected part of the mask (the paper does not say)",
        },
        "lost": {
            "mask": "LOST's seed expansion on the last block's keys, not normalised",
            "seeds": LOST_SEEDS,
            "box": "around the 4-connected part that holds the seed",
        },
    }
    return {
        "method": method,
        **how[method],
        "image_size": "native, filled up with zeros to whole patches after normalisation",
        "mask_upsampling": "nearest",
        "mean": backbone.normalization.mean,
        "std": backbone.normalization.std,
        "precision": describe_float32(),
        "ground_truth_boxes": "left and top minus 1; difficult and truncated ones are kept",
        "hit": f"IoU >= {HIT_IOU} with any box of the image",
        "jaccard": "of the mask with all objects together, without void pixels; mean over images",
    }
