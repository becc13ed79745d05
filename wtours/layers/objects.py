"""The objects that a trained run tracks, as a layer: where each of them is in every frame."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wtours.errors import ShardError, UsageError
from wtours.exporting.units import Unit, clip_units
from wtours.layers.source import LayerSource, frame_pixels
from wtours.shards.index import ShardIndex
from wtours.storage.hashing import sha256_bytes

_FRAMES_AT_ONCE = 16


class ObjectTracker(Protocol):
    """Finds objects in a frame, and tracks them through those that follow."""

    clip_seconds: float
    """For how long they are tracked."""
    params: dict[str, Any]
    """All that decides what is tracked; JSON."""

    def track(self, frames: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Return where the objects of the first of T frames are in each, (T, O, h, w)."""
        ...


class ObjectSource(LayerSource):
    """Where objects are: found in the first frame of each stretch of a shot, tracked to its end.

    Stretches are as long as the clips that the run was trained on, and one follows the other.

    Args:
        index: The frames.
        tracker: Of a run.

    Raises:
        ShardError: such a stretch has less than two frames of the set.
    """

    about = (
        "objects that a run tracks: (O, h, w) float16, the share (all of an object sum to 1) of "
        "each patch of the center crop, as evaluations see a frame; O objects are found anew "
        "every params.clip_seconds, and at each cut"
    )
    packages = ("torch", "timm")

    def __init__(self, index: ShardIndex, tracker: ObjectTracker) -> None:
        self._index, self._tracker = index, tracker
        try:
            clips = clip_units(index, tracker.clip_seconds)
        except UsageError as error:
            raise ShardError(
                f"a clip of the run has {tracker.clip_seconds:g} s, less than two frames of "
                f"{index.directory}: take a set with more frames a second"
            ) from error
        self._first = np.empty(len(index), np.int64)
        for clip in clips:
            self._first[clip.rows.start : clip.rows.stop] = clip.rows.start
        self._shards = {shard.shard: shard.sha256 for shard in index.dataset.shards}
        self.params = {
            "kind": "objects",
            "clip_seconds": tracker.clip_seconds,
            **tracker.params,
        }

    def inputs(self, unit: Unit) -> dict[str, str]:
        """Return the sha256 of the shards, and of where objects are found, which cuts change."""
        rows = np.arange(unit.rows.start, unit.rows.stop)
        first = self._first[unit.rows.start : unit.rows.stop]
        earlier = {frame.shard for frame in self._index.frames(np.unique(first).tolist())}
        frames = {f"frames {name}": self._shards[name] for name in sorted(earlier | {unit.name})}
        return {**frames, "clips": sha256_bytes((rows - first).tobytes())}

    def values(self, unit: Unit) -> Iterator[NDArray[np.float16]]:
        """Yield where the objects are in each frame."""
        for first, group in itertools.groupby(unit.rows, key=lambda row: int(self._first[row])):
            rows, found = list(group), frame_pixels(self._index, first)
            for begin in range(0, len(rows), _FRAMES_AT_ONCE):
                later = [
                    frame_pixels(self._index, r) for r in rows[begin : begin + _FRAMES_AT_ONCE]
                ]
                # An object is what it is in the first frame, which so stands before each piece.
                yield from self._tracker.track([found, *later])[1:].astype(np.float16)
