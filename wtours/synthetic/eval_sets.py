"""Rendered walks as labeled sets in the layouts of VOC 2012, DAVIS 2017 and ADE20k.

So every evaluation of `wtours eval` can be tried without downloading a data set. Labels are the
rendered truth; the sets are small and say nothing about an encoder's quality.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from wtours.media.reader import open_video
from wtours.storage.atomic import atomic_path, remove
from wtours.synthetic.ground_truth import decode_mask, load_truth

NAMES = ("voc", "davis", "ade20k")
_SECOND_US = 1_000_000
_SEQUENCES, _SEQUENCE_FRAMES, _SEQUENCE_OBJECTS = 2, 6, 3
_IMAGES = 8
_STEP = 2
"""Every second row and column is kept: the sets are to be evaluated in seconds on a CPU."""


@dataclass(frozen=True)
class LabeledFrame:
    """A frame, (H, W, 3) RGB, and its objects, far to near."""

    rgb: NDArray[np.uint8]
    objects: list[dict[str, Any]]

    def paint(self, values: dict[int, int]) -> NDArray[np.uint8]:
        """Return (H, W) uint8: each object's value by its row, 0 where there is none."""
        image = np.zeros(self.rgb.shape[:2], np.uint8)
        for number, row in enumerate(self.objects):
            if number in values:
                x0, y0, x1, y1 = (int(row[name]) for name in ("x0", "y0", "x1", "y1"))
                inside = image[y0:y1, x0:x1]
                inside[decode_mask(row["mask"], width=x1 - x0, height=y1 - y0)] = values[number]
        return image[::_STEP, ::_STEP]


def publish_eval_sets(folder: Path, *, train: Sequence[str], val: str) -> list[Path]:
    """Write <folder>/voc, /davis and /ade20k from the rendered walks in `folder`; return the paths.

    Args:
        folder: Holds <video_id>.mp4 and truth/<video_id>, as `render_walks` makes them.
        train: Walks for the training images (ADE20k's).
        val: The walk that is evaluated on.
    """
    seconds = list(labeled_frames(folder, val, every_us=_SECOND_US))[:_IMAGES]
    for name in NAMES:
        remove(folder / name)
    with atomic_path(folder / "voc") as out:
        _write_voc(out, seconds)
    with atomic_path(folder / "davis") as out:
        _write_davis(out, folder, val)
    with atomic_path(folder / "ade20k") as out:
        _write_ade20k(out, folder, train, seconds)
    return [folder / name for name in NAMES]


def _write_voc(out: Path, images: Sequence[LabeledFrame]) -> None:
    names = [f"2012_{number:06d}" for number in range(len(images))]
    for name, image in zip(names, images, strict=True):
        _write_jpeg(out / "JPEGImages" / f"{name}.jpg", image.rgb)
        annotation = ET.Element("annotation")
        for row in image.objects:
            thing = ET.SubElement(annotation, "object")
            ET.SubElement(thing, "name").text = row["label"]
            box = ET.SubElement(thing, "bndbox")
            x0, y0, x1, y1 = _box(row)
            # VOC counts pixels from 1 and names the last one.
            for side, value in zip(
                ("xmin", "ymin", "xmax", "ymax"), (x0 + 1, y0 + 1, x1, y1), strict=True
            ):
                ET.SubElement(box, side).text = str(value)
        path = out / "Annotations" / f"{name}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        ET.ElementTree(annotation).write(path)
        numbers = {row: row % 254 + 1 for row in range(len(image.objects))}
        _write_png(out / "SegmentationObject" / f"{name}.png", image.paint(numbers))
    _write_list(out / "ImageSets" / "Segmentation" / "val.txt", names)


def _write_davis(out: Path, folder: Path, video_id: str) -> None:
    names: list[str] = []
    sequence: list[LabeledFrame] = []
    tracks: dict[int, int] = {}
    for frame in labeled_frames(folder, video_id, every_us=_SECOND_US // 10):
        if not sequence:  # the largest objects of the first frame are followed
            largest = sorted(frame.objects, key=lambda row: -_area(row))[:_SEQUENCE_OBJECTS]
            tracks = {row["track_id"]: number for number, row in enumerate(largest, 1)}
        sequence.append(frame)
        if len(sequence) == _SEQUENCE_FRAMES:
            name = f"walk-{len(names)}"
            for number, each in enumerate(sequence):
                values = {
                    row: tracks[thing["track_id"]]
                    for row, thing in enumerate(each.objects)
                    if thing["track_id"] in tracks
                }
                _write_jpeg(out / "JPEGImages/480p" / name / f"{number:05d}.jpg", each.rgb)
                _write_png(
                    out / "Annotations/480p" / name / f"{number:05d}.png", each.paint(values)
                )
            names.append(name)
            sequence = []
        if len(names) == _SEQUENCES:
            break
    _write_list(out / "ImageSets" / "2017" / "val.txt", names)


def _write_ade20k(
    out: Path, folder: Path, train: Sequence[str], val: Sequence[LabeledFrame]
) -> None:
    training = [f for video in train for f in labeled_frames(folder, video, every_us=_SECOND_US)]
    splits = {"training": training[:_IMAGES], "validation": val}
    labels = sorted({row["label"] for split in splits.values() for f in split for row in f.objects})
    classes = {label: number for number, label in enumerate(labels, 1)}
    for split, images in splits.items():
        for number, image in enumerate(images):
            values = {row: classes[thing["label"]] for row, thing in enumerate(image.objects)}
            _write_jpeg(out / "images" / split / f"{number:08d}.jpg", image.rgb)
            _write_png(out / "annotations" / split / f"{number:08d}.png", image.paint(values))


def labeled_frames(folder: Path, video_id: str, *, every_us: int) -> Iterator[LabeledFrame]:
    """Yield the frames at whole multiples of `every_us` that show an object."""
    objects = defaultdict(list)
    for row in load_truth(folder / "truth" / video_id).detections.to_pylist():
        objects[row["pts_us"]].append(row)
    with open_video(folder / f"{video_id}.mp4") as video:
        for frame in video.frames():
            if frame.pts_us % every_us == 0 and objects[frame.pts_us]:
                yield LabeledFrame(frame.to_rgb(), objects[frame.pts_us])


def _box(row: dict[str, Any]) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom among the rows and columns that are kept."""
    x0, y0, x1, y1 = (-(-int(row[name]) // _STEP) for name in ("x0", "y0", "x1", "y1"))
    return x0, y0, x1, y1


def _area(row: dict[str, Any]) -> int:
    x0, y0, x1, y1 = _box(row)
    return (x1 - x0) * (y1 - y0)


def _write_jpeg(path: Path, rgb: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        simplejpeg.encode_jpeg(np.ascontiguousarray(rgb[::_STEP, ::_STEP]), quality=95)
    )


def _write_png(path: Path, values: NDArray[np.uint8]) -> None:
    from PIL import Image  # of the extras `analyze` and `train`

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def _write_list(path: Path, names: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names))
