"""How the tasks of a stage are run: the Protocol, and running them in this process.

A task is a small frozen picklable value; its only side effect is to publish its result, the receipt
last. So running one twice does no harm, and what is finished stays finished when another fails.
"""

import os
from collections.abc import Callable, Generator, Iterable
from typing import Protocol, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def default_jobs() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


class Executor(Protocol):
    """Maps a function over tasks. A stage is handed one, and does not know where its tasks run."""

    @property
    def num_workers(self) -> int:
        """How many tasks run at a time."""
        ...

    def map(
        self, function: Callable[[Task], Result], tasks: Iterable[Task]
    ) -> Generator[tuple[Task, Result], None, None]:
        """Yield (task, function(task)) as tasks finish, in any order.

        Tasks are taken as workers become free, so that `tasks` may be as long as it likes. When
        the generator is closed, running tasks are finished or ended.

        Raises:
            WorkerDiedError: processes died at some tasks; all others have been yielded before.
            Exception: whatever `function` raised; tasks that have not begun are dropped.
        """
        ...


class SerialExecutor:
    """Runs tasks in this process, one after the other, in their order."""

    num_workers = 1

    def map(
        self, function: Callable[[Task], Result], tasks: Iterable[Task]
    ) -> Generator[tuple[Task, Result], None, None]:
        """Yield (task, function(task)); see `Executor`."""
        for task in tasks:
            yield task, function(task)


SERIAL = SerialExecutor()
