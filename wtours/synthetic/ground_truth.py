"""The truth beside a rendered walk: writing it as frames are rendered, and reading it back."""

import zlib
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from wtours.analyze.schema import PRECOMPUTED_COLUMNS
from wtours.errors import WtoursError
from wtours.storage.atomic import read_json, write_json
from wtours.synthetic.spec import WalkSpec
from wtours.synthetic.types import RenderedFrame, SeenObject
from wtours.text import first_line

if TYPE_CHECKING:
    from wtours.synthetic.scene import Walk

TRUTH_NAME, DETECTIONS_NAME, FRAMES_NAME = "truth.json", "detections.parquet", "frames.parquet"
FORMAT_VERSION = 1
MIN_VISIBLE_SHARE = 1 / 5000
"""An object with fewer visible pixels than this share of the image is not labeled."""
_ROWS_PER_GROUP = 20_000

DETECTIONS_SCHEMA = pa.schema(
    [
        ("frame_index", pa.int64()),
        *PRECOMPUTED_COLUMNS,
        ("track_id", pa.int32()),
        ("mask", pa.binary()),
    ]
)
FRAMES_SCHEMA = pa.schema(
    [
        ("frame_index", pa.int64()),
        ("pts_us", pa.int64()),
        ("street", pa.int32()),
        ("lightness", pa.float32()),
    ]
)


