"""Small data sets with a label for each pixel, in the layouts that `wtours eval segment` reads."""

import io
import tarfile

import numpy as np
from PIL import Image

from training.evaluation.datasets.segmentation import LAYOUTS

CAMVID, ADE20K = LAYOUTS
COLORS = np.array([(220, 40, 40), (40, 200, 60), (50, 70, 230)], np.uint8)


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def stripes(classes, size=(32, 48)):
    """Return labels (H, W): vertical stripes of the classes, from left to right."""
    height, width = size
    return np.repeat(np.asarray(classes, np.int64), width // len(classes))[None].repeat(height, 0)


def picture(labels, seed=0):
    """Return the picture of labels 0 to 2: a color for each, with noise."""
    noise = np.random.default_rng(seed).normal(0, 12, (*labels.shape, 3))
    return (COLORS[labels] + noise).clip(0, 255).astype(np.uint8)


def write_data(root, layout, splits):
    """Write images and labels below `root`; `splits` is {"train"|"test": list of labels (H, W)}.

    Labels are 0 to C - 1, or -1 for what is not scored.
    """
    seed = 0
    for split, maps in splits.items():
        images, annotations = (root / folder for folder in getattr(layout, split))
        images.mkdir(parents=True)
        annotations.mkdir(parents=True)
        for number, labels in enumerate(maps):
            seed += 1
            Image.fromarray(picture(labels, seed)).save(images / f"{number:03d}.png")
            stored = np.where(labels < 0, layout.void, labels + layout.first).astype(np.uint8)
            (annotations / f"{number:03d}.png").write_bytes(png(stored))
    return root


def pack(root, path, *, within=""):
    """Write a tar of everything below `root`, in one folder if `within` names it."""
    with tarfile.open(path, "w") as tar:
        tar.add(root, arcname=within or ".")
    return path
