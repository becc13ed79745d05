"""The paper's tables with what was measured beside them: the spine of `wtours eval table`."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from training.evaluation.measured import Measured, Value
from training.evaluation.published import TABLES, PaperTable
from wtours.text import escape_markdown

HOLE = "-"


def as_json(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """Return every table as JSON-able values; what was not measured is null."""
    return [
        {
            "table": table.number,
            "title": table.title,
            "published": [
                dict(zip(table.labels, labels, strict=True))
                | {"percent": dict(zip(table.measures, figures, strict=True))}
                for labels, figures in table.rows
            ],
            "measured": [
                {
                    "name": row.name,
                    "trained_on_set_sha256": list(row.trained_on),
                    "values": {
                        measure: asdict(row.values[measure]) if measure in row.values else None
                        for measure in table.measures
                    },
                }
                for row in measured
            ],
        }
        for table in TABLES
    ]


def measured_tables(measured: Sequence[Measured]) -> list[PaperTable]:
    """Return the tables of which something is measured."""
    known = {measure for each in measured for measure in each.values}
    return [table for table in TABLES if not known.isdisjoint(table.measures)]


def table_rows(table: PaperTable, measured: Sequence[Measured]) -> list[tuple[str, ...]]:
    """Return the cells of a table: the paper's rows, then the measured ones.

    A hole is "-"; a figure that does not compare with the paper's has a * behind it.
    """
    rows = [(*labels, *map(published_cell, figures)) for labels, figures in table.rows]
    for each in measured:
        cells = [measured_cell(each.values.get(measure)) for measure in table.measures]
        rows.append((f"{each.name} (measured)", *[""] * (len(table.labels) - 1), *cells))
    return rows


def published_cell(figure: float | None) -> str:
    """Return a figure of the paper as it is printed."""
    return HOLE if figure is None else f"{figure:.1f}"


def measured_cell(value: Value | None) -> str:
    """Return a measured figure as it is printed."""
    return HOLE if value is None else f"{value.percent:.1f}{'*' if value.note else ''}"


def footnotes(measured: Sequence[Measured]) -> list[str]:
    """Return a line a reason why figures do not compare with the paper's, then a line a set.

    What is true of several networks or columns is said once, with all their names.
    """
    starred: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    trained_on: dict[str, list[str]] = defaultdict(list)
    for row in measured:
        for measure, value in row.values.items():
            if value.note:
                starred[value.note][row.name].append(measure)
        for sha256 in row.trained_on:
            trained_on[sha256].append(row.name)
    lines = []
    for note, columns in starred.items():
        networks: dict[str, list[str]] = defaultdict(list)
        for name, measures in columns.items():
            networks[", ".join(measures)].append(name)
        lines += [
            f"* {measures} of {', '.join(names)}: {note}" for measures, names in networks.items()
        ]
    return lines + [
        f"{', '.join(names)}: trained on the shard set of hash {sha256}"
        for sha256, names in trained_on.items()
    ]


def as_markdown(measured: Sequence[Measured]) -> str:
    """Return the tables of which something is measured, and their footnotes, as Markdown."""
    parts = []
    for table in measured_tables(measured):
        header = (*table.labels, *table.measures)
        lines = [header, ("---",) * len(header), *table_rows(table, measured)]
        text = "\n".join(
            f"| {' | '.join(escape_markdown(cell) for cell in line)} |" for line in lines
        )
        parts.append(f"### Table {table.number}: {table.title}\n\n{text}\n")
    return "\n".join([*parts, *(escape_markdown(line) + "  " for line in footnotes(measured))])
