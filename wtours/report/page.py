"""The page: one HTML file that needs no network, no script and no other file.

Titles, labels and licenses come from strangers: every value is escaped by Jinja, and the page's own
content policy forbids scripts, frames, forms and anything that is not in the file.
"""

import base64
import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import wtours
from wtours.analyze.shots import DEFAULT_CUT_DETECTOR
from wtours.report.data import MeasuredVideo, ReportVideo
from wtours.report.page_facts import headline, measuring_facts, source_facts
from wtours.report.table6 import (
    NOT_MEASURED,
    QUANTITIES,
    Row,
    Table6,
    count_at,
    format_deviation,
    format_figure,
)
from wtours.report.thumbnails import Figure, class_colors
from wtours.text import clock, plain

_TOP_CLASSES = 12


@dataclass(frozen=True, slots=True)
class PageVideo:
    """One video with its pictures."""

    video: ReportVideo
    figures: Sequence[Figure]
    problem: str
    """Why there are no pictures although there is a file; "" where there is no problem."""


def render_page(
    table: Table6, videos: Sequence[PageVideo], *, figure_light: bytes, figure_dark: bytes
) -> str:
    """Return the page as HTML.

    Args:
        table: Table 6.
        videos: In the table's order.
        figure_light: Figure 2 as PNG, for light screens and for paper.
        figure_dark: The same for dark screens.
    """
    environment = Environment(
        loader=PackageLoader("wtours.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["plain"] = plain
    css = resources.files("wtours.report").joinpath("templates/page.css").read_text("utf-8")
    return environment.get_template("page.html.j2").render(
        version=wtours.__version__,
        css=Markup(css),
        not_measured=NOT_MEASURED,
        css_sha256=base64.b64encode(hashlib.sha256(css.encode()).digest()).decode(),
        totals=_totals(videos),
        table=table,
        headings=[quantity.heading for quantity in QUANTITIES],
        rows=[_cells(row) for row in table.rows],
        average=_cells(table.average, is_average=True),
        sweep=[_sweep(video.video, table.thresholds) for video in videos],
        cut_detectors=_cut_detectors(videos),
        notes=table.notes,
        figure_light=_data_url(figure_light, "image/png"),
        figure_dark=_data_url(figure_dark, "image/png"),
        videos=[_section(video, row) for video, row in zip(videos, table.rows, strict=True)],
    )


def _totals(videos: Sequence[PageVideo]) -> list[tuple[str, str]]:
    """Return the head's figures, (value, what); of what was measured only."""
    measured = [v.video.measured for v in videos if v.video.measured is not None]
    totals = [(f"{len(measured)} of {len(videos)}", "videos measured")]
    if measured:
        seconds = sum(m.summary.seconds for m in measured)
        length = (f"{seconds / 3600:.1f}", "hours") if seconds >= 3600 else _minutes(seconds)
        frames = sum(m.summary.frames for m in measured)
        cuts = sum(m.cuts for m in measured)
        totals += [length, (f"{frames:,}", "frames"), (f"{cuts:,}", "cuts")]
    objects = [m.objects for m in measured if m.objects is not None]
    if objects:
        looked_at = sum(o.facts.frames_analysed for o in objects)
        totals.append((f"{looked_at:,}", "frames searched for objects"))
    return totals


def _minutes(seconds: float) -> tuple[str, str]:
    return f"{seconds / 60:.1f}", "minutes"


def _cells(row: Row, *, is_average: bool = False) -> dict[str, Any]:
    cells = []
    for cell, quantity in zip(row.cells, QUANTITIES, strict=True):
        published = cell.published
        cells.append(
            {
                "measured": format_figure(cell.measured, quantity, is_average=is_average),
                "is_measured": cell.measured is not None,
                "published": None
                if published is None
                else format_figure(published, quantity, is_average=is_average),
                "deviation": format_deviation(cell, quantity, is_average=is_average),
            }
        )
    return {"id": row.video_id, "title": row.title, "domain": row.domain, "cells": cells}


def _sweep(video: ReportVideo, thresholds: Sequence[float]) -> dict[str, Any]:
    counts = [count_at(video, threshold) for threshold in thresholds]
    measured = video.measured
    has_objects = measured is not None and measured.objects is not None
    return {
        "title": plain(video.entry.title),
        "counts": [
            [format_figure(objects, QUANTITIES[3]) for objects, _ in counts],
            [format_figure(classes, QUANTITIES[4]) for _, classes in counts],
        ]
        if has_objects
        else None,
        "cuts": None if measured is None else measured.summary.cuts,
    }


def _cut_detectors(videos: Sequence[PageVideo]) -> list[str]:
    names = {n for v in videos if v.video.measured for n in v.video.measured.summary.cuts}
    return sorted(names, key=lambda name: (name != DEFAULT_CUT_DETECTOR, name))


def _section(page_video: PageVideo, row: Row) -> dict[str, Any]:
    video = page_video.video
    return {
        "id": row.video_id,
        "title": row.title,
        "facts": headline(video),
        "problem": page_video.problem or _why_no_pictures(video),
        "groups": _groups(page_video.figures),
        "classes": _classes(video.measured),
        "shots": _shots(video.measured),
        "how": measuring_facts(video.measured),
        "receipt": source_facts(video),
    }


def _why_no_pictures(video: ReportVideo) -> str:
    video_id = video.entry.id
    if video.download is None:
        return f"No pictures: {video_id} is not downloaded."
    if video.measured is None:
        return f"No pictures: {video_id} is not analyzed."
    if not video.is_same_file:
        return f"No pictures: {video_id} was analyzed from another file than the one at hand."
    return ""


def _groups(figures: Sequence[Figure]) -> list[dict[str, Any]]:
    return [
        {
            "heading": heading,
            "figures": [
                {
                    "caption": figure.moment.caption,
                    "thumbnails": [
                        {
                            "url": _data_url(thumbnail.jpeg, "image/jpeg"),
                            "width": thumbnail.width,
                            "height": thumbnail.height,
                            "alt": thumbnail.alt,
                        }
                        for thumbnail in figure.thumbnails
                    ],
                }
                for figure in group
            ],
        }
        for heading, group in itertools.groupby(figures, key=lambda f: f.moment.group)
    ]


def _classes(measured: MeasuredVideo | None) -> dict[str, Any] | None:
    """Return the most frequent classes with bars, 0..100; None: objects were not measured."""
    if measured is None or measured.objects is None:
        return None
    counts = measured.objects.class_counts
    frames = measured.objects.facts.frames_analysed
    largest = counts[0][1] if counts else 1
    colors = class_colors(measured)
    return {
        "shown": [
            {
                "label": plain(label),
                "per_frame": f"{count / frames:.2f}",
                "bar": f"{100 * count / largest:.1f}",
                "color": colors[label],
            }
            for label, count in counts[:_TOP_CLASSES]
        ],
        "all": len(counts),
    }


def _shots(measured: MeasuredVideo | None) -> list[tuple[str, str, str]]:
    if measured is None:
        return []
    return [
        (clock(start_us), clock(end_us), f"{(end_us - start_us) / 1e6:,.1f}")
        for start_us, end_us in measured.shots_us
    ]


def _data_url(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
