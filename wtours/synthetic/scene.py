"""One street scene, from one cut to the next: its picture and its objects at any time."""

import cv2
import numpy as np

from wtours.synthetic.backdrop import cast_walls, draw_backdrop, haze
from wtours.synthetic.camera import NEAR, Camera
from wtours.synthetic.car import PAINTS, Polygon, car_polygons, shadow_polygon
from wtours.synthetic.crowd import LANES, REACH, Crowd, Population
from wtours.synthetic.frame import Region, RenderedFrame, SeenObject
from wtours.synthetic.painter import Painter
from wtours.synthetic.route import Route
from wtours.synthetic.sprites import NUM_PHASES, Sprite
from wtours.synthetic.textures import Palette, Picture, paint_atlas

EXPOSURE = 118.0
"""The mean luma, 0 to 255, that the camera's exposure gives every frame before the light falls."""
_STRIDES_PER_SECOND = {"person": 0.9, "dog": 1.6}
_SHADOW_RADIUS = {"tree": 1.3, "bench": 0.8, "bicycle": 0.8, "dog": 0.4}


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

    def render(self, seconds: float, lightness: float, *, width: int, height: int) -> RenderedFrame:
        """Return the frame at a time since the cut, under a lightness factor from 0 to 1."""
        camera = Camera(self._route.pose(seconds), width, height)
        walls = cast_walls(camera, self._crowd_seed)
        picture = draw_backdrop(camera, walls, self._atlas)
        painter = Painter(picture, camera, walls.depth, self._atlas.horizon)
        crowd = self._population.near(camera.pose, seconds)
        objects = self._draw_crowd(painter, camera, crowd, seconds)
        lit = cv2.convertScaleAbs(picture, None, _exposure(picture) * lightness)
        return RenderedFrame(np.asarray(lit, dtype=np.uint8), painter.owner, tuple(objects))

    def _draw_crowd(
        self, painter: Painter, camera: Camera, crowd: Crowd, seconds: float
    ) -> list[SeenObject]:
        depth, right = camera.relative(crowd.x, crowd.y)
        reach = np.maximum(depth, 0) * camera.width / (2 * camera.focal) + 3.0
        in_view = (depth > -3) & (depth < REACH) & (np.abs(right) < reach)
        objects: list[SeenObject] = []
        for index in np.flatnonzero(in_view)[np.argsort(-depth[in_view])]:
            if not self._population.is_clear(crowd, index, seconds):
                continue
            number, place = len(objects) + 1, (float(depth[index]), float(right[index]))
            if LANES[crowd.lane[index]].label == "car":
                region = _draw_car(painter, camera, crowd, index, number, place)
            else:
                region = self._draw_flat(painter, crowd, index, number, place, seconds)
            if region is not None:
                label = LANES[crowd.lane[index]].label
                objects.append(SeenObject(int(crowd.key[index]), label, number, region))
        return objects

    def _draw_flat(
        self,
        painter: Painter,
        crowd: Crowd,
        index: int,
        number: int,
        place: tuple[float, float],
        seconds: float,
    ) -> Region | None:
        depth, right = place
        if depth < NEAR:
            return None
        lane, key = LANES[crowd.lane[index]], int(crowd.key[index])
        variants = self._sprites[lane.label]
        phases = variants[key % len(variants)]
        stride = _STRIDES_PER_SECOND.get(lane.label, 0.0) * seconds + (key >> 8) % 97 / 97
        sprite = phases[int(stride * NUM_PHASES) % len(phases)]
        painter.draw_shadow(right, depth, _SHADOW_RADIUS.get(lane.label, 0.32))
        clear = float(haze(np.array(depth)))
        return painter.draw_sprite(sprite, number, depth=depth, right=right, clear=clear)


def _draw_car(
    painter: Painter,
    camera: Camera,
    crowd: Crowd,
    index: int,
    number: int,
    place: tuple[float, float],
) -> Region | None:
    lane, key = LANES[crowd.lane[index]], int(crowd.key[index])
    x, y = float(crowd.x[index]), float(crowd.y[index])
    reverse = lane.lateral < 0
    heading = float(crowd.axis[index]) * np.pi / 2 + (np.pi if reverse else 0.0)
    depth = max(place[0], NEAR)
    shadow: Polygon | None = shadow_polygon(camera, x, y, heading)
    if shadow is not None:
        painter.draw_ground_shadow(shadow, depth)
    polygons = car_polygons(camera, x, y, heading, PAINTS[key % len(PAINTS)])
    clear = float(haze(np.array(depth)))
    return painter.draw_polygons(polygons, number, depth=depth, clear=clear)


def _exposure(picture: Picture) -> float:
    """Return the gain that brings the mean luma to `EXPOSURE`."""
    small = cv2.resize(picture, (64, 64), interpolation=cv2.INTER_AREA)
    return EXPOSURE / max(1.0, float(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY).mean()))
