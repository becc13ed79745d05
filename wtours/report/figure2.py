"""Figure 2: lightness and objects against time, class frequency, and cuts, of any number of videos.

A row a video, on common axes, so that ten of them are as readable as one and none needs a legend.
"""

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from wtours.report.curves import (
    Curves,
    Series,
    class_frequency,
    shows_objects,
    span_of,
    video_curves,
)
from wtours.report.data import ReportVideo
from wtours.report.style import LIGHT, drawing_style, line_style
from wtours.report.table6 import NOT_MEASURED

_DPI = 160
_ROW_INCHES = 1.0
_WIDTHS = {
    "Lightness, CIELAB L*": 5,
    "Objects per frame": 5,
    "Frequency of classes": 3,
    "Cuts": 1.7,
}
"""Of the columns, relative, by title."""
_OF_OBJECTS = ("Objects per frame", "Frequency of classes")


def figure_files(videos: Sequence[ReportVideo]) -> dict[str, bytes]:
    """Draw Figure 2 of one or more videos: as "png", "svg" and "pdf".

    The same videos give the same bytes; what was not measured of them is written as such.
    """
    undated = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    files = {}
    with drawing_style():
        figure = _draw(videos)
        # Text is measured once, for all formats: that is most of the time.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for kind, metadata in undated.items():
            file = io.BytesIO()
            figure.savefig(file, format=kind, dpi=_DPI, metadata=metadata)
            files[kind] = file.getvalue()
    return files


def _draw(videos: Sequence[ReportVideo]) -> Figure:
    height = _ROW_INCHES * len(videos) + 1.0
    figure = Figure(
        figsize=(13, max(height, 2.6)),
        dpi=_DPI,
        layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.04, wspace=0.02, hspace=0.02),
    )
    titles = [title for title in _WIDTHS if shows_objects(videos) or title not in _OF_OBJECTS]
    widths = [_WIDTHS[title] for title in titles]
    grid: Any = figure.add_gridspec(len(videos), len(titles), width_ratios=widths)
    axes = grid.subplots(sharex="col", sharey="col", squeeze=False)
    span_us = span_of(videos)
    per_unit = 60.0 if span_us * 360 > 180e6 else 1.0
    frequencies = [class_frequency(video) for video in videos]
    for number, (video, row) in enumerate(zip(videos, axes, strict=True)):
        color = LIGHT.color(number)
        row[0].set_ylabel(
            video.label,
            rotation=0,
            ha="right",
            va="center",
            labelpad=10,
            color=color,
            weight="bold",
        )
        curves = None if video.measured is None else video_curves(video.measured, span_us=span_us)
        cuts_us = [start for start, _ in video.measured.shots_us[1:]] if video.measured else []
        lightness, objects = (curves.lightness, curves.objects) if curves else (None, None)
        _draw_curve(row[0], lightness, curves, color, per_unit)
        halo = [patheffects.withStroke(linewidth=3.2, foreground=LIGHT.paper)]
        stroke: Any = {"linewidth": 1.3, "zorder": 5, "path_effects": halo}
        for cut_us in cuts_us:  # over the band, and apart from it
            row[0].axvline(cut_us / 1e6 / per_unit, ymax=0.3, color=LIGHT.ink, **stroke)
        if len(titles) == len(_WIDTHS):
            _draw_curve(row[1], objects, None, color, per_unit)
            _draw_frequency(row[2], frequencies, number)
        _draw_cuts(row[-1], video, color)
    unit = "min" if per_unit > 1 else "s"
    _set_axes(axes, videos, span_us * 360 / 1e6 / per_unit)
    below = {
        "Lightness, CIELAB L*": f"time ({unit}); band: 5th to 95th percentile, strokes: cuts",
        "Objects per frame": f"time ({unit})",
        "Frequency of classes": "rank of the class",
        "Cuts": "◇ the paper's" if any(video.entry.published for video in videos) else "",
    }
    for letter, title, column in zip("abcd", titles, axes.T, strict=False):
        column[0].set_title(
            f"({letter}) {title}", loc="left", color=LIGHT.ink, fontsize=10, pad=8, weight="bold"
        )
        column[-1].set_xlabel(below[title])
    return figure


def _draw_curve(
    axes: Axes, series: Series | None, band: Curves | None, color: str, per_unit: float
) -> None:
    """Draw values against time: over the band of their percentiles, or filled from 0 up."""
    if series is None:
        _say_not_measured(axes)
        return
    time = series.seconds / per_unit
    low: Any = 0 if band is None else band.low.values
    high = series.values if band is None else band.high.values
    axes.fill_between(time, low, high, color=color, alpha=0.22, linewidth=0)
    axes.plot(time, series.values, color=color, linewidth=1.4)


