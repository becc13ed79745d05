"""Images, boxes and masks in the layout of Pascal VOC.

JPEGImages/<name>.jpg   Annotations/<name>.xml   ImageSets/<folder>/<split>.txt
SegmentationObject/<name>.png or SegmentationClass/<name>.png (where there are any)
"""

import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.data.image_decoding import decode_indices, decode_rgb
from training.data.image_files import read_file, read_names
from wtours.errors import ImageDataError

VOID = 255
"""Value of the pixels along the outlines, which belong to nothing."""
_MASKS = ("SegmentationObject", "SegmentationClass")
_SIDES = {"xmin": 1, "ymin": 1, "xmax": 0, "ymax": 0}


@dataclass(frozen=True)
class VocImage:
    """One annotated image."""

    name: str
    """Without the suffix."""
    image: Image.Image
    """RGB."""
    boxes: NDArray[np.float64]
    """(G, 4) float64, left, top, right, bottom of each object, ends exclusive. The file's count
    from 1 and name the last pixel, so 1 is taken from left and top alone (as in LOST and
    detectron2). Difficult and truncated objects are kept."""
    objects: NDArray[np.bool_] | None
    """(H, W) bool, pixels of any object; None: the image has no mask."""
    void: NDArray[np.bool_] | None
    """(H, W) bool, pixels that count neither way; None: the image has no mask."""
    files: dict[str, bytes]
    """Name and content of every file that was read."""


class VocFolder:
    """The images of one split, listed but not read.

    Args:
        root: The folder with JPEGImages; one that holds VOCdevkit/VOC2012 or VOC2012 will do.
        split: A list below ImageSets, for example Segmentation/val.

    Raises:
        ImageDataError: no such layout or list, or an empty list.
    """

    def __init__(self, root: Path, split: str) -> None:
        inside = (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012")
        self.root = next((path for path in inside if (path / "JPEGImages").is_dir()), root)
        self.split = split
        for needed in ("JPEGImages", "Annotations", "ImageSets"):
            if not (self.root / needed).is_dir():
                raise ImageDataError(f"{root} is not laid out as VOC: it has no folder {needed}")
        path = self.root / "ImageSets" / f"{split}.txt"
        if not path.is_file():
            lists = sorted(
                str(file.relative_to(self.root / "ImageSets").with_suffix(""))
                for file in (self.root / "ImageSets").glob("*/*.txt")
                if "_" not in file.stem
            )
            raise ImageDataError(f"{root} has no split {split!r}; it has {', '.join(lists[:12])}")
        self.names = read_names(path)  # a list of one class has -1, 0 or 1 behind each name

    def read(self, name: str) -> VocImage:
        """Return one image with its annotations.

        Raises:
            ImageDataError: a file is missing or unreadable, or a mask has another size.
        """
        photo, annotation = f"JPEGImages/{name}.jpg", f"Annotations/{name}.xml"
        files = {file: read_file(self.root / file) for file in (photo, annotation)}
        image = decode_rgb(files[photo], what=f"{name} of {self.root}")
        boxes = _boxes(files[annotation], f"annotation {name} of {self.root}")
        objects = void = None
        mask = next((m for m in _MASKS if (self.root / m / f"{name}.png").is_file()), None)
        if mask is not None:
            file = f"{mask}/{name}.png"
            files[file] = read_file(self.root / file)
            values = decode_indices(files[file], what=f"mask {self.root / file}")
            if values.shape != (image.height, image.width):
                raise ImageDataError(
                    f"mask {file} of {self.root} is {values.shape[1]}x{values.shape[0]}, its image "
                    f"{image.width}x{image.height}"
                )
            void = values == VOID
            objects = (values > 0) & ~void
        return VocImage(name, image, boxes, objects, void, files)


def _boxes(xml: bytes, what: str) -> NDArray[np.float64]:
    if b"<!DOCTYPE" in xml or b"<!ENTITY" in xml:  # entities can make gigabytes of a line
        raise ImageDataError(f"{what} has a document type, which VOC's do not")
    try:
        found = [
            [float(box.findtext(side, "")) - shift for side, shift in _SIDES.items()]
            for box in ET.fromstring(xml).iterfind("object/bndbox")
        ]
    except (ET.ParseError, ValueError) as error:
        raise ImageDataError(f"{what} cannot be read ({error})") from error
    if not found:
        raise ImageDataError(f"{what} has no object with a box")
    boxes = np.array(found)
    if not np.isfinite(boxes).all() or (boxes[:, 2:] <= boxes[:, :2]).any():
        raise ImageDataError(f"{what} has a box without area")
    return boxes
