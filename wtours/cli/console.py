"""What the command line shows: progress bars on stderr, tables and JSON on stdout."""

import contextlib
import json
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from wtours.progress import Progress as OnProgress
from wtours.text import escape_json, plain, plain_lines

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


class PlainFormatter(logging.Formatter):
    """Formats a log record, and its traceback, without control characters."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text."""
        return plain_lines(super().format(record))


def say(text: str) -> None:
    """Print a line to stdout, as it is: no markup, no control characters."""
    out.print(plain_lines(text), markup=False)


def warn(text: str) -> None:
    """Print a line to stderr, as it is."""
    err.print(plain_lines(text), markup=False)


def print_json(value: Any) -> None:
    """Print `value` as JSON to stdout, and nothing else."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    sys.stdout.write(escape_json(text) + "\n")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; a column whose cells are all numbers is aligned to the right."""
    table = Table(title=Text(plain(title)), title_justify="left")
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(re.fullmatch(r"[-\d.,:]*", row[index]) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain_lines(cell)) for cell in row))
    out.print(table)


@contextlib.contextmanager
def progress_bars(title: str, unit: Literal["bytes", "percent", "steps"]) -> Iterator[OnProgress]:
    """Show a bar for each item of a stage; yield the function that moves them."""
    columns: dict[str, list[ProgressColumn]] = {
        "bytes": [DownloadColumn(), TransferSpeedColumn()],
        "percent": [TaskProgressColumn()],
        "steps": [MofNCompleteColumn()],
    }
    bars = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        *columns[unit],
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        console=err,
        # A step may take minutes (a segment of a 4K video); rich forgets after 30 s by default.
        speed_estimate_period=1800,
    )
    tasks: dict[str, TaskID] = {}

    def on_progress(item: str, done: float, total: float | None) -> None:
        if item not in tasks:
            tasks[item] = bars.add_task(plain(f"{title} {item}"), total=total)
        bars.update(tasks[item], completed=done, total=total)

    with bars:
        yield on_progress
