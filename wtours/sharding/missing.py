"""What is not finished of a shard set: the segments, and the parts of an array job."""

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path

from wtours.execution.parts import Part
from wtours.sharding.plan import published_plans, recorded_params


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


def unfinished_parts(missing: Mapping[str, Iterable[int]], count: int) -> list[int]:
    """Return the numbers i of the parts i/count that have a missing segment, ascending."""
    segments = ((video_id, n) for video_id, numbers in missing.items() for n in numbers)
    return sorted({Part.of(video_id, n, count).number for video_id, n in segments})


def array_expression(numbers: Iterable[int]) -> str:
    """Return ascending numbers as Slurm writes them: 0,3,7-9."""
    runs = []
    for _, run in itertools.groupby(enumerate(numbers), key=lambda item: item[1] - item[0]):
        members = [number for _, number in run]
        runs.append(str(members[0]) if len(members) == 1 else f"{members[0]}-{members[-1]}")
    return ",".join(runs)
