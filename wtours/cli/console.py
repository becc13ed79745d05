"""What the command line shows: progress and notes on stderr, results on stdout.

Of the processes that torchrun starts, the first one speaks for all.
"""

import contextlib
import functools
import json
import logging
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from rich.cells import cell_len
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

from wtours.errors import UsageError
from wtours.progress import Progress as OnProgress
from wtours.text import bytes_text, escape_json, plain, plain_lines, redact_urls, seconds_text

IS_FIRST = os.environ.get("RANK", "0") == "0"
"""Whether this is rank 0, or the only process."""
IS_FIRST_OF_NODE = os.environ.get("LOCAL_RANK", "0") == "0"

# Rich takes each dumb terminal for one of 80 columns.
_IS_DUMB = os.environ.get("TERM", "") in ("dumb", "unknown")
_SIZE = shutil.get_terminal_size() if _IS_DUMB else (None, None)
_console = functools.partial(
    Console,
    highlight=False,
    emoji=False,
    soft_wrap=True,
    quiet=not IS_FIRST,
    width=_SIZE[0],
    height=_SIZE[1],
)
out, err = _console(), _console(stderr=True)

LINE_SECONDS = "WTOURS_PROGRESS_SECONDS"
"""The environment variable that says how often a line tells the progress without a terminal."""
_LINE_SECONDS = "30"
_MAX_DRAWN_ROWS = 500
_MAX_WHOLE_WORD = 20

Unit = Literal["bytes", "percent", "steps"]


class LogHandler(logging.Handler):
    """Prints log records above the progress bars: INFO as it is, else with the level."""

    def __init__(self, *, names: bool) -> None:
        super().__init__()
        self._names = names

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record, and its traceback, without control characters."""
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        name = f"{record.name}: " if self._names else ""
        warn(f"{level}{name}{self.format(record)}")


_shows_progress = True


def set_verbosity(*, verbose: bool = False, quiet: bool = False) -> None:
    """Show all that is logged, with the module that logs it; or neither progress nor notes."""
    global _shows_progress
    _shows_progress = not quiet
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, LogHandler)]:
        root.removeHandler(handler)
    root.addHandler(LogHandler(names=verbose))
    root.setLevel(logging.INFO if verbose else logging.ERROR if quiet else logging.WARNING)
    # What training says at this level is for whoever runs it: where it resumes, for example.
    logging.getLogger("training").setLevel(logging.ERROR if quiet else logging.INFO)


def say(text: str) -> None:
    """Print a result to stdout, as it is: no markup, no control characters."""
    out.print(plain_lines(text), markup=False)


def note(text: str) -> None:
    """Print to stderr what is good to know; nothing after --quiet."""
    if _shows_progress:
        warn(text)


def warn(text: str) -> None:
    """Print a line to stderr, as it is."""
    err.print(plain_lines(redact_urls(text)), markup=False)


def print_json(value: Any) -> None:
    """Print `value` as JSON to stdout, and nothing else."""
    _write(escape_json(json.dumps(value, indent=1, ensure_ascii=False)) + "\n")


def show(text: str, content: Any, *, as_json: bool) -> None:
    """Print a result: a text for people, or its content as JSON for a script."""
    if as_json:
        print_json(content)
    else:
        say(text)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; a column whose cells are all numbers is aligned to the right.

    A very long one comes as plain columns: rich takes a millisecond a row to draw it. On a
    terminal that is too narrow for its words, each row is a paragraph. A column without a word is
    left out; of a table without a row, the title says it.
    """
    if len(rows) > _MAX_DRAWN_ROWS:
        cells = [[plain(cell) for cell in row] for row in (columns, *rows)]
        lengths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ("  ".join(map(str.ljust, row, lengths)).rstrip() for row in cells)
        _write("\n".join([plain(title), *lines]) + "\n")
        return
    filled = [at for at in range(len(columns)) if any(row[at] for row in rows)]
    columns = [columns[at] for at in filled]
    rows = [[plain_lines(row[at]) for at in filled] for row in rows]
    if not rows:
        say(title)
        return
    widths = _widths(columns, rows, out.width)
    if widths is None:
        say(title)
        for first, *others in rows:
            say(first)
            for name, cell in zip(columns[1:], others, strict=True):
                if cell:
                    say(f"  {name}: {cell}" if name else f"  {cell}")
        return
    table = Table(title=Text(plain_lines(title)), title_justify="left")
    for index, column in enumerate(columns):
        numeric = all(re.fullmatch(r"[-\d.,:]*", row[index]) for row in rows)
        justify: Literal["right", "left"] = "right" if numeric else "left"
        table.add_column(column, justify=justify, overflow="fold", width=widths[index])
    for row in rows:
        table.add_row(*map(Text, row))
    out.print(table)


