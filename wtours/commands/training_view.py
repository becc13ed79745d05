"""The progress of a training run on the terminal."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from wtours import console

if TYPE_CHECKING:  # torch takes seconds to import
    from training.metrics import StepStatus


@contextlib.contextmanager
def training_bar() -> Iterator[Callable[["StepStatus"], None]]:
    """Show a bar with loss, clips a second, data wait, memory, time left; yield what moves it."""
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}", markup=False),
        console=console.err,
    )
    task = bar.add_task("pretrain", total=None, status="starting")

    def on_step(now: "StepStatus") -> None:
        left = console.seconds_text(now.seconds_left)
        bar.update(
            task,
            description=console.plain(f"pretrain {now.run}"),
            completed=now.step,
            total=now.steps,
            status=f"{now.describe()} · {left} left",
        )

    with bar:
        yield on_step
