"""Daft on Ray, with its checkpoints by the key of a row."""

import sys

import daft
from daft import DataType, col

from benchmarks.peers.segments import disturb, jpegs_of


def jpegs_of_segment(segment: str, path: str, number: int, folder: str, fault: str) -> list[bytes]:
    """Return the frames of a segment."""
    disturb(folder, fault, segment)
    return jpegs_of(path, number)


def main(address: str, folder: str, fault: str) -> None:
    """Write a row for each row of `segments`."""
    daft.set_runner_ray(address)
    store = daft.CheckpointStore(f"file://{folder}/checkpoint")
    checkpoint = daft.CheckpointConfig(store=store, on="segment")
    rows = daft.read_parquet(f"{folder}/segments/*.parquet", checkpoint=checkpoint)
    jpegs = daft.func(jpegs_of_segment, return_dtype=DataType.list(DataType.binary()))
    made = jpegs(col("segment"), col("path"), col("number"), folder, fault)
    rows.with_column("jpegs", made).write_parquet(f"{folder}/out")


if __name__ == "__main__":
    main(*sys.argv[1:])
