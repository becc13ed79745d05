"""Instance masks made elsewhere, in COCO's format: images, and annotations with RLE masks."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, PositiveInt, ValidationError

from wtours.errors import ShardError
from wtours.exporting.units import Unit
from wtours.layers.source import LayerSource, require_values
from wtours.shards.images.codecs import MAX_PIXELS
from wtours.shards.index import ShardIndex
from wtours.shards.schema import sample_key
from wtours.storage.hashing import sha256_bytes
from wtours.storage.os_errors import explain_os_errors
from wtours.text import first_problem, plain

_MAX_BYTES = 2**30


class _Rle(BaseModel):
    size: tuple[int, int]
    counts: str | list[int]


class _Image(BaseModel):
    id: int | str
    file_name: str
    height: PositiveInt
    width: PositiveInt


class _Annotation(BaseModel):
    image_id: int | str
    segmentation: _Rle
    track_id: PositiveInt | None = None


class _Coco(BaseModel):
    images: list[_Image]
    annotations: list[_Annotation]


class MaskSource(LayerSource):
    """Which object each pixel shows, by the annotations of a COCO file.

    An image is of the frame whose sample key its file is named by, as `wtours shards export --to
    imagefolder` names it; one without annotations shows no object.

    Raises:
        ShardError: the file is damaged, an image is of no frame, or a frame has none (unless that
            is allowed) or two.
    """

    about = (
        "instance masks: (H, W) uint16, the number of each pixel's object, 0 for none: its "
        "track_id, or its place among the annotations of its image, from 1; of two that overlap "
        "the later one"
    )

    def __init__(self, index: ShardIndex, path: Path, *, allow_missing: bool) -> None:
        self._index, self.params = index, {"kind": "masks"}
        self._sizes: dict[int, tuple[int, int]] = {}
        self._objects: dict[int, list[tuple[int, NDArray[np.int64]]]] = defaultdict(list)
        try:
            with explain_os_errors(path):
                if path.stat().st_size > _MAX_BYTES:
                    raise ShardError(f"{path} has more than {_MAX_BYTES} bytes: give fewer frames")
                coco = _Coco.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise ShardError(
                f"{path} is no COCO file of images and RLE masks ({first_problem(error)}); "
                f"annToRLE of pycocotools makes RLE of polygons"
            ) from error
        rows = self._rows(coco.images, path)
        known = np.isin(np.arange(len(index)), list(self._sizes))
        require_values(index, known, allow_missing=allow_missing)
        has_tracks = any(one.track_id is not None for one in coco.annotations)
        for number, one in enumerate(coco.annotations, start=1):
            try:
                row = rows[one.image_id]
                track = one.track_id if has_tracks else len(self._objects[row]) + 1
                if track is None or track >= 2**16:
                    raise ValueError("needs a track_id below 65536, as others have")
                self._objects[row].append((track, _runs(one.segmentation, self._sizes[row])))
            except (KeyError, ValueError) as error:
                what = "is of no image in it" if isinstance(error, KeyError) else str(error)
                raise ShardError(f"{path}: annotation {number} {what}") from error

    def inputs(self, unit: Unit) -> dict[str, str]:
        """Return the sha256 of the unit's masks and times."""
        times = self._index.pts_us[unit.rows.start : unit.rows.stop].tobytes()
        masks = b"".join(
            np.array([place, *self._sizes[row], track, len(runs), *runs]).tobytes()
            for place, row in enumerate(unit.rows)  # the same after other videos
            if row in self._sizes
            for track, runs in self._objects.get(row) or [(0, np.zeros(0, np.int64))]
        )
        return {"masks": sha256_bytes(masks), "times": sha256_bytes(times)}

    def values(self, unit: Unit) -> Iterator[NDArray[np.uint16] | None]:
        """Yield the numbers of each frame's pixels."""
        for row in unit.rows:
            if row not in self._sizes:
                yield None
                continue
            height, width = self._sizes[row]
            numbers = np.zeros(width * height, np.uint16)  # column by column, as the runs
            for track, runs in self._objects.get(row, ()):
                numbers[np.repeat(np.arange(len(runs)) % 2 == 1, runs)] = track
            yield numbers.reshape(width, height).T

    def _rows(self, images: list[_Image], path: Path) -> dict[int | str, int]:
        """Return the row of each image by its id, and note its size."""
        frames = self._index.frames(range(len(self._index)))
        keys = {sample_key(one.video_id, one.frame_index): row for row, one in enumerate(frames)}
        rows: dict[int | str, int] = {}
        for image in images:
            row = keys.get(PurePosixPath(image.file_name).stem)
            if row is None or row in self._sizes or image.id in rows:
                what = "is of no frame of the set" if row is None else "is there twice"
            elif image.height * image.width > MAX_PIXELS:
                what = f"has more than {MAX_PIXELS} pixels"
            else:
                rows[image.id], self._sizes[row] = row, (image.height, image.width)
                continue
            raise ShardError(
                f"{path}: the image {plain(image.file_name)[:80]} {what}: name images by sample "
                f"keys, for example {next(iter(keys))}.jpg"
            )
        return rows


def _runs(mask: _Rle, size: tuple[int, int]) -> NDArray[np.int64]:
    """Return the lengths of the runs outside and inside a mask in turn, column by column.

    Raises:
        ValueError: they do not fill an image of this size.
    """
    counts = _decoded(mask.counts) if isinstance(mask.counts, str) else mask.counts
    if mask.size != size or min(counts, default=0) < 0 or sum(counts) != size[0] * size[1]:
        raise ValueError(f"has a mask that is not of its image's {size[0]} x {size[1]} pixels")
    return np.array(counts, np.int64)


def _decoded(text: str) -> list[int]:
    """Return the counts of a compressed RLE: 5 bits a character, the lowest first.

    From the fourth on a count is the difference to the one before the last.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 30:
            raise ValueError("has an RLE that is none of COCO")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:  # the last character of a count; its highest bit is the sign
            value -= (bits & 16) << (shift - 4)
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("has an RLE that ends within a count")
    return counts
