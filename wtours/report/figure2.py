"""Figure 2: lightness and objects against time, class frequency, and cuts, of any number of videos.

The videos stand over one another on common axes, so that ten of them are as readable as one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from wtours.report.data import ReportVideo
from wtours.report.style import LIGHT, Theme, drawing_style
from wtours.report.table6 import NOT_MEASURED

_US = 1_000_000
_DPI = 160
_MAX_POINTS = 480
"""Along the time axis: frames are averaged over equal spans, so that a line has at most so many."""
_LINES = ("-", "--", ":", "-.")


def save_figure(
    videos: Sequence[ReportVideo], files: Mapping[str, BinaryIO], *, theme: Theme = LIGHT
) -> None:
    """Draw Figure 2 of these videos; the same videos give the same bytes.

    Args:
        videos: One or more; what was not measured of them is written as such.
        files: Open binary files to write, by format: "png", "svg", "pdf".
        theme: Colors.
    """
    undated = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with drawing_style(theme):
        figure = _draw(videos, theme)
        # Text is measured once, for all formats: that is most of the time.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for kind, file in files.items():
            figure.savefig(file, format=kind, dpi=_DPI, metadata=undated[kind])


def _draw(videos: Sequence[ReportVideo], theme: Theme) -> Figure:
    strip_inches = 1.3 if len(videos) <= 4 else 0.9
    strips, lower = strip_inches * len(videos) + 0.8, max(3.2, 0.34 * len(videos) + 1.2)
    figure = Figure(
        figsize=(12, strips + lower),
        dpi=_DPI,
        layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.05, rect=(0, 0.008, 1, 0.984)),
    )
    parts: Any = figure.subfigures(2, 1, height_ratios=[strips, lower], hspace=0.02)
    axes = parts[0].subplots(len(videos), 2, sharex=True, sharey="col", squeeze=False)
    unit = _time_unit(videos)
    for number, (video, (lightness, objects)) in enumerate(zip(videos, axes, strict=True)):
        color = theme.colors[number % len(theme.colors)]
        _draw_lightness(lightness, video, color, theme, unit)
        _draw_objects(objects, video, color, theme, unit)
    _label_strips(axes, unit, theme)
    frequency, cuts = parts[1].subplots(1, 2)
    _draw_frequency(frequency, videos, theme)
    _draw_cuts(cuts, videos, theme)
    return figure


@dataclass(frozen=True, slots=True)
class _TimeUnit:
    name: str
    per_minute: float
    span_us: float
    end: float
    """The longest video's end, in this unit."""


def _time_unit(videos: Sequence[ReportVideo]) -> _TimeUnit:
    seconds = max((v.measured.summary.seconds for v in videos if v.measured), default=60.0)
    in_minutes = seconds > 180
    return _TimeUnit(
        name="min" if in_minutes else "s",
        per_minute=1 if in_minutes else 60,
        span_us=max(seconds * _US / _MAX_POINTS, 1.0),
        end=seconds / 60 if in_minutes else seconds,
    )


def _draw_lightness(
    axes: Axes, video: ReportVideo, color: str, theme: Theme, unit: _TimeUnit
) -> None:
    axes.text(0, 1.03, video.label, transform=axes.transAxes, color=color, weight="bold")
    measured = video.measured
    if measured is None:
        _say_not_measured(axes, theme)
        return
    mean, low, high = (
        average_over_time(measured.pts_us, values, span_us=unit.span_us)
        for values in (measured.lightness, measured.lightness_p5, measured.lightness_p95)
    )
    time = mean.minutes * unit.per_minute
    axes.fill_between(time, low.values, high.values, color=color, alpha=0.22, linewidth=0)
    axes.plot(time, mean.values, color=color, linewidth=1.4)
    for start_us, _ in measured.shots_us[1:]:
        cut = start_us / (60 * _US) * unit.per_minute
        axes.axvline(cut, ymax=0.12, color=theme.ink, linewidth=0.9)


def _draw_objects(
    axes: Axes, video: ReportVideo, color: str, theme: Theme, unit: _TimeUnit
) -> None:
    objects = video.measured.objects if video.measured is not None else None
    if objects is None:
        _say_not_measured(axes, theme)
        return
    series = average_over_time(objects.pts_us, objects.per_frame, span_us=unit.span_us)
    time = series.minutes * unit.per_minute
    axes.fill_between(time, 0, series.values, color=color, alpha=0.22, linewidth=0)
    axes.plot(time, series.values, color=color, linewidth=1.4)


def _label_strips(axes: NDArray[Any], unit: _TimeUnit, theme: Theme) -> None:
    for strip in axes.flat:
        strip.grid(axis="y")
        strip.tick_params(length=0)
        strip.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        strip.set_xlim(0, unit.end)
    for strip in axes[:, 0]:
        strip.set_ylim(0, 100)
        strip.set_yticks([0, 50, 100])
    for strip in axes[:, 1]:
        strip.set_ylim(bottom=0)
    _title(axes[0, 0], "(a) Lightness, CIELAB L*: mean and 5th to 95th percentile", theme)
    _title(axes[0, 1], "(b) Objects per frame", theme)
    for strip in axes[-1]:
        strip.set_xlabel(f"time ({unit.name})")


