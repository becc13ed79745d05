"""The frames of a walk, street scene by street scene: the image and the objects at any time."""

from collections.abc import Iterator
from fractions import Fraction

import cv2
import numpy as np
from numpy.typing import NDArray

from wtours.synthetic.camera_path import NEAR, Camera, Points, Route
from wtours.synthetic.crowd import LANES, REACH, Crowd, Population
from wtours.synthetic.drawing.backdrop import Walls, cast_walls, draw_backdrop, haze
from wtours.synthetic.drawing.car import HALF_LENGTH, HALF_WIDTH, PAINTS, car_polygons
from wtours.synthetic.drawing.painter import Painter
from wtours.synthetic.drawing.palette import Palette
from wtours.synthetic.drawing.sprites import NUM_PHASES, Sprite, draw_sprites
from wtours.synthetic.drawing.textures import paint_atlas
from wtours.synthetic.spec import WalkSpec
from wtours.synthetic.types import RenderedFrame, SeenObject

EXPOSURE = 128.0
"""The mean luma, 0 to 255, that the camera's exposure gives every frame before the light falls."""
_SPRITES_STREAM = 2**32
"""Keeps the sprites' random numbers apart from those of any street."""
_REACH_ASIDE = 2.3
"""No object reaches farther from its middle, in meters."""
_STRIDES_PER_SECOND = {"person": 0.9, "dog": 1.6}
_IS_CAR = np.array([lane.label == "car" for lane in LANES])
_SHADOW_RADIUS = {"tree": 1.3, "bench": 0.8, "bicycle": 0.8, "dog": 0.4}

Places = list[tuple[int, float, float]]
"""The objects in sight, far to near: index in the crowd, meters along the view and right of it."""


def render_frames(spec: WalkSpec) -> Iterator[RenderedFrame]:
    """Yield every frame of a walk; the same spec gives the same frames."""
    walk = Walk(spec)
    for frame_index in range(spec.num_frames):
        yield walk.frame(frame_index)


class Walk:
    """The frames of a walk, in any order; one street is kept at a time (0.5 s to draw)."""

    def __init__(self, spec: WalkSpec) -> None:
        self._spec, self._rate = spec, Fraction(spec.frame_rate)
        self._sprites = draw_sprites(np.random.default_rng([spec.seed, _SPRITES_STREAM]))
        self._street, self._start, self._next = -1, 0, 0

    def frame(self, frame_index: int) -> RenderedFrame:
        """Return a frame: the same, whichever were asked for before.

        Raises:
            IndexError: the walk has no such frame.
        """
        spec = self._spec
        scene, size = self._scene_of(frame_index), (spec.width, spec.height)
        # Whether an object keeps clear of the walker is found out when it first comes in sight.
        for earlier in range(self._next, frame_index):
            scene.look(self._seconds(earlier), *size)
        self._next = max(self._next, frame_index + 1)
        return scene.render(self._seconds(frame_index), spec.lightness(frame_index), *size)

    def camera(self, frame_index: int) -> Camera:
        """Return the camera of a frame.

        Raises:
            IndexError: the walk has no such frame.
        """
        scene, spec = self._scene_of(frame_index), self._spec
        return scene.camera(self._seconds(frame_index), spec.width, spec.height)

    def _scene_of(self, frame_index: int) -> "Scene":
        spec = self._spec
        if not 0 <= frame_index < spec.num_frames:
            raise IndexError(f"no frame {frame_index}: the walk has {spec.num_frames}")
        street = spec.street_of(frame_index)
        if street != self._street:
            edges = (0, *spec.cut_frames, spec.num_frames)
            self._start, end = edges[street], edges[street + 1]
            seconds = float((end - self._start) / self._rate)
            self._scene = Scene(spec.seed, street, seconds, self._sprites)
            self._street, self._next = street, self._start
        return self._scene

    def _seconds(self, frame_index: int) -> float:
        return float((frame_index - self._start) / self._rate)


