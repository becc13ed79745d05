"""What Figure 2 and the page draw against time: lightness and objects, averaged over spans."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wtours.analyze.object_counts import scored_at_least
from wtours.analyze.schema import MAX_DETECTIONS, open_parquet
from wtours.report.data import MeasuredVideo, ReportVideo

MAX_POINTS = 360
"""Of the longest video's curves."""


@dataclass(frozen=True, eq=False, slots=True)
class Series:
    """Values averaged over equal spans of time; only spans that hold a value, P of them."""

    seconds: NDArray[np.float64]
    """(P,) the middle of each span."""
    values: NDArray[np.float64]
    """(P,) means."""


@dataclass(frozen=True, eq=False, slots=True)
class Curves:
    """One video's curves."""

    lightness: Series
    """Mean CIELAB L*, 0..100."""
    low: Series
    high: Series
    """5th and 95th percentile of L* over the frame."""
    objects: Series | None
    """Detections per frame given to the detector; None: not measured."""
    by_class: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    """(P,) the same of single classes, at the times of `objects`."""


def span_of(videos: Sequence[ReportVideo]) -> float:
    """Return the span in microseconds with which the longest video has `MAX_POINTS` points."""
    seconds = max((v.measured.summary.seconds for v in videos if v.measured), default=60.0)
    return max(seconds * 1e6 / MAX_POINTS, 1.0)


def shows_objects(videos: Sequence[ReportVideo]) -> bool:
    """Return whether the panels of objects are drawn.

    Of videos that no paper knows, panels that all would be empty are left out.
    """
    objects = [video.measured.objects for video in videos if video.measured is not None]
    is_counted = any(one is not None and one.per_frame is not None for one in objects)
    return is_counted or any(video.entry.published for video in videos)


def video_curves(measured: MeasuredVideo, *, span_us: float) -> Curves:
    """Return a video's curves, without those of single classes."""
    mean, low, high = (
        average_over_time(measured.pts_us, values, span_us=span_us)
        for values in (measured.lightness, measured.lightness_p5, measured.lightness_p95)
    )
    objects = measured.objects
    return Curves(
        lightness=mean,
        low=low,
        high=high,
        objects=None
        if objects is None or objects.per_frame is None
        else average_over_time(objects.pts_us, objects.per_frame, span_us=span_us),
    )


def class_frequency(video: ReportVideo) -> NDArray[np.float64] | None:
    """Return detections per frame of each class, (C,), the most frequent first.

    None: not measured, which is not the same as no class.
    """
    objects = video.measured.objects if video.measured is not None else None
    if objects is None or objects.per_frame is None:
        return None
    counts = np.array([count for _, count in objects.class_counts], np.float64)
    per_frame: NDArray[np.float64] = counts / objects.facts.frames_analysed
    return per_frame


def average_over_time(pts_us: NDArray[np.int64], values: NDArray[Any], *, span_us: float) -> Series:
    """Return the mean of the values in each span [k * span_us, (k + 1) * span_us)."""
    spans = (pts_us / span_us).astype(np.int64)
    counts = np.bincount(spans)
    sums = np.bincount(spans, weights=values.astype(np.float64))
    (held,) = np.nonzero(counts)
    middles = (held.astype(np.float64) + 0.5) * (span_us / 1e6)
    return Series(middles, sums[held] / counts[held])


def classes_over_time(
    path: Path,
    detected_us: NDArray[np.int64],
    labels: Sequence[str],
    *,
    threshold: float,
    span_us: float,
) -> dict[str, NDArray[np.float64]]:
    """Return detections per frame given to the detector of some classes, (P,) by label.

    Reads detections.parquet batch by batch; P as of `average_over_time` of the same frames and
    span. `detected_us` are the (F,) pts of the frames given to the detector, ascending.
    """
    frames = np.bincount((detected_us / span_us).astype(np.int64))
    number_of = {label: number for number, label in enumerate(labels)}
    counts = np.zeros((len(labels), len(frames)))
    with open_parquet(
        path, "detect again", max_rows=MAX_DETECTIONS, read_dictionary=["label"]
    ) as file:
        for batch in file.iter_batches(columns=["pts_us", "label", "score"]):
            rows = batch.filter(scored_at_least(threshold))
            words = rows["label"].dictionary.to_pylist()
            numbers = np.array([number_of.get(word, -1) for word in words], np.int64)
            own = numbers[rows["label"].indices.to_numpy()] if words else np.empty(0, np.int64)
            spans = (rows["pts_us"].to_numpy() / span_us).astype(np.int64)
            kept = (own >= 0) & (spans < len(frames))
            np.add.at(counts, (own[kept], spans[kept]), 1)
    (held,) = np.nonzero(frames)
    return dict(zip(labels, counts[:, held] / frames[held], strict=True))
