"""The progress of a training run: a bar on a terminal, elsewhere a line now and then."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
)

from wtours.cli import console
from wtours.text import plain, seconds_text

if TYPE_CHECKING:  # torch takes seconds to import
    from training.engine.metrics import StepStatus

_WIDE = 110
"""Characters of a terminal in which there is room for a bar beside the numbers."""


@contextlib.contextmanager
def training_bar() -> Iterator[Callable[["StepStatus"], None]]:
    """Show loss, clips a second, data wait, memory and time left; yield what updates them."""
    if not console.is_live():
        lines = console.Lines()
        with lines.never_silent("pretrain"):
            yield _training_lines(lines)
        return
    columns: list[ProgressColumn] = [
        TextColumn("{task.description}", markup=False),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}", markup=False),
    ]
    if console.err.width >= _WIDE:
        columns.insert(1, BarColumn(bar_width=20))
    bar = Progress(*columns, console=console.err)
    task = bar.add_task("pretrain", total=None, status="starting")

    def on_step(now: "StepStatus") -> None:
        run, status = plain(now.run), _status(now)
        bar.update(task, description=run, completed=now.step, total=now.steps, status=status)

    with bar:
        yield on_step


def _training_lines(lines: console.Lines) -> Callable[["StepStatus"], None]:
    def on_step(now: "StepStatus") -> None:
        text = f"{plain(now.run)}: step {now.step:,} of {now.steps:,} · {_status(now)}"
        lines.say(now.run, text, is_last=now.step == now.steps)

    return on_step


def _status(now: "StepStatus") -> str:
    return f"{now.describe()} · {seconds_text(now.seconds_left)} left"
