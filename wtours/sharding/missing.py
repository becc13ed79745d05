"""What is not finished of a shard set: the segments, and the parts of an array job."""

import itertools
from collections.abc import Iterable
from pathlib import Path

from wtours.execution.parts import Part
from wtours.sharding.plan import published_plans, recorded_params

STRETCH_SECONDS = 60
"""The least that `prepare` gives a part: a segment of the analysis."""


def missing_segments(directory: Path) -> dict[str, list[int]]:
    """Return the numbers of the segments that are not finished, by video id.

    Only of videos that were planned: a part plans all of its videos before it begins.

    Raises:
        ShardError: nothing was begun there.
    """
    params = recorded_params(directory)
    found = {
        plan.video_id: plan.missing_segments(directory, params)
        for plan in published_plans(directory)
    }
    return {video_id: segments for video_id, segments in found.items() if segments}


def unfinished_parts(directory: Path, count: int) -> list[int]:
    """Return the numbers i of the parts i/count that have a missing segment, ascending.

    `shard` gives a part single segments, `prepare` stretches of at least a minute. Where these are
    not the same, the parts of both are named: one with nothing left to do ends at once.

    Raises:
        ShardError: nothing was begun there.
    """
    seconds = recorded_params(directory).shard_seconds
    parts = set()
    for video_id, numbers in missing_segments(directory).items():
        for number in numbers:
            stretch = number * seconds // max(seconds, STRETCH_SECONDS)
            parts |= {Part.of(video_id, n, count).number for n in (number, stretch)}
    return sorted(parts)


def array_expression(numbers: Iterable[int]) -> str:
    """Return ascending numbers as Slurm writes them: 0,3,7-9."""
    runs = []
    for _, run in itertools.groupby(enumerate(numbers), key=lambda item: item[1] - item[0]):
        members = [number for _, number in run]
        runs.append(str(members[0]) if len(members) == 1 else f"{members[0]}-{members[-1]}")
    return ",".join(runs)
