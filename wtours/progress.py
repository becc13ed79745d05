"""How a stage tells what it has done; the command line draws it, a library user may ignore it."""

from collections.abc import Callable

Progress = Callable[[str, float, float | None], None]
"""Called as progress(item, done, total); the unit is the stage's own; total None: not known yet."""


def no_progress(item: str, done: float, total: float | None) -> None:
    """Ignore progress."""
