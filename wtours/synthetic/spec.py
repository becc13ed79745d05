"""What a rendered walk is asked to be, and the times that follow from it."""

import math
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

MIN_STREET_SECONDS = 1.0
MIN_STREET_FRAMES = 20
"""A street lasts at least this long between two cuts: detectors merge cuts that are nearer."""
MIN_LIGHT = 0.2
"""Below this the 8-bit image is too dark for a cut to be seen."""
MIN_SIDE, MAX_SIDE = 64, 4096
MAX_FRAME_RATE = 240


@dataclass(frozen=True, kw_only=True)
class WalkSpec:
    """The length, size, rate, seed, cuts and light of a rendered walk.

    Args:
        seconds: Length; the video has `round(seconds * frame_rate)` frames.
        width: Pixels, even, 64 to 4096.
        height: Pixels, even, 64 to 4096.
        frame_rate: Frames per second, exact, 1 to 240.
        seed: 0 or more; another seed is another city.
        cut_seconds: Times of the hard cuts, increasing; every street between two cuts (and before
            the first, after the last) lasts at least a second and 20 frames.
        light_start: Lightness factor of the first frame, 0.2 to 1.
        light_end: Lightness factor of the last frame, 0.2 to `light_start`.

    Raises:
        ValueError: a value outside these limits; the message names it.
    """

    seconds: float
    width: int = 640
    height: int = 360
    frame_rate: Fraction | int = 30
    seed: int = 0
    cut_seconds: tuple[float, ...] = ()
    light_start: float = 1.0
    light_end: float = 0.35

    def __post_init__(self) -> None:
        if not 1 <= self.frame_rate <= MAX_FRAME_RATE:
            raise ValueError(f"frame_rate ({self.frame_rate}) must be from 1 to {MAX_FRAME_RATE}")
        if not math.isfinite(self.seconds) or self.num_frames < 1:
            raise ValueError(f"seconds ({self.seconds}) must hold at least one frame")
        for name, side in (("width", self.width), ("height", self.height)):
            if side % 2 or not MIN_SIDE <= side <= MAX_SIDE:
                raise ValueError(f"{name} ({side}) must be even, from {MIN_SIDE} to {MAX_SIDE}")
        if self.seed < 0:
            raise ValueError(f"seed ({self.seed}) must be 0 or more")
        if not MIN_LIGHT <= self.light_end <= self.light_start <= 1:
            raise ValueError(
                f"light must fall: {MIN_LIGHT} <= light_end ({self.light_end}) <= "
                f"light_start ({self.light_start}) <= 1"
            )
        shortest = max(MIN_STREET_FRAMES, math.ceil(MIN_STREET_SECONDS * self.frame_rate))
        edges = (0, *self.cut_frames, self.num_frames)
        for start, end in pairwise(edges):
            if self.cut_seconds and end - start < shortest:
                raise ValueError(
                    f"cut_seconds {self.cut_seconds} leave a street of {end - start} frames; each "
                    f"needs {shortest} at {self.frame_rate} frames per second"
                )

    @property
    def num_frames(self) -> int:
        """The number of frames of the video."""
        return round(self.seconds * self.frame_rate)

    @property
    def cut_frames(self) -> tuple[int, ...]:
        """The first frame of every street but the first."""
        return tuple(round(seconds * self.frame_rate) for seconds in self.cut_seconds)

    def street_of(self, frame_index: int) -> int:
        """Return the number of the street that a frame shows: the cuts at or before it."""
        return sum(cut <= frame_index for cut in self.cut_frames)

    def pts_us(self, frame_index: int) -> int:
        """Return the time of a frame in microseconds from the first."""
        return round(frame_index * 1_000_000 / Fraction(self.frame_rate))

    def lightness(self, frame_index: int) -> float:
        """Return the lightness factor of a frame; it falls linearly from the first to the last."""
        progress = frame_index / max(1, self.num_frames - 1)
        return self.light_start + (self.light_end - self.light_start) * progress

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values; the frame rate as "30" or "30000/1001"."""
        rate, cuts = str(self.frame_rate), list(self.cut_seconds)
        return asdict(self) | {"frame_rate": rate, "cut_seconds": cuts}