class Scene:
    """The streets, the walk and the crowd between two cuts.

    Args:
        seed: Seed of the walk.
        street: Number of the scene; odd and even ones have palettes that no cut detector confuses.
        seconds: Length of the scene.
        sprites: What `draw_sprites` drew.
    """

    def __init__(
        self, seed: int, street: int, seconds: float, sprites: dict[str, list[list[Sprite]]]
    ) -> None:
        rng = np.random.default_rng([seed, street])
        self._atlas = paint_atlas(rng, Palette.draw(rng, family=(seed + street) % 2))
        self._route = Route(rng, seconds)
        self._crowd_seed = int(rng.integers(2**31))
        self._population = Population(self._crowd_seed, self._route, seconds)
        self._sprites = sprites

    def camera(self, seconds: float, width: int, height: int) -> Camera:
        """Return the camera at a time since the cut."""
        return Camera(self._route.pose(seconds), width, height)

    def look(self, seconds: float, width: int, height: int) -> tuple[Camera, Walls, Crowd, Places]:
        """Return the camera at a time since the cut, the walls, and who is where in sight of it."""
        camera = self.camera(seconds, width, height)
        walls = cast_walls(camera, self._crowd_seed, self._atlas.facade_height)
        crowd = self._population.near(camera.pose, seconds)
        depth, right = camera.relative(crowd.x, crowd.y)
        in_view = (depth < REACH) & _in_sight(camera, walls.depth, depth, right)
        places = [
            (int(index), float(depth[index]), float(right[index]))
            for index in _far_to_near(camera, crowd, depth, np.flatnonzero(in_view))
            if self._population.is_clear(crowd, index, seconds)
        ]
        return camera, walls, crowd, places

    def render(self, seconds: float, lightness: float, width: int, height: int) -> RenderedFrame:
        """Return the frame at a time since the cut, under a lightness factor from 0 to 1."""
        camera, walls, crowd, places = self.look(seconds, width, height)
        image = draw_backdrop(camera, walls, self._atlas)
        painter = Painter(image, camera, walls.depth, self._atlas.horizon)
        objects: list[SeenObject] = []
        for index, depth, aside in places:
            lane, key, number = LANES[crowd.lane[index]], int(crowd.key[index]), len(objects) + 1
            place, at = (float(crowd.x[index]), float(crowd.y[index])), max(depth, NEAR)
            sprite: Sprite | None = None
            heading = float(crowd.axis[index]) * np.pi / 2 + (np.pi if lane.lateral < 0 else 0)
            clear = float(haze(np.array(at)))
            if lane.label == "car":
                shadow, faces = car_polygons(camera, *place, heading, PAINTS[key % len(PAINTS)])
                if shadow is not None:
                    painter.draw_ground_shadow(shadow, at)
                region = painter.draw_polygons(faces, number, depth=at, clear=clear)
            elif depth < NEAR:
                continue
            else:
                variants = self._sprites[lane.label]
                phases = variants[key % len(variants)]
                stride = _STRIDES_PER_SECOND.get(lane.label, 0.0) * seconds + (key >> 8) % 97 / 97
                sprite = phases[int(stride * NUM_PHASES) % len(phases)]
                painter.draw_shadow(aside, at, _SHADOW_RADIUS.get(lane.label, 0.32))
                region = painter.draw_sprite(sprite, number, depth=at, right=aside, clear=clear)
            if region is not None:
                seen = SeenObject(key, lane.label, number, region, *place, heading, sprite)
                objects.append(seen)
        blue, green, red, _ = cv2.mean(image)
        luma = max(1.0, 0.114 * blue + 0.587 * green + 0.299 * red)
        lit = cv2.convertScaleAbs(image, None, EXPOSURE / luma * lightness)
        image = np.asarray(lit, dtype=np.uint8)
        return RenderedFrame(image, painter.owner, tuple(objects), camera, walls)


def _far_to_near(
    camera: Camera, crowd: Crowd, depth: Points, indices: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Sort objects so that each is drawn after what it may hide.

    By depth of their middles; but a car is long, so what stands beside it is drawn before or after
    it by the side it stands on.
    """
    order = depth[indices].copy()
    place = np.stack([crowd.x[indices], crowd.y[indices]])
    eye = np.array([camera.pose.x, camera.pose.y])
    for car in np.flatnonzero(_IS_CAR[crowd.lane[indices]]):
        axis = crowd.axis[indices[car]]
        away = place - place[:, car : car + 1]
        eye_side = np.sign(eye[1 - axis] - place[1 - axis, car])
        across = away[1 - axis] * eye_side
        beside = (np.abs(away[axis]) < HALF_LENGTH + 0.4) & (np.abs(across) < 4)
        behind, before = beside & (across < -HALF_WIDTH), beside & (across > HALF_WIDTH)
        order[behind] = np.maximum(order[behind], order[car] + 0.01)
        order[before] = np.minimum(order[before], order[car] - 0.01)
    return indices[np.argsort(-order, kind="stable")]


def _in_sight(
    camera: Camera, wall_depth: NDArray[np.float32], depth: Points, right: Points
) -> NDArray[np.bool_]:
    """Return which places show, within `_REACH_ASIDE`, a column that no wall hides."""
    scale = camera.focal / np.maximum(depth, NEAR)
    left_edge = camera.center + (right - _REACH_ASIDE) * scale
    right_edge = camera.center + (right + _REACH_ASIDE) * scale
    first = np.clip(left_edge, 0, camera.width - 1).astype(np.int64)
    last = np.clip(right_edge + 2, 1, camera.width).astype(np.int64)
    # The deepest column of each [first, last): the padding lets `last` be the width.
    padded = np.append(wall_depth, 0)
    edges = np.stack([first, np.maximum(last, first + 1)], axis=1).ravel()
    deepest = np.maximum.reduceat(padded, edges)[::2]
    seen: NDArray[np.bool_] = (depth > -_REACH_ASIDE) & (right_edge > 0)
    return seen & (left_edge < camera.width) & (deepest > depth)
