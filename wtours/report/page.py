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
from urllib.parse import urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import wtours
from wtours.analyze.schema import DEFAULT_CUT_DETECTOR
from wtours.report.data import MeasuredVideo, ReportVideo
from wtours.report.table6 import (
    NOT_MEASURED,
    QUANTITIES,
    Row,
    Table6,
    format_counts,
    format_deviation,
    format_figure,
)
from wtours.report.thumbnails import Figure, class_colors
from wtours.text import clock, plain

_TOP_CLASSES = 12


@dataclass(frozen=True, slots=True)
class PageVideo:
    """One video with its images."""

    video: ReportVideo
    figures: Sequence[Figure]
    problem: str
    """Why there are no images although there is a file; "" where there is no problem."""


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
    environment.filters |= {"plain": plain, "jpeg_url": lambda jpeg: _data_url(jpeg, "image/jpeg")}
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
        is_long = seconds >= 3600
        length = (f"{seconds / (3600 if is_long else 60):.1f}", "hours" if is_long else "minutes")
        frames = sum(m.summary.frames for m in measured)
        cuts = sum(m.cuts for m in measured)
        totals += [length, (f"{frames:,}", "frames"), (f"{cuts:,}", "cuts")]
    objects = [m.objects for m in measured if m.objects is not None]
    if objects:
        detected = sum(o.facts.frames_analysed for o in objects)
        totals.append((f"{detected:,}", "frames searched for objects"))
    return totals


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
    measured = video.measured
    has_objects = measured is not None and measured.objects is not None
    return {
        "title": plain(video.entry.title),
        "counts": format_counts(video, thresholds) if has_objects else None,
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
        "facts": _headline(video),
        "problem": page_video.problem or _why_no_pictures(video),
        "groups": [
            (heading, list(figures))
            for heading, figures in itertools.groupby(
                page_video.figures, key=lambda figure: figure.moment.group
            )
        ],
        "classes": _classes(video.measured),
        "shots": _shots(video.measured),
        "how": _measuring_facts(video.measured),
        "receipt": _source_facts(video),
    }


def _why_no_pictures(video: ReportVideo) -> str:
    video_id = video.entry.id
    if video.download is None:
        return f"No pictures: {video_id} is not downloaded."
    if video.problem:
        return f"No pictures: {video.problem}"
    if video.measured is None:
        return f"No pictures: {video_id} is not analyzed."
    if not video.is_same_file:
        return f"No pictures: {video_id} was analyzed from another file than the one at hand."
    return ""


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


def _headline(video: ReportVideo) -> list[str]:
    """Return length, size, frames, cuts and lightness."""
    if video.measured is None:
        return [NOT_MEASURED]
    summary, cuts = video.measured.summary, video.measured.cuts
    low, mean, high = summary.lightness.min, summary.lightness.mean, summary.lightness.max
    return [
        clock(round(summary.seconds * 1e6)),
        f"{summary.width}x{summary.height}",
        f"{summary.frames:,} frames at {_rate(summary.frame_rate)} a second",
        f"{cuts} cut{'' if cuts == 1 else 's'}",
        f"lightness {mean:.1f} (darkest frame {low:.1f}, lightest {high:.1f})",
    ]


def _measuring_facts(measured: MeasuredVideo | None) -> list[tuple[str, str]]:
    """Return (name, value) of how a video was measured; none if it was not."""
    if measured is None:
        return []
    summary = measured.summary
    facts = [
        ("Video measured, sha256", summary.video_sha256),
        ("Frames that the decoder repaired", f"{summary.corrupt_frames:,}"),
        ("Lightness", "mean CIELAB L* of every frame, 0 (black) to 100 (white)"),
        ("Cuts", f"PySceneDetect, {DEFAULT_CUT_DETECTOR}"),
    ]
    if measured.objects is None:
        facts.append(("Objects", f"{NOT_MEASURED}: {plain(summary.objects_not_measured)}"))
    else:
        objects = measured.objects.facts
        detector = objects.detector
        cap = "no cap" if detector.max_per_frame is None else f"{detector.max_per_frame}"
        facts += [
            ("Object detector", plain(detector.name)),
            ("Weights, sha256", plain(detector.weights_sha256)),
            ("Vocabulary", f"{len(detector.vocabulary):,} classes"),
            ("Looked at", f"{objects.frames_analysed:,} frames, {measured.objects.rate}"),
            ("Stored from a score of", f"{detector.threshold:g}"),
            ("At most per frame", f"{cap}; {objects.frames_at_cap:,} frames reach it"),
        ]
    versions = (f"{plain(name)} {plain(version)}" for name, version in measured.versions.items())
    return [*facts, ("Made by", ", ".join(sorted(versions)))]


def _source_facts(video: ReportVideo) -> list[dict[str, Any]]:
    """Return (name, value, link or None) of where the video came from."""
    facts = video.download.receipt.facts if video.download is not None else {}
    observed = facts.get("license_observed")
    when = facts.get("license_observed_at")
    rows: list[tuple[str, object]] = [
        ("Source", facts.get("source") or video.entry.sources[0]),
        ("Title at the source", facts.get("title") or "not recorded"),
        ("Channel", facts.get("channel") or "not recorded"),
        ("License claimed by the dataset", video.entry.license_claimed),
        (
            "License observed at the download",
            f"{observed} ({when})" if observed and when else observed or "not observed",
        ),
        ("sha256", video.download.sha256 if video.download is not None else "not downloaded"),
    ]
    if video.download is not None:
        container = f"{facts.get('codec')}, {facts.get('width')}x{facts.get('height')}"
        rows.append(("File", f"{video.download.path.name}, {container}"))
    return [
        {"name": name, "value": plain(value), "link": _web_link(plain(value))}
        for name, value in rows
    ]


def _web_link(text: str) -> str | None:
    """Return the text if it is the address of a web page; a `javascript:` address is none."""
    try:
        parts = urlsplit(text)
    except ValueError:
        return None
    is_link = parts.scheme in ("http", "https") and parts.hostname and " " not in text
    return text if is_link else None


def _rate(frame_rate: str) -> str:
    """Return "60000/1001" as "59.94"."""
    top, _, bottom = frame_rate.partition("/")
    return f"{int(top) / int(bottom or 1):.4g}"


def _data_url(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
