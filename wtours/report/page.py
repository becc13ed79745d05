"""The page: one HTML file that needs no network and no other file.

Titles, labels and licenses come from strangers: every value is escaped by Jinja, and the page's own
content policy forbids frames, forms, anything that is not in the file, and every script and style
but the two whose hashes it names. Without its script the page shows the same figures and pictures.
"""

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import wtours
from wtours.analyze.schema import DEFAULT_CUT_DETECTOR
from wtours.report.charts import frequency_axes, nice_ceiling, payload, time_ticks, video_charts
from wtours.report.curves import Curves, class_frequency, shows_objects
from wtours.report.data import ReportVideo
from wtours.report.page_video import video_section
from wtours.report.style import CLASS_COLORS, DARK, LIGHT, OTHER_CLASS_COLOR
from wtours.report.table6 import NOT_MEASURED, Row, Table6, format_counts
from wtours.report.thumbnails import Figure
from wtours.text import plain


@dataclass(frozen=True, slots=True)
class PageVideo:
    """One video with its curves and images."""

    video: ReportVideo
    curves: Curves | None
    """None: not measured."""
    figures: Sequence[Figure]
    problem: str
    """Why there are no images although there is a file; "" where there is no problem."""


def render_page(table: Table6, videos: Sequence[PageVideo], compared: Sequence[PageVideo]) -> str:
    """Return the page as HTML; the videos are in the table's order."""
    classes = colored_classes([video.video for video in videos])
    charts = _charts([*videos, *compared])
    return render(
        "page",
        totals=_totals(videos),
        table=table,
        has_domains=table.has_domains,
        rows=[
            _cells(row, video.video.label, table)
            for row, video in zip(table.rows, videos, strict=True)
        ],
        average=_cells(table.average, "Average", table),
        sweep=[_sweep(video.video, table.thresholds) for video in videos],
        cut_detectors=_cut_detectors(videos),
        notes=table.notes,
        charts=charts,
        classes=classes,
        num_other_classes=len(_frequencies([v.video for v in videos])) - len(classes),
        videos=[
            video_section(page.video, chart, page.figures, problem=page.problem, classes=classes)
            for page, chart in zip(videos, charts["rows"], strict=False)
        ],
        data={
            "objectsMax": charts["objects_max"],
            "videos": {
                row["key"]: payload(page.curves, classes)
                | {
                    "key": row["key"],
                    "name": page.video.label,
                    "seconds": page.video.measured.summary.seconds,
                }
                for page, row in zip([*videos, *compared], charts["rows"], strict=True)
                if page.curves is not None and page.video.measured is not None
            },
        },
    )


