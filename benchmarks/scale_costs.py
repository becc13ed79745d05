"""What many hours of 4K video cost, from what `bench_scale` measured and prices that you give.

`python -m benchmarks.scale_costs --videos 10000 --core-hour 0.04 --gpu-hour 2.5`: prices are in any
one currency, and none is built in that would be true tomorrow: the defaults only show the form.
"""

import argparse
import json
import sys

from rich.console import Console
from rich.table import Table

from benchmarks.rows import OUT

_ROW = "4K60 H.264: core-seconds of prepare for a second of video"
_SEGMENT_SECONDS = 60
_WRITES_A_SEGMENT = 4
"""Tar, rows, receipt of the shard; the segment of the analysis is one of the merged tables'."""
_READS_A_SEGMENT = 5
"""A HEAD for each object of the shard, and two GETs of a machine that resumes: `bench_store`."""
_VIDEO_BLOCK_MB = 16
"""Of a request for a part of a video, which is copied to a machine."""


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=10_000)
    parser.add_argument("--hours", type=float, default=1.0, help="of each video")
    parser.add_argument("--video-mbit", type=float, default=20.0, help="megabits a second")
    parser.add_argument("--shard-fps", type=float, default=30.0)
    parser.add_argument("--frame-kb", type=float, default=79.0, help="a frame in a tar")
    parser.add_argument("--detect-fps", type=float, default=1.0)
    parser.add_argument("--detections-per-gpu-second", type=float, default=10.0, help="your GPU's")
    parser.add_argument("--core-hour", type=float, default=0.04, help="price")
    parser.add_argument("--gpu-hour", type=float, default=2.5, help="price")
    parser.add_argument("--gb-month", type=float, default=0.023, help="price of storage")
    parser.add_argument("--million-writes", type=float, default=5.0, help="price of PUT requests")
    parser.add_argument("--million-reads", type=float, default=0.4, help="price of GET requests")
    asked = parser.parse_args()
    measured = OUT / "scale.json"
    rows = json.loads(measured.read_text())["rows"] if measured.exists() else []
    found = [row["value"] for row in rows if row["name"] == _ROW]
    if not found:
        sys.exit(f"{measured} has no measurement: run `python -m benchmarks.bench_scale` first")
    hours = asked.videos * asked.hours
    seconds = hours * 3600
    core_hours = found[0] * hours
    gpu_hours = seconds * asked.detect_fps / asked.detections_per_gpu_second / 3600
    video_gb = seconds * asked.video_mbit / 8 / 1000
    shard_gb = seconds * asked.shard_fps * asked.frame_kb / 1e6
    reads = seconds / _SEGMENT_SECONDS * _READS_A_SEGMENT + video_gb * 1000 / _VIDEO_BLOCK_MB
    writes = seconds / _SEGMENT_SECONDS * _WRITES_A_SEGMENT + 8 * asked.videos
    table = Table(title=f"{asked.videos:,} videos of {asked.hours:g} h in 4K60 H.264")
    for column in ("what", "amount", "unit", "price", "cost"):
        table.add_column(column, justify="left" if column in ("what", "unit") else "right")
    lines = [
        (
            "decoding, lightness, cuts, shards",
            core_hours,
            "core-hours",
            asked.core_hour,
        ),
        (
            f"detection at {asked.detect_fps:g}/s",
            gpu_hours,
            "GPU-hours",
            asked.gpu_hour,
        ),
        ("videos, stored a month", video_gb, "GB", asked.gb_month),
        ("shards, stored a month", shard_gb, "GB", asked.gb_month),
        (
            "writes to an object store",
            writes / 1e6,
            "million requests",
            asked.million_writes,
        ),
        (
            "reads from an object store, each video copied once",
            reads / 1e6,
            "million requests",
            asked.million_reads,
        ),
    ]
    for what, amount, unit, price in lines:
        table.add_row(what, f"{amount:,.1f}", unit, f"{price:g}", f"{amount * price:,.0f}")
    table.add_row("in all", "", "", "", f"{sum(line[1] * line[3] for line in lines):,.0f}")
    Console().print(table)
    print(f"measured: {found[0]:.2f} core-seconds for a second of video; GPU and prices: as given")
    return 0


if __name__ == "__main__":
    sys.exit(main())
