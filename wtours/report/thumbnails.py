"""Thumbnails: evenly spaced frames, those at cuts, in the lightest and darkest minute, of shots.

Detections are kept beside the frames given to the detector, and drawn over them by the page: so one
class can be shown alone.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wtours.errors import VideoError
from wtours.media.reader import open_video
from wtours.report.data import MeasuredVideo, ReportVideo, detections_on
from wtours.text import clock, counted, plain
from wtours.workspace.layout import Layout
from wtours.workspace.videos import fetch_video

NUM_SPACED = 24
MAX_CUTS = 8
"""Cuts that are shown; of more, so many evenly chosen ones."""
MAX_SHOTS = 48
"""Shots with a thumbnail; of more, so many evenly chosen ones."""
_SHOT_SIDE = 240
"""Pixels of the longer side of a shot's thumbnail."""
_LARGE_SIDE, _MANY_SIDE, _MANY_VIDEOS = 640, 400, 5
"""Pixels of the others; from so many videos on the second: ten of 2 h stay under 15 MB."""
_QUALITY, _DRAWING_QUALITY = 70, 80
_MAX_WIDTH = 1400
_US = 1_000_000
_T = TypeVar("_T")

Group = Literal["spaced", "cuts", "extremes", "shots"]


@dataclass(frozen=True, slots=True)
class Moment:
    """What one figure shows: one frame, or the two frames at a cut."""

    group: Group
    caption: str
    frames: tuple[int, ...]
    """Ordinals, consecutive."""


@dataclass(frozen=True, slots=True)
class Box:
    """One detection, in pixels of its thumbnail."""

    label: str
    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """One image."""

    webp: bytes
    width: int
    height: int
    time_us: int
    boxes: tuple[Box, ...] | None
    """The best first; None: the frame was not given to a detector."""

    @property
    def alt(self) -> str:
        """Return what the image shows, in words."""
        found = "" if self.boxes is None else f", {counted(len(self.boxes), 'detection')}"
        return f"frame at {clock(self.time_us)}{found}"


@dataclass(frozen=True, slots=True)
class Figure:
    """A moment with its images."""

    moment: Moment
    thumbnails: tuple[Thumbnail, ...]


def long_side(num_videos: int) -> int:
    """Return the longer side in pixels of the thumbnails of a page with so many videos."""
    return _LARGE_SIDE if num_videos < _MANY_VIDEOS else _MANY_SIDE


def choose_moments(measured: MeasuredVideo) -> list[Moment]:
    """Return what to show of a video, in the order of the page."""
    spaced, cuts, extremes = _evenly_spaced(measured), _at_cuts(measured), _extremes(measured)
    return [*spaced, *cuts, *extremes, *_of_shots(measured)]


def make_thumbnails(
    layout: Layout,
    video: ReportVideo,
    *,
    threshold: float,
    side: int,
    on_figure: Callable[[int, int], None],
) -> list[Figure]:
    """Decode the moments of a video whose file is the one that was analyzed.

    Args:
        threshold: Detections from this score up are shown.
        side: The longer side of the thumbnails in pixels, at most.
        on_figure: Called with the number of figures done and of all.

    Raises:
        VideoError: the file cannot be decoded any more.
    """
    if video.download is None or video.measured is None:
        raise ValueError(f"{video.entry.id} is not downloaded and analyzed")
    moments = choose_moments(video.measured)
    frames = {f for moment in moments if moment.group != "shots" for f in moment.frames}
    seen = [frame for frame in sorted(frames) if video.measured.detected[frame]]
    detections = (
        detections_on(layout, video.entry.id, seen, threshold=threshold)
        if video.measured.objects is not None
        else {}
    )
    figures = []
    fetch_video(video.download)
    with open_video(video.download.path, stream=video.download.stream) as reader:
        size = reader.metadata.width, reader.metadata.height
        for moment in moments:
            is_shot = moment.group == "shots"
            scale = min(1.0, (_SHOT_SIDE if is_shot else side) / max(size))
            times = video.measured.pts_us[list(moment.frames)]
            decoded = {
                frame.pts_us: frame.to_rgb(max(1, round(min(size) * scale)))
                for frame in reader.frames(int(times[0]), int(times[-1]) + 1)
            }
            thumbnails = []
            for frame, time_us in zip(moment.frames, times.tolist(), strict=True):
                if time_us not in decoded:
                    raise VideoError(
                        f"{video.entry.id} has no frame at {clock(time_us)} any more; "
                        f"download it again"
                    )
                found = None if is_shot else detections.get(frame)
                thumbnails.append(_thumbnail(decoded[time_us], time_us, found, size[0]))
            figures.append(Figure(moment, tuple(thumbnails)))
            on_figure(len(figures), len(moments))
    return figures