def _draw_frequency(
    axes: Axes, frequencies: Sequence[NDArray[np.float64] | None], number: int
) -> None:
    own = frequencies[number]
    if own is None:
        _say_not_measured(axes)
        return
    for other in frequencies:
        if other is not None and len(other) and other is not own:
            rank = np.arange(1, len(other) + 1)
            axes.plot(rank, other, color=LIGHT.faint, alpha=0.3, linewidth=0.8)
    if len(own):
        axes.plot(
            np.arange(1, len(own) + 1),
            own,
            color=LIGHT.color(number),
            linewidth=1.8,
            linestyle=line_style(number),
            marker="o" if len(own) <= 20 else None,
            markersize=3.5,
        )
    plural = "class" if len(own) == 1 else "classes"
    axes.text(
        0.04,
        0.07,
        f"{len(own):,} {plural}",
        transform=axes.transAxes,
        va="bottom",
        color=LIGHT.color(number),
        fontsize=8.5,
    )


def _draw_cuts(axes: Axes, video: ReportVideo, color: str) -> None:
    cuts = video.measured.cuts if video.measured is not None else None
    paper = video.entry.published.shots if video.entry.published else None
    axes.barh(0, cuts or 0, color=color, height=0.5)
    if paper is not None:
        axes.plot(
            *(paper, 0, "D"),
            color=LIGHT.ink,
            markerfacecolor=LIGHT.paper,
            markersize=5.5,
            clip_on=False,
        )
    text = f"{cuts:,}" if cuts is not None else NOT_MEASURED
    if paper is not None and cuts is not None:
        text += f" (paper {paper:,})"
    end = max(cuts or 0, paper or 0)
    axes.annotate(text, (end, 0), (9, 0), textcoords="offset points", va="center")


def _set_axes(axes: NDArray[Any], videos: Sequence[ReportVideo], end: float) -> None:
    lightness, *of_objects, cuts = axes.T
    for strip in axes.flat:
        strip.tick_params(which="both", length=0)
    for strip in (*lightness, *(of_objects[0] if of_objects else ())):
        strip.grid(axis="y")
        strip.set_xlim(0, end)
    lightness[0].set_ylim(0, 100)
    lightness[0].set_yticks([0, 50, 100])
    if of_objects:
        frequencies = [class_frequency(video) for video in videos]
        _set_axes_of_objects(of_objects[0], of_objects[1], frequencies)
    cuts[0].set_ylim(-0.6, 0.6)
    cuts[0].yaxis.set_major_locator(FixedLocator([]))
    published = [v.entry.published.shots for v in videos if v.entry.published]
    largest = max([*published, *(v.measured.cuts for v in videos if v.measured), 1])
    if largest > 50:
        cuts[0].set_xscale("symlog", linthresh=1)
        cuts[0].set_xlim(0, largest * 6)
    else:
        cuts[0].xaxis.set_major_locator(MaxNLocator(3, integer=True))
        cuts[0].set_xlim(0, largest * 1.45)
    for strip in cuts:
        strip.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        strip.grid(axis="x")


def _set_axes_of_objects(
    objects: NDArray[Any],
    frequency: NDArray[Any],
    frequencies: Sequence[NDArray[np.float64] | None],
) -> None:
    objects[0].set_ylim(bottom=0)
    objects[0].yaxis.set_major_locator(MaxNLocator(3, integer=True))
    known = [own for own in frequencies if own is not None and len(own)]
    if known:
        frequency[0].set_xscale("log")
        frequency[0].set_yscale("log")
        for strip in frequency:
            strip.grid(which="major")
            for axis, ticks in (
                (strip.xaxis, rank_ticks(max(map(len, known)))),
                (strip.yaxis, decades(min(own[-1] for own in known), max(o[0] for o in known))),
            ):
                axis.set_major_locator(FixedLocator(ticks))
                axis.set_major_formatter(lambda value, _: f"{value:g}")
                axis.set_minor_formatter(NullFormatter())


def rank_ticks(ranks: int) -> list[int]:
    """Return powers of ten and the last rank, none so near to it that their labels would touch."""
    powers = (10**k for k in range(math.ceil(math.log10(max(ranks, 2)))))
    return sorted({1, ranks, *(power for power in powers if power * 3 <= ranks)})


def decades(low: float, high: float) -> list[float]:
    """Return the powers of ten in [low, high], at most four, evenly spaced."""
    first, last = math.ceil(math.log10(low)), math.floor(math.log10(high) + 0.1)
    return [10.0**k for k in range(last, first - 1, -max(1, math.ceil((last - first) / 3)))]


def _say_not_measured(axes: Axes) -> None:
    place: dict[str, Any] = {"transform": axes.transAxes, "ha": "center", "va": "center"}
    paper = {"facecolor": LIGHT.paper, "edgecolor": "none", "pad": 3}  # over the grid
    axes.text(0.5, 0.5, NOT_MEASURED, color=LIGHT.faint, bbox=paper, **place)