@dataclass(frozen=True)
class WalkTruth:
    """What is true of a rendered walk.

    Depth, flow and camera are not in its files: they are computed of its spec, as the frames were.

    Attributes:
        spec: What was rendered.
        width: Pixels.
        height: Pixels.
        num_frames: Frames of the video.
        frame_rate: Frames per second, "30" or "30000/1001".
        cuts: Frame indices; each the first frame of a new street.
        cut_pts_us: Their times in microseconds.
        lightness: (num_frames,) float32, the lightness factor of each frame.
        detections: One row per object and frame, columns as in `DETECTIONS_SCHEMA`.
    """

    spec: WalkSpec
    width: int
    height: int
    num_frames: int
    frame_rate: str
    cuts: tuple[int, ...]
    cut_pts_us: tuple[int, ...]
    lightness: NDArray[np.float32]
    detections: pa.Table

    def mask(self, frame_index: int, track_id: int) -> NDArray[np.bool_]:
        """Return the (height, width) mask of an object's visible pixels in a frame.

        Raises:
            KeyError: the object is not labeled in that frame.
        """
        rows = self.detections.filter(
            (pc.field("frame_index") == frame_index) & (pc.field("track_id") == track_id)
        )
        if rows.num_rows == 0:
            raise KeyError(f"no object {track_id} in frame {frame_index}")
        row = rows.to_pylist()[0]
        x0, y0, x1, y1 = (int(row[name]) for name in ("x0", "y0", "x1", "y1"))
        full = np.zeros((self.height, self.width), np.bool_)
        full[y0:y1, x0:x1] = decode_mask(row["mask"], width=x1 - x0, height=y1 - y0)
        return full

    def instances(self, frame_index: int) -> NDArray[np.uint16]:
        """Return the (height, width) track id of each pixel's object, 0 where none is labeled."""
        tracks = np.zeros((self.height, self.width), np.uint16)
        for row in self.detections.filter(pc.field("frame_index") == frame_index).to_pylist():
            x0, y0, x1, y1 = (int(row[name]) for name in ("x0", "y0", "x1", "y1"))
            mask = decode_mask(row["mask"], width=x1 - x0, height=y1 - y0)
            tracks[y0:y1, x0:x1][mask] = row["track_id"]
        return tracks

    def depth(self, frame_index: int) -> NDArray[np.float32]:
        """Return the (height, width) depth of a frame: meters along the view, inf in the sky.

        An upright image (a person, a tree) is a plane that faces the camera.

        Raises:
            IndexError: the walk has no such frame.
            WtoursError: another version drew the walk.
        """
        from wtours.synthetic.geometry import surfaces_of

        return surfaces_of(self._frame(frame_index)).depth.astype(np.float32)

    def flow(self, frame_index: int, later_index: int) -> NDArray[np.float32]:
        """Return the (2, height, width) optical flow from a frame to another of its street.

        To the right and down, in pixels: `later[y + flow[1], x + flow[0]]` shows what the frame
        shows at `[y, x]`. NaN where it does not: hidden, out of the image, or drawn differently (a
        leg that has swung). Shadows have no flow of their own: the ground has.

        Raises:
            IndexError: the walk has no such frame.
            ValueError: there is a cut between them.
            WtoursError: another version drew the walk.
        """
        from wtours.synthetic.geometry import flow_between

        one, other = self._frame(frame_index), self._frame(later_index)
        if self.spec.street_of(frame_index) != self.spec.street_of(later_index):
            raise ValueError(f"there is a cut between the frames {frame_index} and {later_index}")
        return flow_between(one, other)

    def pose(self, frame_index: int) -> NDArray[np.float64]:
        """Return the (4, 4) matrix from camera to world coordinates of a frame, in meters.

        The camera has x to the right, y down and z along the view; the world has z up, and another
        origin in each street.

        Raises:
            IndexError: the walk has no such frame.
        """
        from wtours.synthetic.geometry import camera_to_world

        return camera_to_world(self._walk.camera(frame_index))

    @property
    def intrinsics(self) -> NDArray[np.float64]:
        """Return the (3, 3) matrix from camera coordinates to pixels, whose centers are integers.

        All frames have it. The sky is drawn on a cylinder: there it is that of the columns alone.
        """
        from wtours.synthetic.geometry import intrinsics

        return intrinsics(self._walk.camera(0))

    def _frame(self, frame_index: int) -> RenderedFrame:
        """Return a frame as it was rendered.

        Raises:
            WtoursError: it shows other objects than the truth: another version drew the walk.
        """
        frame = self._walk.frame(frame_index)
        labeled = np.zeros(frame.owner.shape, np.bool_)
        for seen in frame.objects:
            if (mine := visible_pixels(frame, seen)) is not None:
                labeled[seen.region.slices] |= mine
        if not np.array_equal(labeled, self.instances(frame_index) > 0):
            raise WtoursError(
                f"frame {frame_index} of the walk is drawn otherwise now than when its truth was "
                f"written, by another version of wtours or of opencv; render the walk again"
            )
        return frame

    @cached_property
    def _walk(self) -> "Walk":
        from wtours.synthetic.scene import Walk

        return Walk(self.spec)


def load_truth(path: Path) -> WalkTruth:
    """Read the truth directory that `render_walk` wrote.

    Raises:
        WtoursError: there is no truth at `path`, or it is damaged.
    """
    if not (path / TRUTH_NAME).is_file():
        raise WtoursError(f"{path} holds no {TRUTH_NAME}; give the truth_path of a rendered walk")
    facts = read_json(path / TRUTH_NAME)
    try:
        fields = facts["spec"]
        fields |= {"frame_rate": Fraction(fields["frame_rate"])}
        fields |= {"cut_seconds": tuple(fields["cut_seconds"])}
        spec = WalkSpec(**fields)
        return WalkTruth(
            spec=spec,
            width=spec.width,
            height=spec.height,
            num_frames=facts["num_frames"],
            frame_rate=facts["frame_rate"],
            cuts=tuple(cut["frame_index"] for cut in facts["cuts"]),
            cut_pts_us=tuple(cut["pts_us"] for cut in facts["cuts"]),
            lightness=pq.read_table(path / FRAMES_NAME)["lightness"].to_numpy().astype(np.float32),
            detections=pq.read_table(path / DETECTIONS_NAME),
        )
    except (KeyError, TypeError, ValueError, OSError, ZeroDivisionError) as error:
        raise WtoursError(
            f"{path} is no whole truth of a walk ({first_line(error)}); render it again"
        ) from error