def _widths(
    columns: Sequence[str], rows: Sequence[Sequence[str]], available: int
) -> list[int] | None:
    """Return the columns' widths, in characters; None: not all words fit beside each other.

    Rich would narrow the widest column first, and break its words. Here the columns that need
    least are whole first: a number stays beside its unit, and a long text takes more lines.
    """
    cells = list(zip(columns, *rows, strict=True))
    whole = [max(map(cell_len, "\n".join(column).split("\n"))) for column in cells]
    longest = (max(map(cell_len, " ".join(column).split()), default=0) for column in cells)
    widths = [min(width, _MAX_WHOLE_WORD) for width in longest]
    spare = available - 3 * len(columns) - 1 - sum(widths)
    if spare < 0:
        return None
    by_need = sorted(range(len(columns)), key=lambda index: whole[index] - widths[index])
    for num_before, index in enumerate(by_need):
        share = spare // (len(columns) - num_before)
        more = min(whole[index] - widths[index], share)
        widths[index] += more
        spare -= more
    return widths


def _write(text: str) -> None:
    """Write text of any length to stdout; rich would split it into lines and words first."""
    if IS_FIRST:
        out.file.write(text)


def is_live() -> bool:
    """Return whether bars are shown that change in place."""
    return _shows_progress and err.is_terminal and not err.is_dumb_terminal


@contextlib.contextmanager
def loading_torch(what: str) -> Iterator[None]:
    """Say at once what is started, while torch is imported: that takes seconds.

    Args:
        what: The command, and what it works on; for a log, where neither was typed above.
    """
    is_loaded = "torch" in sys.modules  # `wtours demo` runs several commands
    if not is_loaded and not is_live():
        note(f"{plain(what)}: loading torch …")
    with err.status("loading torch …") if not is_loaded and is_live() else contextlib.nullcontext():
        yield


class Lines:
    """Progress where there is no terminal: for each item a line now and then, and at its end."""

    def __init__(self) -> None:
        text = os.environ.get(LINE_SECONDS, _LINE_SECONDS)
        if not re.fullmatch(r"\d{1,6}(\.\d+)?", text):
            raise UsageError(f"{LINE_SECONDS}={text} must be a number of seconds")
        self._seconds = float(text)
        self._said: dict[str, float] = {}
        self._last = time.monotonic()

    def say(self, item: str, text: str, *, is_last: bool) -> None:
        """Print a line of an item, if it is time to."""
        now = time.monotonic()
        if is_last or now - self._said.get(item, -self._seconds) >= self._seconds:
            self._said[item] = self._last = now
            note(text)

    @contextlib.contextmanager
    def never_silent(self, title: str) -> Iterator[None]:
        """Also say how long it takes so far, where no line has come for as long."""
        ended, begun = threading.Event(), time.monotonic()

        def watch() -> None:
            while not ended.wait(self._seconds):
                now = time.monotonic()
                if now - self._last >= self._seconds:
                    note(f"{title}: {seconds_text(now - begun)} so far")

        if self._seconds:  # 0: each step has its line
            threading.Thread(target=watch, daemon=True).start()
        try:
            yield
        finally:
            ended.set()


@contextlib.contextmanager
def progress_bars(title: str, unit: Unit) -> Iterator[OnProgress]:
    """Show a bar for each item of a stage, or lines; yield the function that moves them."""
    if not is_live():
        lines = Lines()
        with lines.never_silent(title):
            yield _progress_lines(title, unit, lines)
        return
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


def _progress_lines(title: str, unit: Unit, lines: Lines) -> OnProgress:
    begun: dict[str, tuple[float, float]] = {}

    def on_progress(item: str, done: float, total: float | None) -> None:
        at, first = begun.setdefault(item, (time.monotonic(), done))
        text = plain(f"{title} {item}: {_amount(done, total, unit)}")
        if total and first < done < total:
            seconds = (time.monotonic() - at) * (total - done) / (done - first)
            text += f", {seconds_text(seconds)} left"
        lines.say(item, text, is_last=done == total)

    return on_progress


def _amount(done: float, total: float | None, unit: Unit) -> str:
    if unit == "bytes":
        return bytes_text(done) + (f" of {bytes_text(total)}" if total else "")
    if unit == "percent" and total:
        return f"{done / total:.0%}"
    return f"{done:,.0f}" + (f" of {total:,.0f}" if total else "")


def fail(text: str, *, on_every_rank: bool = False) -> None:
    """Print an error to stderr, of several processes only the first of a node.

    On every rank where it names one: others may not know.
    """
    if IS_FIRST_OF_NODE or on_every_rank:
        err.quiet = False
        warn(text)
