"""Ray Data, with its checkpoints by the id of a row."""

import sys
from functools import partial
from typing import Any

import ray
import ray.data
from ray.data.checkpoint import CheckpointConfig

from benchmarks.peers.segments import disturb, jpegs_of


def with_jpegs(row: dict[str, Any], folder: str, fault: str) -> dict[str, Any]:
    """Add the frames of a segment to its row."""
    disturb(folder, fault, row["segment"])
    return {"segment": row["segment"], "jpegs": jpegs_of(row["path"], row["number"])}


def main(address: str, folder: str, fault: str) -> None:
    """Write a row for each row of `segments`."""
    ray.init(address=address)
    context = ray.data.DataContext.get_current()
    context.use_datasource_v2 = False  # which would read so small a table in one task
    context.checkpoint_config = CheckpointConfig(
        "segment", f"{folder}/checkpoint", delete_checkpoint_on_success=False
    )
    rows = ray.data.read_parquet(f"{folder}/segments", override_num_blocks=6)
    rows.map(partial(with_jpegs, folder=folder, fault=fault)).write_parquet(f"{folder}/out")


if __name__ == "__main__":
    main(*sys.argv[1:])
