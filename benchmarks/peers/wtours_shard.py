"""wtours itself, in its own environment: `wtours shard --executor ray`."""

import sys
from functools import partial
from pathlib import Path

from benchmarks.peers.segments import SECONDS, disturb_task
from tests.support.ray_nodes import DisturbedExecutor
from wtours.sharding.build import build_shards
from wtours.shards.params import ShardParams
from wtours.workspace.layout import Layout

PARAMS = ShardParams(frames_per_second="5", shard_seconds=SECONDS, short_side=64)


def main(address: str, folder: str, fault: str) -> int:
    """Make the shards of the videos in the workspace; return the exit code of the command."""
    layout, first = Layout(Path(folder) / "root"), partial(disturb_task, folder, fault)
    with DisturbedExecutor(first, address=address, shared=layout.root) as executor:
        report = build_shards(layout, ["one", "two"], params=PARAMS, executor=executor)
    for video_id, reason in report.failed.items():
        print(f"{video_id}: {reason}", file=sys.stderr)
    return 3 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