def _thumbnail(
    rgb: NDArray[np.uint8], time_us: int, found: Sequence[dict[str, Any]] | None, width: int
) -> Thumbnail:
    image = io.BytesIO()
    Image.fromarray(rgb).save(image, "WEBP", quality=_QUALITY, method=4)
    shown_height, shown_width = rgb.shape[:2]
    boxes = None
    if found is not None:
        best_first = sorted(found, key=lambda detection: -detection["score"])
        size, scale = (shown_width, shown_height), shown_width / width
        boxes = tuple(Box(plain(d["label"]), *box_on(d, scale, size)) for d in best_first)
    return Thumbnail(image.getvalue(), shown_width, shown_height, time_us, boxes)


def reduced_webp(drawing: Image.Image) -> dict[str, Any]:
    """Return a drawing as the pages of runs show it: "webp", "width" and "height"."""
    if drawing.width > _MAX_WIDTH:
        height = max(1, round(drawing.height * _MAX_WIDTH / drawing.width))
        drawing = drawing.resize((_MAX_WIDTH, height), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    drawing.save(data, "WEBP", quality=_DRAWING_QUALITY, method=4)
    return {"webp": data.getvalue(), "width": drawing.width, "height": drawing.height}


def box_on(
    detection: dict[str, Any], scale: float, size: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Return x0, y0, x1, y1 of a detection in an image of (width, height); never outside of it."""
    width, height = size
    x0, x1 = (min(max(detection[k] * scale, 0), width - 1) for k in ("x0", "x1"))
    y0, y1 = (min(max(detection[k] * scale, 0), height - 1) for k in ("y0", "y1"))
    return x0, y0, max(x0, x1), max(y0, y1)


def _at_cuts(measured: MeasuredVideo) -> list[Moment]:
    moments = []
    for cut_us in spread([start_us for start_us, _ in measured.shots_us[1:]], MAX_CUTS):
        first = int(np.searchsorted(measured.pts_us, cut_us))
        moments.append(Moment("cuts", f"cut at {clock(cut_us)}", (first - 1, first)))
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
        moments.append(Moment("extremes", caption, (frame,)))
    return moments


def _evenly_spaced(measured: MeasuredVideo) -> list[Moment]:
    length_us = int(measured.pts_us[-1])
    times = [(k + 0.5) / NUM_SPACED * length_us for k in range(NUM_SPACED)]
    anywhere = np.ones(len(measured.pts_us), np.bool_)
    frames = sorted({_frame_near(measured, time_us, within=anywhere) for time_us in times})
    return [Moment("spaced", clock(int(measured.pts_us[f])), (f,)) for f in frames]


def _of_shots(measured: MeasuredVideo) -> list[Moment]:
    """Return the middle frame of each shot; the caption is the shot's number, from 1."""
    moments = []
    for number, (start_us, end_us) in spread(list(enumerate(measured.shots_us, 1)), MAX_SHOTS):
        middle = int(np.searchsorted(measured.pts_us, (start_us + end_us) // 2, side="right")) - 1
        moments.append(Moment("shots", str(number), (max(middle, 0),)))
    return moments


def spread(items: Sequence[_T], most: int) -> Sequence[_T]:
    """Return all items, or `most` of them, evenly chosen, the first and the last among them."""
    if len(items) <= most:
        return items
    return [items[round(place)] for place in np.linspace(0, len(items) - 1, most)]


def _frame_near(measured: MeasuredVideo, time_us: float, *, within: NDArray[np.bool_]) -> int:
    """Return the frame nearest to a time, one given to the detector where there is one."""
    (frames,) = np.nonzero(within & measured.detected)
    if not len(frames):
        (frames,) = np.nonzero(within)
    return int(frames[np.abs(measured.pts_us[frames] - time_us).argmin()])
