"""Flat images of people, dogs, trees and street furniture, drawn once and cached by size.

A sprite is (H, W, 4) uint8: BGR already multiplied by alpha, and alpha. Drawing aliased at twice
the size and averaging gives both the soft edge and the multiplication.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from wtours.synthetic.drawing.palette import Color, Image, bgr

NUM_PHASES = 16
_DRAW_PPM = {"person": 300, "dog": 300, "tree": 120, "bench": 160, "bicycle": 200}
_DRAW_PPM |= {"traffic light": 140, "fire hydrant": 240}


@dataclass(frozen=True)
class Sprite:
    """One image at halving sizes; `levels[0]` is the largest. Sizes in meters."""

    width: float
    height: float
    levels: tuple[Image, ...]

    def level(self, rows: float) -> Image:
        """Return the smallest image that is at least as tall, or the largest."""
        fitting = [level for level in self.levels if level.shape[0] >= rows]
        return fitting[-1] if fitting else self.levels[0]

    def mirrored(self) -> "Sprite":
        """Return it with left and right exchanged."""
        levels = tuple(np.ascontiguousarray(level[:, ::-1]) for level in self.levels)
        return Sprite(self.width, self.height, levels)


class Canvas:
    """A transparent image to draw on in meters, x from the middle, y up from the ground."""

    def __init__(self, width: float, height: float, ppm: int) -> None:
        self.width, self.height, self.ppm = width, height, ppm
        self.pixels = np.zeros((round(height * ppm), round(width * ppm), 4), np.uint8)

    def point(self, x: float, y: float) -> tuple[int, int]:
        """Return the pixel of a place."""
        return round((x + self.width / 2) * self.ppm), round((self.height - y) * self.ppm)

    def line(self, places: list[tuple[float, float]], thickness: float, color: Color) -> None:
        """Draw a round-ended line through places."""
        points = np.array([self.point(*place) for place in places], np.int32)
        width = max(1, round(thickness * self.ppm))
        cv2.polylines(self.pixels, [points], False, (*color, 255), width)

    def fill(self, places: list[tuple[float, float]], color: Color) -> None:
        """Fill a polygon."""
        points = np.array([self.point(*place) for place in places], np.int32)
        cv2.fillPoly(self.pixels, [points], (*color, 255))

    def ellipse(self, x: float, y: float, a: float, b: float, color: Color) -> None:
        """Fill an ellipse with half axes a and b."""
        axes = (max(1, round(a * self.ppm)), max(1, round(b * self.ppm)))
        cv2.ellipse(self.pixels, self.point(x, y), axes, 0, 0, 360, (*color, 255), -1)

    def sprite(self) -> Sprite:
        """Return the drawing as a sprite."""
        levels = [self.pixels]
        while min(levels[-1].shape[:2]) >= 4:
            size = (levels[-1].shape[1] // 2, levels[-1].shape[0] // 2)
            reduced = cv2.resize(levels[-1], size, None, 0, 0, cv2.INTER_AREA)
            levels.append(np.asarray(reduced, np.uint8))
        return Sprite(self.width, self.height, tuple(levels[1:-1]))


def draw_sprites(rng: np.random.Generator) -> dict[str, list[list[Sprite]]]:
    """Draw all sprites: `sprites[label][variant][phase]` (about 0.3 s)."""
    people = [_phases(_person(rng)) for _ in range(14)]
    dogs = [_phases(_dog(rng)) for _ in range(4)]
    dogs += [[sprite.mirrored() for sprite in dog] for dog in dogs]
    return {
        "person": people,
        "dog": dogs,
        "tree": [[_tree(rng)] for _ in range(5)],
        "bench": [[_bench()]],
        "bicycle": [[_bicycle(hue)] for hue in (30.0, 130.0, 205.0)],
        "traffic light": [[_traffic_light()]],
        "fire hydrant": [[_fire_hydrant()]],
    }


def _phases(draw: Callable[[float], Sprite]) -> list[Sprite]:
    return [draw(2 * math.pi * phase / NUM_PHASES) for phase in range(NUM_PHASES)]


def _person(rng: np.random.Generator) -> Callable[[float], Sprite]:
    tall = rng.uniform(0.9, 1.06)
    skin = bgr(rng.uniform(20, 28), rng.uniform(0.35, 0.6), rng.uniform(0.45, 0.9))
    hair = bgr(rng.uniform(20, 45), 0.5, rng.uniform(0.12, 0.5))
    hue = float(rng.choice((15, 30, 50, 120, 170, 210, 235, 280, 320)))
    saturation, value = rng.uniform(0.35, 0.75), rng.uniform(0.45, 0.9)
    shirt, shade = bgr(hue, saturation, value), bgr(hue, saturation, 0.75 * value)
    legs = bgr(float(rng.choice((215, 225, 35))), 0.45, rng.uniform(0.25, 0.5))
    skirt = bool(rng.random() < 0.3)
    bag = bool(rng.random() < 0.5)

    def draw(angle: float) -> Sprite:
        canvas = Canvas(0.9, 1.9, _DRAW_PPM["person"])
        swing, lift = math.sin(angle), 0.02 * abs(math.cos(angle))

        def at(x: float, y: float) -> tuple[float, float]:
            return x * tall, y * tall + lift

        for side, reach in ((-1, swing), (1, -swing)):
            foot = (0.07 * side + 0.17 * reach, 0.05 + 0.06 * max(0.0, math.cos(angle) * side))
            knee = (0.08 * side + 0.11 * reach + 0.02, 0.47)
            canvas.line([at(0.07 * side, 0.9), at(*knee), foot], 0.135 * tall, legs)
            canvas.line([foot, (foot[0] + 0.06, foot[1] - 0.015)], 0.085, bgr(30, 0.4, 0.15))
        canvas.line(
            [at(-0.2, 1.38), at(-0.26 - 0.05 * swing, 1.08), at(-0.22 - 0.1 * swing, 0.86)],
            0.1,
            shade,
        )
        canvas.fill([at(-0.21, 1.44), at(0.21, 1.44), at(0.17, 0.86), at(-0.17, 0.86)], shirt)
        canvas.fill([at(0.07, 1.44), at(0.21, 1.44), at(0.17, 0.86), at(0.1, 0.86)], shade)
        canvas.ellipse(0, at(0, 1.43)[1], 0.2 * tall, 0.07, shirt)
        if skirt:
            canvas.fill([at(-0.17, 0.95), at(0.17, 0.95), at(0.25, 0.55), at(-0.25, 0.55)], shade)
        canvas.line(
            [at(0.21, 1.38), at(0.27 + 0.05 * swing, 1.08), at(0.23 + 0.1 * swing, 0.86)],
            0.1,
            shirt,
        )
        canvas.ellipse(*at(0.23 + 0.1 * swing, 0.84), 0.05, 0.055, skin)
        if bag:
            canvas.fill(
                [at(-0.3, 1.3), at(-0.12, 1.3), at(-0.12, 0.95), at(-0.3, 0.95)], bgr(35, 0.6, 0.35)
            )
        canvas.line([at(0, 1.5), at(0, 1.42)], 0.1, skin)
        canvas.ellipse(*at(0, 1.64), 0.105, 0.135, hair)
        canvas.ellipse(*at(0.02, 1.61), 0.085, 0.11, skin)
        return canvas.sprite()

    return draw


def _dog(rng: np.random.Generator) -> Callable[[float], Sprite]:
    hue, value = rng.uniform(22, 40), rng.uniform(0.3, 0.85)
    coat, dark = bgr(hue, 0.5, value), bgr(hue, 0.55, value * 0.7)

    def draw(angle: float) -> Sprite:
        canvas = Canvas(1.1, 0.8, _DRAW_PPM["dog"])
        for x, phase, color in (
            (-0.26, 0, dark),
            (0.24, 2, dark),
            (-0.3, 3, coat),
            (0.28, 1, coat),
        ):
            swing = 0.09 * math.sin(angle + phase * math.pi / 2)
            canvas.line([(x, 0.4), (x + swing / 2, 0.2), (x + swing, 0.04)], 0.07, color)
        canvas.line([(-0.3, 0.46), (0.28, 0.46)], 0.24, coat)
        canvas.line([(-0.38, 0.5), (-0.5, 0.66 + 0.03 * math.sin(2 * angle))], 0.05, dark)
        canvas.line([(0.28, 0.5), (0.4, 0.64)], 0.15, coat)
        canvas.ellipse(0.42, 0.66, 0.1, 0.09, coat)
        canvas.line([(0.44, 0.63), (0.52, 0.62)], 0.07, coat)
        canvas.line([(0.37, 0.7), (0.34, 0.6)], 0.05, dark)
        return canvas.sprite()

    return draw


def _tree(rng: np.random.Generator) -> Sprite:
    canvas = Canvas(3.6, 5.6, _DRAW_PPM["tree"])
    bark, hue = bgr(30, 0.5, 0.36), rng.uniform(75, 115)
    canvas.fill([(-0.16, 0), (0.16, 0), (0.09, 3), (-0.09, 3)], bark)
    for lean in (-0.7, 0.6, 0.1):
        canvas.line([(0, 2.0), (lean, 3.4)], 0.09, bark)
    for value, shift, count in ((0.3, 0.0, 60), (0.42, 0.12, 70), (0.56, 0.25, 60)):
        for _ in range(count):
            angle, radius = rng.uniform(0, 2 * math.pi), math.sqrt(rng.uniform())
            x = (1.35 - shift) * radius * math.cos(angle) - shift / 2
            y = 3.7 + (1.45 - shift) * radius * math.sin(angle) + shift
            color = bgr(hue + rng.uniform(-9, 9), 0.6, value + rng.uniform(-0.04, 0.04))
            size = rng.uniform(0.14, 0.32)
            canvas.ellipse(x, min(y, 5.2), size, size * 0.85, color)
    return canvas.sprite()


def _bench() -> Sprite:
    canvas = Canvas(1.7, 0.95, _DRAW_PPM["bench"])
    wood, iron = bgr(28, 0.6, 0.5), bgr(210, 0.3, 0.22)
    for x in (-0.7, 0.7):
        canvas.line([(x, 0.02), (x, 0.85)], 0.07, iron)
    for y in (0.4, 0.47, 0.62, 0.72, 0.82):
        canvas.line([(-0.78, y), (0.78, y)], 0.06, wood)
    return canvas.sprite()


def _bicycle(hue: float) -> Sprite:
    canvas = Canvas(1.8, 1.1, _DRAW_PPM["bicycle"])
    frame, dark = bgr(hue, 0.7, 0.7), bgr(215, 0.3, 0.16)
    for x in (-0.52, 0.52):
        ring = [(x + 0.32 * math.cos(a / 4), 0.34 + 0.32 * math.sin(a / 4)) for a in range(26)]
        canvas.line(ring, 0.05, dark)
        for spoke in range(0, 26, 4):
            canvas.line([(x, 0.34), ring[spoke]], 0.015, bgr(210, 0.1, 0.6))
    canvas.line(
        [(-0.52, 0.34), (-0.02, 0.34), (0.38, 0.78), (-0.18, 0.8), (-0.52, 0.34)], 0.045, frame
    )
    canvas.line([(-0.02, 0.34), (-0.22, 0.9)], 0.045, frame)
    canvas.line([(0.52, 0.34), (0.36, 0.95), (0.46, 1.02)], 0.045, frame)
    canvas.line([(-0.34, 0.92), (-0.12, 0.92)], 0.07, dark)
    return canvas.sprite()


def _traffic_light() -> Sprite:
    canvas = Canvas(0.6, 3.4, _DRAW_PPM["traffic light"])
    case = bgr(150, 0.4, 0.16)
    canvas.line([(0, 0), (0, 2.5)], 0.1, bgr(150, 0.25, 0.32))
    canvas.fill([(-0.2, 2.35), (0.2, 2.35), (0.2, 3.35), (-0.2, 3.35)], case)
    for y, color in (
        (3.16, bgr(14, 0.8, 0.45)),
        (2.86, bgr(42, 0.8, 0.4)),
        (2.55, bgr(145, 0.85, 0.95)),
    ):
        canvas.ellipse(0, y, 0.11, 0.11, color)
    return canvas.sprite()


def _fire_hydrant() -> Sprite:
    canvas = Canvas(0.5, 0.85, _DRAW_PPM["fire hydrant"])
    paint, dark = bgr(16, 0.85, 0.85), bgr(16, 0.85, 0.6)
    canvas.fill([(-0.14, 0), (0.14, 0), (0.14, 0.6), (-0.14, 0.6)], paint)
    canvas.fill([(-0.2, 0), (0.2, 0), (0.2, 0.08), (-0.2, 0.08)], dark)
    canvas.line([(-0.2, 0.42), (0.2, 0.42)], 0.12, dark)
    canvas.ellipse(0, 0.6, 0.15, 0.14, paint)
    canvas.line([(0, 0.72), (0, 0.8)], 0.06, dark)
    return canvas.sprite()