class TruthWriter:
    """Writes a truth directory frame by frame; to be closed.

    Args:
        directory: A new directory, created here.
        spec: The walk.
    """

    def __init__(self, directory: Path, spec: WalkSpec) -> None:
        directory.mkdir()
        self._directory, self._spec = directory, spec
        self._tracks: dict[tuple[int, int], int] = {}
        self._rows: list[dict[str, Any]] = []
        self._detections = pq.ParquetWriter(directory / DETECTIONS_NAME, DETECTIONS_SCHEMA)

    def close(self) -> None:
        """Close its files, finished or not."""
        self._detections.close()

    def add(self, frame_index: int, frame: RenderedFrame) -> None:
        """Note the visible objects of the next frame."""
        street = self._spec.street_of(frame_index)
        for seen in frame.objects:
            mine = visible_pixels(frame, seen)
            if mine is None:
                continue
            rows, columns = np.flatnonzero(mine.any(axis=1)), np.flatnonzero(mine.any(axis=0))
            pixels = mine[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            left, top = seen.region.left + int(columns[0]), seen.region.top + int(rows[0])
            track = self._tracks.setdefault((street, seen.key), len(self._tracks) + 1)
            self._rows.append(
                {
                    "frame_index": frame_index,
                    "pts_us": self._spec.pts_us(frame_index),
                    "label": seen.label,
                    "score": 1.0,
                    "x0": left,
                    "y0": top,
                    "x1": left + pixels.shape[1],
                    "y1": top + pixels.shape[0],
                    "track_id": track,
                    "mask": encode_mask(pixels),
                }
            )
        if len(self._rows) >= _ROWS_PER_GROUP:
            self._flush()

    def finish(self) -> None:
        """Write what is left: the last rows, the frames, and `truth.json`."""
        self._flush()
        spec = self._spec
        indices = range(spec.num_frames)
        frames = {
            "frame_index": list(indices),
            "pts_us": [spec.pts_us(index) for index in indices],
            "street": [spec.street_of(index) for index in indices],
            "lightness": [spec.lightness(index) for index in indices],
        }
        pq.write_table(pa.table(frames, schema=FRAMES_SCHEMA), self._directory / FRAMES_NAME)
        facts = {
            "format": FORMAT_VERSION,
            "spec": spec.to_dict(),
            "frame_rate": str(spec.frame_rate),
            "num_frames": spec.num_frames,
            "num_tracks": len(self._tracks),
            "cuts": [{"frame_index": cut, "pts_us": spec.pts_us(cut)} for cut in spec.cut_frames],
        }
        write_json(self._directory / TRUTH_NAME, facts)

    def _flush(self) -> None:
        self._detections.write_table(pa.Table.from_pylist(self._rows, DETECTIONS_SCHEMA))
        self._rows = []


def visible_pixels(frame: RenderedFrame, seen: SeenObject) -> NDArray[np.bool_] | None:
    """Return which pixels of an object's region show it; None if too few do for a label."""
    mine: NDArray[np.bool_] = frame.owner[seen.region.slices] == seen.number
    is_labeled = np.count_nonzero(mine) >= MIN_VISIBLE_SHARE * frame.owner.size
    return mine if is_labeled else None


def encode_mask(mask: NDArray[np.bool_]) -> bytes:
    """Return a (h, w) mask as zlib-compressed bits, row by row, the first pixel the highest bit."""
    return zlib.compress(np.packbits(mask).tobytes(), 1)


def decode_mask(data: bytes, *, width: int, height: int) -> NDArray[np.bool_]:
    """Return the (height, width) mask that `encode_mask` took."""
    bits = np.frombuffer(zlib.decompress(data), np.uint8)
    return np.unpackbits(bits, count=width * height).astype(np.bool_).reshape(height, width)
