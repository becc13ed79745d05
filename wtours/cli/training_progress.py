"""The progress of a training run on the terminal."""

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
    """Show a bar with loss, clips a second, data wait, memory, time left; yield what moves it."""
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
        left = seconds_text(now.seconds_left)
        bar.update(
            task,
            description=plain(now.run),
            completed=now.step,
            total=now.steps,
            status=f"{now.describe()} · {left} left",
        )

    with bar:
        yield on_step
