"""Who may work on a shard set at the same time.

One process that does the whole set, or any number of parts (`--part i/N`), each once. Both hold the
lock file of the set, the parts together (shared). `index_lock` is for what all parts write: the
plans of the videos, and the index.
"""

import contextlib
import fcntl
from collections.abc import Iterator
from functools import partial

from wtours.execution.parts import Part
from wtours.storage.atomic import RECEIPTS_FOLDER, sweep
from wtours.storage.locks import lock, shared_lock
from wtours.storage.os_errors import explain_os_errors
from wtours.workspace.layout import Layout


@contextlib.contextmanager
def set_lock(layout: Layout, name: str) -> Iterator[None]:
    """Hold a shard set alone, and remove what killed processes left in it.

    Raises:
        WtoursError: another process works on it, on all of it or on a part.
    """
    with lock(layout.lock(f"shard-{name}"), what=f"shard set {name!r}"):
        _sweep(layout, name)
        yield


@contextlib.contextmanager
def part_lock(layout: Layout, name: str, part: Part) -> Iterator[None]:
    """Hold one part of a shard set; other parts may work at the same time.

    What killed processes left is swept only if no other part works: it may be that one's.

    Raises:
        WtoursError: another process works on the whole set, or on the same part.
    """
    own = layout.lock(f"shard-{name}-part-{part.number}-of-{part.count}")
    with (
        lock(own, what=f"part {part} of shard set {name!r}"),
        contextlib.ExitStack() as stack,
    ):
        with index_lock(layout, name):  # else two parts that begin together refuse each other
            whole = shared_lock(
                layout.lock(f"shard-{name}"),
                what=f"shard set {name!r}",
                on_alone=partial(_sweep, layout, name),
            )
            stack.enter_context(whole)
        yield


@contextlib.contextmanager
def index_lock(layout: Layout, name: str) -> Iterator[None]:
    """Hold what all parts write; waits for its turn."""
    path = layout.lock(f"shard-{name}-plans")
    path.parent.mkdir(parents=True, exist_ok=True)
    with explain_os_errors(path), path.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _sweep(layout: Layout, name: str) -> None:
    directory = layout.shards_dir(name)
    sweep(directory)
    sweep(directory / RECEIPTS_FOLDER)
