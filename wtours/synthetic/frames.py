"""From a spec to its frames, in order."""

from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise

import numpy as np

from wtours.synthetic.drawing.sprites import draw_sprites
from wtours.synthetic.scene import Scene
from wtours.synthetic.spec import WalkSpec
from wtours.synthetic.types import RenderedFrame

_SPRITES_STREAM = 2**32
"""Keeps the sprites' random numbers apart from those of any street."""


def render_frames(spec: WalkSpec) -> Iterator[RenderedFrame]:
    """Yield every frame of a walk; the same spec gives the same frames."""
    sprites = draw_sprites(np.random.default_rng([spec.seed, _SPRITES_STREAM]))
    rate = Fraction(spec.frame_rate)
    edges = (0, *spec.cut_frames, spec.num_frames)
    for street, (start, end) in enumerate(pairwise(edges)):
        scene = Scene(spec.seed, street, float((end - start) / rate), sprites)
        for frame_index in range(start, end):
            seconds = float((frame_index - start) / rate)
            lightness = spec.lightness(frame_index)
            yield scene.render(seconds, lightness, width=spec.width, height=spec.height)