def render(name: str, **values: Any) -> str:
    """Return NAME.html.j2 of these values as HTML, with its style, its script and their hashes.

    Its script is shared.js and NAME.js.
    """
    environment = Environment(
        loader=PackageLoader("wtours.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "plain": plain,
        "breakable": breakable,
        "with_commands": with_commands,
        "webp_url": lambda image: f"data:image/webp;base64,{base64.b64encode(image).decode()}",
    }
    templates = resources.files("wtours.report").joinpath("templates")
    css = templates.joinpath("page.css").read_text("utf-8") + _color_rules()
    script = "".join(templates.joinpath(f"{n}.js").read_text("utf-8") for n in ("shared", name))
    return environment.get_template(f"{name}.html.j2").render(
        version=wtours.__version__,
        css=Markup(css),
        css_sha256=_sha256_base64(css),
        script=Markup(script),
        script_sha256=_sha256_base64(script),
        not_measured=NOT_MEASURED,
        **values,
    )


def _sha256_base64(text: str) -> str:
    """Return the hash by which a content policy allows a style or a script."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def breakable(name: str) -> Markup:
    """Return a name that a browser breaks after its signs, and in a word only if it must."""
    return Markup("<wbr>").join(re.split(r"(?<=[-_./])(?=\w)", name))


def with_commands(text: str) -> Markup:
    """Return a text whose `wtours …` between backticks are code."""
    parts = re.split(r"`(wtours [^`]+)`", text)
    marked = (Markup("<code>{}</code>" if n % 2 else "{}").format(p) for n, p in enumerate(parts))
    return Markup().join(marked)


def colored_classes(videos: Sequence[ReportVideo]) -> list[str]:
    """Return the classes that have a color of their own on the page, the most frequent first."""
    frequencies = _frequencies(videos)
    ordered = sorted(frequencies, key=lambda label: (-frequencies[label], label))
    return ordered[: len(CLASS_COLORS)]


def _frequencies(videos: Sequence[ReportVideo]) -> Counter[str]:
    """Return the sum over videos of the detections of each class per frame looked at."""
    sums = Counter[str]()
    for video in videos:
        if video.measured is not None and video.measured.objects is not None:
            frames = video.measured.objects.facts.frames_analysed
            for label, count in video.measured.objects.class_counts:
                sums[label] += count / frames  # type: ignore[assignment]
    return sums


def _color_rules() -> str:
    """Return the rules of the colors: .v0 a video or a run, .k0 a class, .kx the other classes."""
    rules = []
    for theme, around in (
        (LIGHT, "{}"),
        (DARK, "@media screen and (prefers-color-scheme: dark){{{}}}"),
    ):
        colors = "".join(f".v{n}{{--c:{color}}}" for n, color in enumerate(theme.colors))
        rules.append(around.format(colors))
    for number, color in [*enumerate(CLASS_COLORS), ("x", OTHER_CLASS_COLOR)]:
        rules.append(f".k{number}{{--k:{color}}}.off-k{number} .boxes .k{number}{{display:none}}")
    return "".join(f"{rule}\n" for rule in rules)


def color_key(number: int) -> str:
    """Return the CSS classes of a video or a run, by its number on the page from 0."""
    count = len(LIGHT.colors)
    return f"v{number % count}{' dashed' if number >= count else ''}"


def _charts(videos: Sequence[PageVideo]) -> dict[str, Any]:
    """Return what Figure 2 draws: a row a video, and the common axes."""
    frequencies = [class_frequency(page.video) for page in videos]
    axes = frequency_axes(frequencies)
    curves = [page.curves for page in videos if page.curves is not None]
    objects = [float(c.objects.values.max()) for c in curves if c.objects is not None]
    objects_max = nice_ceiling(max(objects, default=1.0))
    lengths = [p.video.measured.summary.seconds for p in videos if p.video.measured]
    longest = max(lengths, default=60.0)
    published = [p.video.entry.published for p in videos]
    cuts = [p.video.measured.cuts for p in videos if p.video.measured]
    most_cuts = max([*cuts, *(figures.shots for figures in published if figures), 1])
    rows = []
    for number, (page, frequency) in enumerate(zip(videos, frequencies, strict=True)):
        measured, figures = page.video.measured, page.video.entry.published
        charts = None
        if measured is not None and page.curves is not None:
            charts = video_charts(
                page.curves,
                seconds=measured.summary.seconds,
                cuts_us=[start_us for start_us, _ in measured.shots_us[1:]],
                objects_max=objects_max,
            )
        rows.append(
            {
                "id": page.video.entry.id,
                "key": f"p{number}",
                "name": page.video.label,
                "color": color_key(number),
                "charts": charts,
                "frequency": axes.path(frequency),
                "share": measured.summary.seconds / longest if measured else 0,
                "ticks": time_ticks(measured.summary.seconds) if measured else [],
                "classes": None if frequency is None else len(frequency),
                "cuts": None if measured is None else measured.cuts,
                "cuts_bar": cuts_bar(measured.cuts, most_cuts) if measured else 0,
                "published_cuts": None if figures is None else figures.shots,
                "published_bar": None if figures is None else 100 * figures.shots / most_cuts,
            }
        )
    return {
        "rows": rows,
        "ticks": time_ticks(longest),
        "objects_max": objects_max,
        "has_published": any(published),
        "shows_objects": shows_objects([page.video for page in videos]),
        "ranks": axes.ranks,
        "frequency_low": axes.low,
        "frequency_high": axes.high,
        "num_sections": len(videos),
    }


def cuts_bar(cuts: int, most: int) -> float:
    """Return a bar's percent of the width: one cut beside a hundred is still to be seen."""
    return max(100 * cuts / most, 4) if cuts else 0


def _totals(videos: Sequence[PageVideo]) -> list[tuple[str, str]]:
    """Return the head's figures, (value, what); of what was measured only."""
    measured = [v.video.measured for v in videos if v.video.measured is not None]
    totals = []
    if measured:
        seconds = sum(m.summary.seconds for m in measured)
        unit, name = (3600, "hours") if seconds >= 3600 else (60, "minutes")
        length = (
            (f"{seconds / unit:.1f}", name) if seconds >= 120 else (f"{seconds:.0f}", "seconds")
        )
        frames = sum(m.summary.frames for m in measured)
        cuts = sum(m.cuts for m in measured)
        totals += [length, (f"{frames:,}", "frames"), (f"{cuts:,}", "cut" if cuts == 1 else "cuts")]
    objects = [m.objects for m in measured if m.objects is not None]
    if objects:
        detected = sum(o.facts.frames_analysed for o in objects)
        totals.append((f"{detected:,}", "frames searched for objects"))
    return totals


def _cells(row: Row, name: str, table: Table6) -> dict[str, Any]:
    cells = [
        {
            "value": cell.measured,
            "measured": measured,
            "published": published,
            "deviation": deviation,
        }
        for cell, measured, published, deviation in table.texts(row)
    ]
    return {"id": row.video_id, "name": name, "domain": row.domain, "cells": cells}


def _sweep(video: ReportVideo, thresholds: Sequence[float]) -> dict[str, Any]:
    measured = video.measured
    has_objects = measured is not None and measured.objects is not None
    return {
        "name": video.label,
        "counts": format_counts(video, thresholds) if has_objects else None,
        "cuts": None if measured is None else measured.summary.cuts,
    }


def _cut_detectors(videos: Sequence[PageVideo]) -> list[str]:
    names = {n for v in videos if v.video.measured for n in v.video.measured.summary.cuts}
    return sorted(names, key=lambda name: (name != DEFAULT_CUT_DETECTOR, name))
