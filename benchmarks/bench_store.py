"""Clips from an object store beside clips from the disk, and what they cost in requests and bytes.

    make bench-store
    python -m benchmarks.bench_store --clips 200

The store is moto's S3 in a process of its own on this machine: our own work is compared, and not a
network. Speeds are ratios within one run.
"""

import argparse
import contextlib
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.rows import Row, publish_rows
from tests.support.object_stores import copy_into
from tests.support.shard_set import write_shard_set
from wtours.shards import ClipDataset, ClipSampler, FetchPolicy, ShardIndex
from wtours.storage.atomic import write_bytes
from wtours.storage.receipts import Receipt, record_file, write_receipt
from wtours.storage.scratch import SCRATCH
from wtours.storage.working_copy import WorkingCopy

CLIP_LENGTH, ROUNDS = 8, 5
SIZE = (512, 910)
VIDEOS = ("one", "two", "three", "four")
GOAL_WARM, GOAL_COLD = 0.7, 1.1
NUM_SEGMENTS = 100


def main() -> int:
    """Measure, print and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=60, help="clips a round")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wtours-bench-") as name, _s3() as url:
        folder = Path(name)
        write_shard_set(folder / "set", num_frames=60, size=SIZE, videos=VIDEOS)
        copy_into(url, folder / "set")
        rows: list[Row] = []
        for interval in (1.0, 5.0):
            rows += _rows(
                folder / "set", url, folder / f"cache-{interval}", interval, options.clips
            )
        rows += _commit_rows("s3://walks/root")
    return publish_rows("store", rows)


def _rows(local: Path, url: str, cache: Path, interval: float, num_clips: int) -> list[Row]:
    policy = FetchPolicy(cache_dir=cache)
    near, far = _dataset(local, interval), _dataset(url, interval, policy)
    order = [ClipSampler(len(near), seed=0).clip_at(place) for place in range(num_clips)]
    begun = time.perf_counter()
    clips = [far[number] for number in order]
    cold = num_clips / (time.perf_counter() - begun)
    assert clips == [near[number] for number in order]
    reader = far.index.remote
    assert reader is not None
    # Only what this run was the first to read: later clips have frames of earlier ones.
    own = sum({jpeg: len(jpeg) for clip in clips for jpeg in clip.jpegs}.values())
    gaps = (reader.frames_read - reader.requests) * policy.coalesce_bytes
    warm, disk = [], []
    for _ in range(ROUNDS):
        again = _dataset(url, interval, policy)  # of another process: nothing in memory yet
        disk.append(_clips_per_second(near, order))
        warm.append(_clips_per_second(again, order))
        assert again.index.remote is not None
        assert again.index.remote.requests == 0
    ratio = statistics.median(w / d for w, d in zip(warm, disk, strict=True))
    what = f"clips of {CLIP_LENGTH} frames {interval:g} apart"
    return [
        Row(
            name=f"{what}: warm cache, decoded",
            value=ratio,
            unit="x the clips/s from the disk",
            goal=f">= {GOAL_WARM}",
            holds=ratio >= GOAL_WARM,
        ),
        Row(
            name=f"{what}: cold, bytes read",
            value=reader.bytes_read / (own + gaps),
            unit="x the JPEGs and the gaps between coalesced ones",
            goal=f"<= {GOAL_COLD}",
            holds=reader.bytes_read <= GOAL_COLD * (own + gaps),
        ),
        _shown(f"{what}: cold", reader.bytes_read / own, "x the JPEGs alone"),
        _shown(f"{what}: cold", reader.requests / num_clips, "requests a clip"),
        _shown(f"{what}: cold", reader.bytes_read / num_clips / 1e3, "kB a clip"),
        _shown(f"{what}: cold, not decoded", cold, "clips/s"),
        _shown(f"{what}: from the disk, decoded", statistics.median(disk), "clips/s"),
    ]


def _commit_rows(url: str) -> list[Row]:
    """Count the requests of a shard set's commits, as the S3 client sends them."""
    from s3fs.core import S3FileSystem

    counts, send = Counter[str](), S3FileSystem._call_s3

    async def counted(self: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        counts[method] += 1
        return await send(self, method, *args, **kwargs)

    S3FileSystem._call_s3 = counted
    steps = {}
    with tempfile.TemporaryDirectory(prefix="wtours-bench-") as name:
        os.environ[SCRATCH] = f"{name}/one"
        copy = _checkout(url)
        counts.clear()
        for number in range(NUM_SEGMENTS):
            _commit(copy, f"walk-{number:05d}")
        steps["to commit"] = counts.copy()
        for step, machine in (("to resume, another machine", "two"), ("again", "two")):
            os.environ[SCRATCH] = f"{name}/{machine}"
            counts.clear()
            _checkout(url)
            steps[step] = counts.copy()
    return [
        _shown(f"{step} {NUM_SEGMENTS} segments: {method}", number / NUM_SEGMENTS, "a segment")
        for step, found in steps.items()
        for method, number in sorted(found.items())
    ]


def _checkout(url: str) -> WorkingCopy:
    return WorkingCopy.checkout(url, ("shards/set",), lambda key: not key.endswith(".tar"))


def _commit(copy: WorkingCopy, shard: str) -> None:
    folder = copy.root / "shards" / "set"
    tar, rows = folder / f"{shard}.tar", folder / "receipts" / f"{shard}.parquet"
    for path in (tar, rows):
        write_bytes(path, shard.encode())
    records = (
        record_file(tar, relative_to=folder).model_copy(update={"path": f"../{tar.name}"}),
        record_file(rows, relative_to=rows.parent),
    )
    receipt = Receipt(stage="shard", key=shard, files=records)
    write_receipt(rows.with_suffix(".json"), receipt)


def _shown(name: str, value: float, unit: str) -> Row:
    return Row(name=name, value=value, unit=unit, reason="for the record")


def _dataset(place: Path | str, interval: float, policy: FetchPolicy | None = None) -> ClipDataset:
    index = ShardIndex.open(place, policy=policy)
    return ClipDataset(index, clip_length=CLIP_LENGTH, frame_interval_seconds=interval)


def _clips_per_second(dataset: ClipDataset, order: list[int]) -> float:
    begun = time.perf_counter()
    for number in order:
        dataset[number].decode(min_short_side=300)
    return len(order) / (time.perf_counter() - begun)


@contextlib.contextmanager
def _s3() -> Iterator[str]:
    """Yield the URL of a folder in moto's S3, which runs until the block ends."""
    import s3fs

    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    # Its log goes to a file: a pipe that nobody reads is full after some 600 requests.
    with tempfile.NamedTemporaryFile() as log, subprocess.Popen(command, stderr=log) as server:
        try:
            while not (said := re.search(r"Running on (\S+)", Path(log.name).read_text())):
                assert server.poll() is None, Path(log.name).read_text()
                time.sleep(0.1)
            os.environ |= {
                "AWS_ACCESS_KEY_ID": "made-up",
                "AWS_SECRET_ACCESS_KEY": "made-up",
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_ENDPOINT_URL": said[1],
            }
            s3fs.S3FileSystem(use_listings_cache=False).mkdir("walks")
            yield "s3://walks/set"
        finally:
            server.terminate()


if __name__ == "__main__":
    sys.exit(main())
