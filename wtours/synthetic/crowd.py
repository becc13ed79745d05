"""The people, animals and things in the streets, at any place and time.

Every street has the same lanes; in a lane, object number k stands at `k * spacing` plus its own
jitter and moves with the lane. So the crowd is endless, needs no state, and the same object is the
same wherever one comes from.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wtours.synthetic.camera_path import BLOCK, STREET, Points, Pose, Route

REACH = 50.0
"""Objects farther than this, in meters, are not drawn."""
_MARGIN = 0.6
_CHECK_SECONDS = 90.0


@dataclass(frozen=True)
class Lane:
    """A row of objects of one class along every street; lengths in meters, speed in m/s."""

    label: str
    lateral: float
    spacing: float
    share: float
    speed: float = 0.0
    offset: float = 0.0
    half_length: float = 0.3
    half_width: float = 0.3
    jitter: float = 0.4


LANES = (
    Lane("car", -3.3, 6.5, 0.4, jitter=0.1, half_length=2.1, half_width=0.9),
    Lane("car", 3.3, 6.5, 0.35, jitter=0.1, half_length=2.1, half_width=0.9),
    Lane("car", 1.3, 34.0, 0.7, 4.5, half_length=2.1, half_width=0.9),
    Lane("person", -2.1, 16.0, 0.5, -1.1),
    Lane("person", 0.0, 17.0, 0.5, 1.25),
    Lane("person", -5.4, 9.0, 0.35, 1.2),
    Lane("person", 5.4, 9.0, 0.35, -1.2),
    Lane("person", -6.2, 13.0, 0.35, -0.9),
    Lane("person", 6.2, 13.0, 0.35, 1.5),
    Lane("dog", 4.9, 24.0, 0.7, 0.9),
    Lane("dog", -2.6, 37.0, 0.7, -1.3),
    Lane("tree", -4.7, 10.5, 0.6, jitter=0.2),
    Lane("tree", 4.7, 10.5, 0.6, jitter=0.2),
    Lane("bench", -6.6, 14.0, 0.5, half_length=0.8),
    Lane("bench", 6.6, 14.0, 0.5, half_length=0.8),
    Lane("bicycle", 6.7, 10.5, 0.45, offset=5.0, half_length=0.9),
    Lane("traffic light", 4.5, BLOCK, 1.0, offset=9.0, jitter=0.0),
    Lane("traffic light", -4.5, BLOCK, 1.0, offset=-9.0, jitter=0.0),
    Lane("fire hydrant", -4.6, 21.0, 0.6, offset=3.0),
)


@dataclass(frozen=True)
class Crowd:
    """The objects near the camera, as arrays of equal length N.

    Attributes:
        key: (N,) uint64; the identity of each object.
        lane: (N,) int; the index in `LANES`.
        x: (N,) float; meters.
        y: (N,) float; meters.
        axis: (N,) int; 0 for a street along x, 1 along y.
    """

    key: NDArray[np.uint64]
    lane: NDArray[np.int64]
    x: Points
    y: Points
    axis: NDArray[np.int64]


class Population:
    """The crowd of one street scene.

    Args:
        seed: Draws who stands where.
        route: The walk; whoever would walk into the walker is left out.
        seconds: Length of the walk.
    """

    def __init__(self, seed: int, route: Route, seconds: float) -> None:
        self._seed = np.uint64(seed)
        self._times = np.arange(0, seconds + 0.2, 0.2)
        self._walk = route.positions(self._times)
        self._is_clear: dict[int, bool] = {}
        column = np.array([(lane.spacing, lane.speed, lane.offset) for lane in LANES])
        self._spacing, self._speed, self._offset = column.T[:, :, None]
        self._share = np.array([lane.share for lane in LANES])[:, None]
        self._jitter = np.array([lane.jitter * lane.spacing for lane in LANES])[:, None]
        self._lateral = np.array([lane.lateral for lane in LANES])[:, None]
        self._slots = np.arange(int(2 * REACH / float(self._spacing.min())) + 2)

    def near(self, pose: Pose, seconds: float) -> Crowd:
        """Return who is within `REACH` of the camera at a time."""
        streets = [
            (axis, number)
            for axis, across in ((0, pose.y), (1, pose.x))
            for number in range(
                int(np.ceil((across - REACH) / BLOCK)), int(np.floor((across + REACH) / BLOCK)) + 1
            )
        ]
        axis = np.array([axis for axis, _ in streets])[:, None, None]
        number = np.array([number for _, number in streets])[:, None, None]
        along_camera = np.where(axis == 0, pose.x, pose.y)
        moved = self._offset + self._speed * seconds
        first = np.ceil((along_camera - REACH - moved) / self._spacing)
        k = (first + self._slots).astype(np.int64)  # (streets, lanes, slots)
        lane = np.broadcast_to(np.arange(len(LANES))[:, None], k.shape)
        key = _mix(_mix(_mix(self._seed + axis.astype(np.uint64), number), lane), k)
        along = k * self._spacing + moved + self._jitter * (_unit(key, 1) - 0.5)
        from_crossing = np.abs(along - BLOCK * np.round(along / BLOCK))
        keep = (_unit(key, 2) < self._share) & (np.abs(along - along_camera) < REACH)
        keep &= (self._speed != 0) | (from_crossing > STREET / 2 + 1)
        across = np.broadcast_to(number * BLOCK + self._lateral, k.shape)
        axes = np.broadcast_to(axis, k.shape)
        x, y = np.where(axes == 0, along, across), np.where(axes == 0, across, along)
        return Crowd(key[keep], lane[keep], x[keep], y[keep], axes[keep])

    def is_clear(self, crowd: Crowd, index: int, seconds: float) -> bool:
        """Return whether an object keeps clear of the walker during the minutes around a time."""
        key = int(crowd.key[index])
        if key not in self._is_clear:
            lane, axis = LANES[crowd.lane[index]], int(crowd.axis[index])
            window = np.abs(self._times - seconds) < _CHECK_SECONDS
            place = np.array([crowd.x[index], crowd.y[index]])
            difference = self._walk[window] - place
            along = difference[:, axis] - lane.speed * (self._times[window] - seconds)
            across = difference[:, 1 - axis]
            meets = (np.abs(along) < lane.half_length + _MARGIN) & (
                np.abs(across) < lane.half_width + _MARGIN
            )
            self._is_clear[key] = not meets.any()
        return self._is_clear[key]


def _mix(state: NDArray[np.uint64] | np.uint64, value: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Fold integers into hashes (the finalizer of splitmix64)."""
    mixed = np.asarray(state) + value.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = mixed + np.uint64(0x632BE59BD9B4E019)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    result: NDArray[np.uint64] = mixed ^ (mixed >> np.uint64(31))
    return result


def _unit(key: NDArray[np.uint64], salt: int) -> Points:
    """Return numbers in [0, 1) that depend on the key and the salt."""
    mixed = _mix(key, np.full(1, salt))
    result: Points = (mixed >> np.uint64(11)).astype(np.float64) / 2.0**53
    return result
