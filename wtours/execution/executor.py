"""Running the tasks of a stage: one after another, or in several processes.

A task is a small picklable value; its only side effect is to publish its result with a receipt. So
running one twice does no harm, and what is finished stays finished when another fails.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

from wtours.errors import WtoursError
from wtours.execution.child_process import _follow_parent

logger = logging.getLogger(__name__)

Task = TypeVar("Task")
Result = TypeVar("Result")


def default_jobs() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0))


def run_tasks(
    function: Callable[[Task], Result], tasks: Sequence[Task], *, jobs: int
) -> Iterator[tuple[Task, Result]]:
    """Yield (task, function(task)) as tasks finish; in order when `jobs` is 1.

    `function` and the tasks must be picklable when `jobs` > 1: the processes are spawned, because
    a fork of a process with decoder or inference threads can hang.

    Raises:
        WtoursError: a process was killed (most often for memory).
        Exception: whatever `function` raised; tasks that have not begun are dropped.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be >= 1, got {jobs}")
    if jobs == 1 or len(tasks) <= 1:
        for task in tasks:
            yield task, function(task)
        return
    pool = ProcessPoolExecutor(
        min(jobs, len(tasks)), mp_context=get_context("spawn"), initializer=_follow_parent
    )
    try:
        futures: dict[Future[Result], Task] = {pool.submit(function, task): task for task in tasks}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise WtoursError(
            "a worker process died (out of memory?); run the same command again with fewer --jobs: "
            "finished parts are kept"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