def _draw_frequency(axes: Axes, videos: Sequence[ReportVideo], theme: Theme) -> None:
    _title(axes, "(c) Frequency of classes, from the most to the least frequent", theme)
    ends = []
    for number, video in enumerate(videos):
        objects = video.measured.objects if video.measured is not None else None
        if objects is None or not objects.class_counts:
            continue
        color = theme.colors[number % len(theme.colors)]
        per_frame = [count / objects.facts.frames_analysed for _, count in objects.class_counts]
        rank = np.arange(1, len(per_frame) + 1)
        axes.plot(
            rank,
            per_frame,
            color=color,
            linewidth=1.6,
            linestyle=_LINES[number // len(theme.colors) % len(_LINES)],
            marker="o" if len(rank) <= 20 else None,
            markersize=4,
        )
        ends.append((len(rank), per_frame[-1], video.label, color))
    if not ends:
        _say_not_measured(axes, theme)
        return
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(which="major")
    axes.tick_params(which="both", length=0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    last = max(end[0] for end in ends)
    axes.set_xlim(0.9, last * 1.1)
    axes.set_xlabel("rank of the class")
    axes.set_ylabel("detections per frame looked at")
    _label_lines(axes, ends)


def _label_lines(axes: Axes, ends: list[tuple[int, float, str, str]]) -> None:
    """Name each line at the right, in the order of the lines' ends and never on one another."""
    order = sorted(ends, key=lambda end: (end[1], end[0]))
    step = min(0.09, 0.95 / len(order))
    low, high = (float(np.log(limit)) for limit in axes.get_ylim())
    height = -1.0
    for rank, value, label, color in order:
        wanted = (float(np.log(value)) - low) / (high - low)
        height = max(wanted, height + step)
        axes.annotate(
            f"{label}: {rank} classes",
            xy=(rank, value),
            xytext=(1.03, height),
            textcoords="axes fraction",
            color=color,
            va="center",
            fontsize=8.5,
            arrowprops={
                "arrowstyle": "-",
                "color": color,
                "alpha": 0.6,
                "linewidth": 0.7,
                "relpos": (0, 0.5),
            },
        )


def _draw_cuts(axes: Axes, videos: Sequence[ReportVideo], theme: Theme) -> None:
    published = [v.entry.published.shots if v.entry.published else None for v in videos]
    has_published = any(shots is not None for shots in published)
    legend = ", diamond: published" if has_published else ""
    _title(axes, f"(d) Number of cuts{legend}", theme)
    largest = 0
    for number, (video, paper) in enumerate(zip(videos, published, strict=True)):
        color = theme.colors[number % len(theme.colors)]
        cuts = video.measured.cuts if video.measured is not None else None
        axes.barh(number, cuts or 0, color=color, height=0.62)
        if paper is not None:
            axes.plot(
                paper,
                number,
                "D",
                color=theme.ink,
                markerfacecolor="none",
                markersize=6,
                clip_on=False,
            )
        end = max(cuts or 0, paper or 0)
        text = f"{cuts}" if cuts is not None else NOT_MEASURED
        axes.annotate(text, (end, number), (9, 0), textcoords="offset points", va="center")
        largest = max(largest, end)
    axes.set_yticks(range(len(videos)), [video.label for video in videos])
    axes.tick_params(length=0)
    axes.tick_params(axis="y", pad=9)
    axes.invert_yaxis()
    axes.grid(axis="x")
    if largest > 50:
        axes.set_xscale("symlog", linthresh=1)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlim(0, largest * 4)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlim(0, max(largest, 1) * 1.25)
    axes.set_xlabel("cuts")


def _title(axes: Axes, text: str, theme: Theme) -> None:
    axes.set_title(text, loc="left", color=theme.ink, fontsize=10.5, pad=22, weight="bold")


def _say_not_measured(axes: Axes, theme: Theme) -> None:
    axes.text(
        0.5,
        0.5,
        NOT_MEASURED,
        transform=axes.transAxes,
        ha="center",
        va="center",
        color=theme.faint,
    )


@dataclass(frozen=True, eq=False, slots=True)
class Series:
    """Values averaged over equal spans of time; only spans that hold a value, P of them."""

    minutes: NDArray[np.float64]
    """(P,) the middle of each span."""
    values: NDArray[np.float64]
    """(P,) means."""


def average_over_time(pts_us: NDArray[np.int64], values: NDArray[Any], *, span_us: float) -> Series:
    """Return the mean of the values in each span [k * span_us, (k + 1) * span_us)."""
    spans = (pts_us / span_us).astype(np.int64)
    counts = np.bincount(spans)
    sums = np.bincount(spans, weights=values.astype(np.float64))
    (held,) = np.nonzero(counts)
    return Series((held + 0.5) * span_us / (60 * _US), sums[held] / counts[held])
