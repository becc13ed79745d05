"""Leases: a few consecutive tasks of one video, which one worker of a cluster does in turn."""

import itertools
import time
from collections.abc import Iterable, Iterator

from wtours.execution.executor import Task

MAX_LEASE = 10
"""Tasks of ours in one of Ray's: its overhead and the listing of a video's packets count once."""
_LOOK_AHEAD_SECONDS = 20


def leases(tasks: Iterable[Task], num_workers: int) -> Iterator[list[Task]]:
    """Yield tasks in order, up to `MAX_LEASE` of one video together; fewer where there are few."""
    waiting, ahead = iter(tasks), list[Task]()
    # Long enough for a few videos: planning thousands of them must not keep the workers waiting.
    deadline, size = time.monotonic() + _LOOK_AHEAD_SECONDS, MAX_LEASE
    for task in itertools.islice(waiting, 4 * num_workers * MAX_LEASE):
        ahead.append(task)
        if time.monotonic() > deadline:
            break
    else:
        size = max(1, len(ahead) // (4 * num_workers))
    of_videos = itertools.groupby(
        itertools.chain(ahead, waiting), key=lambda task: getattr(task, "video_id", None)
    )
    for _, of_video in of_videos:
        while lease := list(itertools.islice(of_video, size)):
            yield lease
