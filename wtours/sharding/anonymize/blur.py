"""Blurring parts of a frame before it is encoded: boxes from a file, and faces.

Boxes are in pixels of the full upright frame, as `analyze` writes detections; blurring is done on
the planes of the reduced frame that a JPEG holds, so that whatever is not blurred is as in a set
without blurring. Everything in it is whole numbers, so that the same pixels come out anywhere.
"""

import functools
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from wtours.errors import ShardError
from wtours.media.frame import Frame, YuvPlanes
from wtours.sharding.anonymize.centerface import FaceFinder, enlarged, find_weights
from wtours.shards.params import BlurParams
from wtours.shards.schema import BLUR_BOXES_FILE
from wtours.storage.hashing import sha256_of_shared
from wtours.storage.working_copy import bring

BOX_SIDES = ("x0", "y0", "x1", "y1")
"""Columns of a file of boxes: pixels of the full upright frame."""
_PASSES = 2


class Blur:
    """Blurs the frames of one segment.

    Args:
        directory: The shard set, which holds the boxes.
        params: What to blur.
        video_id: The video.
        interval_us: [start, end) of the segment.
        source_size: (width, height) of the upright video.
        period_us: From one source frame to the next; a box belongs to the frame that is at most
            half of it away.

    Raises:
        ShardError: the boxes or the weights are not those of `params`.
    """

    def __init__(
        self,
        directory: Path,
        params: BlurParams,
        video_id: str,
        *,
        interval_us: tuple[int, int],
        source_size: tuple[int, int],
        period_us: float,
    ) -> None:
        self._params = params
        self._source_size = source_size
        self._tolerance_us = int(period_us / 2)
        start_us, end_us = interval_us
        self._pts_us, self._boxes = np.empty(0, np.int64), np.empty((0, 4))
        if params.boxes_sha256 is not None:
            path = directory / BLUR_BOXES_FILE
            bring(path)
            _require_sha256(path, params.boxes_sha256)
            self._pts_us, self._boxes = _read_boxes(
                path, video_id, start_us - self._tolerance_us, end_us + self._tolerance_us
            )

    def apply(self, frame: Frame, short_side: int) -> tuple[YuvPlanes, dict[str, float]]:
        """Return the planes of the reduced frame, blurred, and what was; see `blurred`."""
        planes = frame.to_jpeg_planes(short_side)
        height, width = planes[0].shape
        first, end = np.searchsorted(
            self._pts_us, [frame.pts_us - self._tolerance_us, frame.pts_us + self._tolerance_us + 1]
        )
        scale = np.array([width, height] * 2) / np.array(self._source_size * 2)
        boxes = self._boxes[first:end] * scale
        if self._params.faces_sha256 is not None:
            assert self._params.faces_scale is not None  # both are set or none
            faces = _face_finder(self._params.faces_sha256).find(frame.to_rgb(short_side))
            boxes = np.concatenate([boxes, enlarged(faces, self._params.faces_scale)])
        return blurred(planes, boxes)


def blurred(planes: YuvPlanes, boxes: NDArray[np.float64]) -> tuple[YuvPlanes, dict[str, float]]:
    """Return the planes of a frame with boxes blurred, one after another, and what they cover.

    Each is averaged over windows of half its width and height, twice, from its own pixels only.
    What they cover is as the index has it: `blur_boxes`, and `blurred_share` of the pixels, 0 to 1.

    Args:
        planes: As `Frame.to_jpeg_planes` gives them: Y is (H, W).
        boxes: (N, 4) float64, x0, y0, x1, y1 in pixels of Y; rounded outwards to even pixels, since
            a pixel of Cb and Cr stands for two by two. Those outside of the frame, and those
            without an area, are skipped.
    """
    height, width = planes[0].shape
    low = np.floor(boxes[:, :2]).clip(0, [width, height]).astype(int)
    high = np.ceil(boxes[:, 2:]).clip(0, [width, height]).astype(int)
    with_area = (low < high).all(axis=1)
    low, high = low[with_area] // 2, -(-high[with_area] // 2)
    luma, cb, cr = (plane.copy() for plane in planes)
    covered = np.zeros((height, width), bool)
    for (x0, y0), (x1, y1) in zip(low.tolist(), high.tolist(), strict=True):
        for plane, size in ((luma, 2), (cb, 1), (cr, 1)):
            _smooth(plane[size * y0 : size * y1, size * x0 : size * x1])
        covered[2 * y0 : 2 * y1, 2 * x0 : 2 * x1] = True
    return (luma, cb, cr), {"blur_boxes": len(low), "blurred_share": float(covered.mean())}


def _smooth(region: NDArray[np.uint8]) -> None:
    """Average a region in place."""
    mean = region.astype(np.int64)
    for _ in range(_PASSES):
        mean = _mean(_mean(mean).T).T
    region[:] = mean


def _mean(region: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the mean over windows of about half the rows; the first and last row are repeated."""
    radius = max(1, len(region) // 4)
    sums = np.cumsum(np.pad(region, [(radius + 1, radius), (0, 0)], mode="edge"), axis=0)
    window = 2 * radius + 1
    return (sums[window:] - sums[:-window]) // window


@functools.cache
def _face_finder(weights_sha256: str) -> FaceFinder:
    weights = find_weights()
    _require_sha256(weights, weights_sha256)
    return FaceFinder(weights)


def _require_sha256(path: Path, expected: str) -> None:
    found = sha256_of_shared(path) if path.is_file() else "none"
    if found != expected:
        raise ShardError(
            f"{path} is not what the shard set was begun with (sha256 {found[:12]}, not "
            f"{expected[:12]}); put that file there, or choose another name by --shards"
        )


def _read_boxes(
    path: Path, video_id: str, start_us: int, end_us: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the boxes of [start, end): (N,) int64 pts and (N, 4) float64, in order of pts."""
    filters: list[tuple[str, str, int | str]] = [
        ("pts_us", ">=", start_us),
        ("pts_us", "<", end_us),
    ]
    if "video_id" in pq.read_schema(path).names:
        filters.append(("video_id", "==", video_id))
    table = pq.read_table(path, columns=["pts_us", *BOX_SIDES], filters=filters).drop_null()
    sides = [table[name].to_numpy().astype(np.float64) for name in BOX_SIDES]
    pts_us, boxes = table["pts_us"].to_numpy().astype(np.int64), np.stack(sides, axis=1)
    if not np.isfinite(boxes).all():
        raise ShardError(f"{path} has a box of {video_id} that is not finite; fix or remove it")
    order = np.lexsort((*boxes.T, pts_us))  # whatever the order of the file's rows
    return pts_us[order], boxes[order]
