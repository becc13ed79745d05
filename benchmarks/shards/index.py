"""A made-up shard set of millions of frames, and what opening it costs.

    python -m benchmarks.shards.index DIRECTORY    prints one JSON object: what a fresh process took

The tars are sparse files; only the frames of one clip have content.
"""

import json
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg

from wtours.shards import ClipDataset, ClipSampler, ShardIndex
from wtours.shards.schema import sample_key, shard_name
from wtours.storage.hashing import canonical_json, sha256_file

_FRAMES_PER_SHARD = 30 * 60
_SPACING = 81_920
"""From one frame to the next in a tar: about what a frame of 910 x 512 takes."""
_TIMED_CLIPS = 2000


def write_made_up_set(directory: Path, *, num_videos: int, frames_per_video: int) -> None:
    """Write dataset.json, the index, and tars that are as long as they should be."""
    directory.mkdir(parents=True)
    jpeg = simplejpeg.encode_jpeg(
        np.random.default_rng(0).integers(90, 150, (512, 910, 3), np.uint8),
        quality=45,
        colorsubsampling="420",
    )
    num_shards = frames_per_video // _FRAMES_PER_SHARD
    frame_index = np.arange(num_shards * _FRAMES_PER_SHARD)
    pts_us = (frame_index * 1_000_000 / 30).round().astype(np.int64)
    videos, shards, tables = [], [], []
    for number in range(num_videos):
        video_id = f"video{number}"
        names = [shard_name(video_id, segment) for segment in range(num_shards)]
        tables.append(
            pa.table(
                {
                    "video_id": pa.array(np.repeat(video_id, len(frame_index))),
                    "frame_index": frame_index,
                    "pts_us": pts_us,
                    "shard": pa.array(np.repeat(names, _FRAMES_PER_SHARD)),
                    "offset": 512 + frame_index % _FRAMES_PER_SHARD * _SPACING,
                    "size": np.full(len(frame_index), len(jpeg), np.int32),
                    "shot": np.zeros(len(frame_index), np.int32),
                    "lightness": np.zeros(len(frame_index), np.float32),
                }
            )
        )
        for segment, name in enumerate(names):
            _write_tar(directory / f"{name}.tar", video_id, segment, jpeg)
            counts = {"frames": _FRAMES_PER_SHARD, "bytes": _SPACING * _FRAMES_PER_SHARD}
            where = {"shard": name, "video_id": video_id, "segment": segment}
            shards.append({**where, **counts, "sha256": ""})
        unknown = dict.fromkeys(
            ("source", "title", "channel", "license_claimed", "license_observed"), None
        )
        facts = {
            "video_id": video_id,
            "source_sha256": "0" * 64,
            "frame_rate": "30/1",
            "width": 910,
        }
        counts = {"segments": num_shards, "frames": len(frame_index), "holes": 0}
        last = {"height": 512, "last_pts_us": int(pts_us[-1]), "corrupt_frames": 0}
        videos.append({**unknown, **facts, **counts, **last})
    index = directory / "index.parquet"
    pq.write_table(pa.concat_tables(tables), index)
    num_frames = num_videos * len(frame_index)
    record = {"rows": num_frames, "bytes": index.stat().st_size, "sha256": sha256_file(index)}
    dataset = {
        "format": 1,
        "name": "made-up",
        "params": {},
        "frames": num_frames,
        "bytes": num_frames * _SPACING,
        "index": record,
        "videos": videos,
        "shards": shards,
    }
    (directory / "dataset.json").write_bytes(canonical_json(dataset))


def _write_tar(path: Path, video_id: str, segment: int, jpeg: bytes) -> None:
    """Write a sparse tar; the first 8 s of a video have a frame each second."""
    with path.open("wb") as file:
        file.truncate(_SPACING * _FRAMES_PER_SHARD)
        for frame_index in range(0, 8 * 30, 30) if segment == 0 else ():
            header = tarfile.TarInfo(f"{sample_key(video_id, frame_index)}.jpg")
            header.size = len(jpeg)
            file.seek(frame_index * _SPACING)
            file.write(header.tobuf(tarfile.USTAR_FORMAT) + jpeg)


def measure(directory: Path) -> dict[str, float]:
    """Open the set in this process, and return seconds, memory and the cost of finding a clip."""
    start = time.perf_counter()
    index = ShardIndex.open(directory)
    opened = time.perf_counter()
    dataset = ClipDataset(index)
    listed = time.perf_counter()
    dataset[0].decode()
    decoded = time.perf_counter()
    peak_mib = _peak_mib()
    sampler = ClipSampler(len(dataset), seed=0)
    before = time.process_time()
    for position in range(_TIMED_CLIPS):
        dataset.clip_rows(sampler.clip_at(position))
    finding = (time.process_time() - before) / _TIMED_CLIPS
    return {
        "frames": len(index),
        "open_seconds": opened - start,
        "list_seconds": listed - opened,
        "first_clip_seconds": decoded - listed,
        "peak_mib": peak_mib,
        "find_seconds": finding,
    }


def _peak_mib() -> float:
    """Return this process's peak; getrusage counts that of the process it was started from too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]))))
