"""Table 6 as Markdown, CSV and JSON; the three hold the same figures."""

import csv
import io
from typing import Any

from wtours.analyze.schema import DEFAULT_CUT_DETECTOR
from wtours.report.data import MeasuredVideo
from wtours.report.table6 import NOT_MEASURED, QUANTITIES, Row, Table6, count_at, format_counts
from wtours.text import escape_csv, escape_markdown

FORMAT = 1


def to_markdown(table: Table6) -> str:
    """Return the table, the counts at each threshold and the footnotes as Markdown."""
    head, *body = table_texts(table)
    average = ["**Average**", *body.pop()[1:]]
    names = 2 if table.has_domains else 1
    rows = [[*map(escape_markdown, row[:names]), *row[names:]] for row in body]
    paper = ": measured / published in the paper (deviation)" if table.has_published else ""
    lines = [f"# {table.title}{paper}", ""]
    lines += _markdown_table(head, [*rows, average])
    if table.has_objects:
        lines += ["", "## Counted from other scores", ""]
        columns = [
            f"{what} from {t}" for what in ("#objects/frame", "#classes") for t in table.thresholds
        ]
        counts = [
            [escape_markdown(name), *objects, *classes]
            for name, video in zip(table.names, table.videos, strict=True)
            for objects, classes in [format_counts(video, table.thresholds)]
        ]
        lines += _markdown_table(["Video", *columns], counts)
    lines += ["", "## Notes", ""]
    lines += [
        f"{number}. {escape_markdown(note)}" for number, note in enumerate(table.notes, start=1)
    ]
    return "\n".join(lines) + "\n"


def table_texts(table: Table6) -> list[list[str]]:
    """Return the head, a row a video and the average, as people read them; without empty columns.

    A cell is the measured figure, behind it the published one and the deviation where the paper has
    one. The first two cells of a row are the video's name and domain, if the table has domains.
    """
    domain = ["Domain"] if table.has_domains else []
    rows = [["Video", *domain, *table.headings]]
    for name, row in zip(
        (*table.names, table.average.title), (*table.rows, table.average), strict=True
    ):
        cells = []
        for _, text, published, deviation in table.texts(row):
            of_paper = f" / {published}{f' ({deviation})' if deviation else ''}"
            cells.append(f"{text}{of_paper if published else ''}")
        rows.append([name, *([row.domain] if table.has_domains else []), *cells])
    return rows


def to_csv(table: Table6) -> str:
    """Return one line a video and the average, every figure in full precision.

    Measured columns hold numbers or "not measured"; published ones are empty where the paper has
    no figure, deviations where one of the two is missing.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    names = [
        f"{q.key}_{what}" for q in QUANTITIES for what in ("measured", "published", "deviation")
    ]
    sweep = [f"{key}_at_{t}" for t in table.thresholds for key in ("objects_per_frame", "classes")]
    writer.writerow(["video", "title", "domain", *names, *sweep])
    for row, video in zip(table.rows, table.videos, strict=True):
        counts = [figure for t in table.thresholds for figure in count_at(video, t)]
        names_of_row = [row.video_id, escape_csv(row.title), escape_csv(row.domain)]
        writer.writerow([*names_of_row, *_csv_cells(row), *map(_or_not_measured, counts)])
    writer.writerow(["average", "Average", "", *_csv_cells(table.average), *[""] * len(sweep)])
    return file.getvalue()


def to_json(table: Table6) -> dict[str, Any]:
    """Return every figure with how it was measured; null is "not measured" or "not published"."""
    return {
        "format": FORMAT,
        "cut_detector": DEFAULT_CUT_DETECTOR,
        "threshold": table.threshold,
        "videos": [
            {
                "id": row.video_id,
                "title": row.title,
                "domain": row.domain,
                **_json_cells(row),
                "how": how_measured(video.measured),
                "objects_at": [
                    {"threshold": t, "objects_per_frame": objects, "classes": classes}
                    for t in table.thresholds
                    for objects, classes in [count_at(video, t)]
                ],
            }
            for row, video in zip(table.rows, table.videos, strict=True)
        ],
        "average": _json_cells(table.average),
        "notes": table.notes,
    }


def how_measured(measured: MeasuredVideo | None) -> dict[str, Any] | None:
    """Return how a video's figures came about, JSON-able; None: it was not analyzed."""
    if measured is None:
        return None
    summary = measured.summary
    how: dict[str, Any] = {
        "video_sha256": summary.video_sha256,
        "width": summary.width,
        "height": summary.height,
        "frame_rate": summary.frame_rate,
        "frames": summary.frames,
        "corrupt_frames": summary.corrupt_frames,
        "seconds": summary.seconds,
        "cuts_by_detector": summary.cuts,
        "lightness": summary.lightness.model_dump(),
        "versions": measured.versions,
        "objects_not_measured": summary.objects_not_measured,
        "objects": None,
    }
    if measured.objects is not None:
        facts = measured.objects.facts
        how["objects"] = {
            "detector": facts.detector.name,
            "weights_sha256": facts.detector.weights_sha256,
            "vocabulary_size": len(facts.detector.vocabulary),
            "stored_from_score": facts.detector.threshold,
            "max_per_frame": facts.detector.max_per_frame,
            "detect_fps": facts.detect_fps,
            "every_frame": facts.every_frame,
            "frames_analysed": facts.frames_analysed,
            "frames_at_cap": facts.frames_at_cap,
        }
    return how


def _markdown_table(head: list[str], body: list[list[str]]) -> list[str]:
    rows = [head, ["---"] * len(head), *body]
    return [f"| {' | '.join(row)} |" for row in rows]


def _or_not_measured(value: float | None) -> float | str:
    return NOT_MEASURED if value is None else value


def _csv_cells(row: Row) -> list[float | str]:
    values: list[float | str] = []
    for cell in row.cells:
        values.append(_or_not_measured(cell.measured))
        values += ["" if value is None else value for value in (cell.published, cell.deviation)]
    return values


def _json_cells(row: Row) -> dict[str, dict[str, float | None]]:
    return {
        what: {q.key: getattr(c, what) for q, c in zip(QUANTITIES, row.cells, strict=True)}
        for what in ("measured", "published", "deviation")
    }
