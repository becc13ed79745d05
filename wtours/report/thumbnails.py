"""Thumbnails: the frames at the cuts, in the lightest and darkest minute, and evenly spaced ones.

Detections are drawn on the frames given to the detector.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from wtours.errors import VideoError
from wtours.media.reader import open_video
from wtours.report.data import MeasuredVideo, ReportVideo, detections_on
from wtours.report.style import CLASS_COLORS, OTHER_CLASS_COLOR
from wtours.text import clock, plain
from wtours.workspace.layout import Layout

LONG_SIDE = 400
"""Pixels, at most: a little more than the page shows, for dense screens."""
MAX_CUTS = 12
"""Cuts that are shown; of more, so many evenly chosen ones."""
NUM_SPACED = 8
_MAX_NAMED = 8
"""Boxes on a frame that carry their label: the best ones whose labels do not hide each other."""
_QUALITY = 82
_US = 1_000_000


@dataclass(frozen=True, slots=True)
class Moment:
    """What one figure of the strip shows: one frame, or the two frames at a cut."""

    group: str
    """Heading that it stands under."""
    caption: str
    frames: tuple[int, ...]
    """Ordinals, consecutive."""


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """One image."""

    jpeg: bytes
    width: int
    height: int
    alt: str


@dataclass(frozen=True, slots=True)
class Figure:
    """A moment with its images."""

    moment: Moment
    thumbnails: tuple[Thumbnail, ...]


def choose_moments(measured: MeasuredVideo) -> list[Moment]:
    """Return what to show of a video, in the order of the page."""
    if not len(measured.pts_us):
        return []
    return [*_at_cuts(measured), *_extremes(measured), *_evenly_spaced(measured)]


def make_thumbnails(
    layout: Layout, video: ReportVideo, *, threshold: float, on_figure: Callable[[int, int], None]
) -> list[Figure]:
    """Decode and draw the moments of a video whose file is the one that was analyzed.

    Args:
        layout: Where the detections are.
        video: Downloaded and analyzed.
        threshold: Detections from this score up are drawn.
        on_figure: Called with the number of figures done and of all.

    Raises:
        VideoError: the file cannot be decoded any more.
    """
    if video.download is None or video.measured is None:
        raise ValueError(f"{video.entry.id} is not downloaded and analyzed")
    moments = choose_moments(video.measured)
    frames = sorted({frame for moment in moments for frame in moment.frames})
    seen = [frame for frame in frames if video.measured.detected[frame]]
    detections = (
        detections_on(layout, video.entry.id, seen, threshold=threshold)
        if video.measured.objects is not None
        else {}
    )
    colors = class_colors(video.measured)
    figures = []
    with open_video(video.download.path, stream=video.download.stream) as reader:
        size = reader.metadata.width, reader.metadata.height
        scale = min(1.0, LONG_SIDE / max(size))
        for moment in moments:
            times = video.measured.pts_us[list(moment.frames)]
            decoded = {
                frame.pts_us: frame.to_rgb(max(1, round(min(size) * scale)))
                for frame in reader.frames(int(times[0]), int(times[-1]) + 1)
            }
            thumbnails = []
            for frame, time_us in zip(moment.frames, times, strict=True):
                if int(time_us) not in decoded:
                    raise VideoError(
                        f"{video.entry.id} has no frame at {clock(int(time_us))} any more; "
                        f"download it again"
                    )
                rgb, alt = decoded[int(time_us)], f"frame at {clock(int(time_us))}"
                if frame in detections:
                    found = detections[frame]
                    alt += f", {len(found)} detections drawn"
                    rgb = draw_detections(rgb, found, scale=rgb.shape[1] / size[0], colors=colors)
                thumbnails.append(_encode(rgb, alt))
            figures.append(Figure(moment, tuple(thumbnails)))
            on_figure(len(figures), len(moments))
    return figures


def class_colors(measured: MeasuredVideo) -> dict[str, str]:
    """Return "#rrggbb" by label: distinct for the most frequent classes of the video."""
    counts = measured.objects.class_counts if measured.objects is not None else ()
    colors = itertools.chain(CLASS_COLORS, itertools.repeat(OTHER_CLASS_COLOR))
    return {label: color for (label, _), color in zip(counts, colors, strict=False)}


def draw_detections(
    rgb: NDArray[np.uint8],
    detections: Sequence[dict[str, Any]],
    *,
    scale: float,
    colors: Mapping[str, str],
) -> NDArray[np.uint8]:
    """Return a copy of an (H, W, 3) uint8 RGB image with boxes, the best of them named.

    Args:
        rgb: The reduced image.
        detections: Rows of detections.parquet; boxes in pixels of the full image.
        scale: Pixels of the reduced image per pixel of the full one.
        colors: "#rrggbb" by label, for example of `class_colors`.
    """
    image = Image.fromarray(rgb)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=13)
    best_first = sorted(detections, key=lambda d: (-d["score"], d["label"], d["x0"], d["y0"]))
    for detection in reversed(best_first):
        color = colors[detection["label"]]
        box = _box_on(detection, scale, image.size)
        draw.rectangle(box, outline="#000000", width=3)
        draw.rectangle(box, outline=color, width=2)
    taken: list[tuple[float, float, float, float]] = []
    for detection in best_first:
        color = colors[detection["label"]]
        x0, y0, _, _ = _box_on(detection, scale, image.size)
        text = plain(detection["label"])[:24]
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
        width, height = right - left + 6, bottom - top + 5
        # Above the box where there is room, and never past the right edge.
        x, y = max(0, min(x0, image.width - width)), y0 - height if y0 >= height else y0
        place = (x, y, x + width, y + height)
        if len(taken) == _MAX_NAMED or any(_overlap(place, other) for other in taken):
            continue
        taken.append(place)
        draw.rectangle(place, fill=color)
        draw.text((x + 3 - left, y + 2 - top), text, fill=_text_color(color), font=font)
    return np.asarray(image)


def _at_cuts(measured: MeasuredVideo) -> list[Moment]:
    cuts = [start_us for start_us, _ in measured.shots_us[1:]]
    shown = cuts
    if len(cuts) > MAX_CUTS:
        shown = [cuts[round(i)] for i in np.linspace(0, len(cuts) - 1, MAX_CUTS)]
    group = "At the cuts: the frame before and the first frame of the new shot"
    if len(shown) < len(cuts):
        group += f" ({len(shown)} of {len(cuts)} cuts)"
    moments = []
    for cut_us in shown:
        first = int(np.searchsorted(measured.pts_us, cut_us))
        moments.append(Moment(group, f"cut at {clock(cut_us)}", (first - 1, first)))
    return moments


def _extremes(measured: MeasuredVideo) -> list[Moment]:
    """Return a frame of the lightest and of the darkest minute (second, of a short video)."""
    last_us = int(measured.pts_us[-1])
    name, span_us = ("minute", 60 * _US) if last_us >= 120 * _US else ("second", _US)
    spans = measured.pts_us // span_us
    counts = np.bincount(spans)
    # A few frames at the end are no minute.
    full = counts * 2 >= counts.max()
    sums = np.bincount(spans, weights=measured.lightness)
    means = np.where(full, sums / np.maximum(counts, 1), np.nan)
    moments = []
    for word, span in (("lightest", np.nanargmax(means)), ("darkest", np.nanargmin(means))):
        frame = _frame_near(measured, (int(span) + 0.5) * span_us, within=spans == span)
        time = clock(int(measured.pts_us[frame]))
        caption = f"{word} {name}, mean L* {means[span]:.1f}, frame at {time}"
        moments.append(Moment(f"Lightest and darkest {name}", caption, (frame,)))
    return moments


def _evenly_spaced(measured: MeasuredVideo) -> list[Moment]:
    length_us = int(measured.pts_us[-1])
    times = [(k + 0.5) / NUM_SPACED * length_us for k in range(NUM_SPACED)]
    anywhere = np.ones(len(measured.pts_us), np.bool_)
    frames = sorted({_frame_near(measured, time_us, within=anywhere) for time_us in times})
    return [Moment("Evenly spaced", clock(int(measured.pts_us[f])), (f,)) for f in frames]


def _frame_near(measured: MeasuredVideo, time_us: float, *, within: NDArray[np.bool_]) -> int:
    """Return the frame nearest to a time, one given to the detector where there is one."""
    (frames,) = np.nonzero(within & measured.detected)
    if not len(frames):
        (frames,) = np.nonzero(within)
    return int(frames[np.abs(measured.pts_us[frames] - time_us).argmin()])


def _encode(rgb: NDArray[np.uint8], alt: str) -> Thumbnail:
    height, width = rgb.shape[:2]
    jpeg = simplejpeg.encode_jpeg(
        np.ascontiguousarray(rgb), quality=_QUALITY, colorspace="RGB", colorsubsampling="420"
    )
    return Thumbnail(jpeg, width, height, alt)


def _box_on(
    detection: dict[str, Any], scale: float, size: tuple[int, int]
) -> tuple[float, float, float, float]:
    width, height = size
    x0, x1 = (min(max(detection[k] * scale, 0), width - 1) for k in ("x0", "x1"))
    y0, y1 = (min(max(detection[k] * scale, 0), height - 1) for k in ("y0", "y1"))
    return x0, y0, max(x0, x1), max(y0, y1)


def _overlap(
    one: tuple[float, float, float, float], other: tuple[float, float, float, float]
) -> bool:
    beside = one[2] < other[0] or other[2] < one[0]
    return not (beside or one[3] < other[1] or other[3] < one[1])


def _text_color(background: str) -> str:
    red, green, blue = (int(background[i : i + 2], 16) for i in (1, 3, 5))
    return "#000000" if 0.299 * red + 0.587 * green + 0.114 * blue > 110 else "#ffffff"
