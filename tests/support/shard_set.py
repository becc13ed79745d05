"""A small shard set with moving, colored patterns, written by the real writer."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg

from wtours.sharding.tar_writer import ShardTar
from wtours.shards.params import ShardParams
from wtours.shards.schema import INDEX_SCHEMA, Dataset, IndexRecord, ShardRecord, VideoRecord
from wtours.storage.atomic import write_json
from wtours.storage.hashing import sha256_file


def write_shard(path, samples):
    """Publish the samples, each the arguments of `ShardTar.add`; return their rows."""
    with ShardTar(path) as tar:
        for sample in samples:
            tar.add(*sample)
    return tar.rows


def write_shard_set(
    directory: Path,
    *,
    num_frames: int = 24,
    size: tuple[int, int] = (48, 64),
    videos: tuple[str, ...] = ("street",),
    interval_us: int = 1_000_000,
) -> Path:
    """Write one shard per video, a frame an interval, each video one shot."""
    directory.mkdir(parents=True)
    shards, records, tables = [], [], []
    for number, video_id in enumerate(videos):
        frames = moving_pattern(num_frames, size, seed=number)
        path = directory / f"{video_id}-00000.tar"
        rows = write_shard(
            path,
            (
                (video_id, i, i * interval_us, encode(frame), {"frame_rate": "1/1"})
                for i, frame in enumerate(frames)
            ),
        )
        shards.append(
            ShardRecord(
                shard=path.stem,
                video_id=video_id,
                segment=0,
                frames=num_frames,
                bytes=path.stat().st_size,
                sha256=sha256_file(path),
            )
        )
        records.append(video_record(video_id, num_frames, size))
        tables.append(
            pa.table(
                {
                    "video_id": [video_id] * num_frames,
                    "frame_index": [row["frame_index"] for row in rows],
                    "pts_us": [row["pts_us"] for row in rows],
                    "shard": [path.stem] * num_frames,
                    "offset": [row["offset"] for row in rows],
                    "size": [row["size"] for row in rows],
                    "shot": [0] * num_frames,
                    "lightness": [50.0] * num_frames,
                    "blur_boxes": [None] * num_frames,
                    "blurred_share": [None] * num_frames,
                }
            ).cast(INDEX_SCHEMA)
        )
    index = directory / "index.parquet"
    pq.write_table(pa.concat_tables(tables), index)
    dataset = Dataset(
        format=1,
        name="test",
        params=ShardParams(frames_per_second="1"),
        frames=num_frames * len(videos),
        bytes=sum(shard.bytes for shard in shards),
        index=IndexRecord(
            rows=num_frames * len(videos), bytes=index.stat().st_size, sha256=sha256_file(index)
        ),
        videos=tuple(records),
        shards=tuple(shards),
    )
    write_json(directory / "dataset.json", dataset.model_dump(mode="json"))
    return directory


def moving_pattern(num_frames, size, *, seed):
    """Return (N, H, W, 3) uint8: a colored texture that moves, and a disc that moves faster."""
    height, width = size
    rng = np.random.default_rng(seed)
    texture = rng.integers(0, 256, (height // 8, width // 8 + num_frames, 3))
    texture = texture.repeat(8, 0).repeat(8, 1)
    rows, columns = np.mgrid[:height, :width]
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    for i in range(num_frames):
        frames[i] = texture[:height, 2 * i : 2 * i + width]
        disc = (rows - height / 2) ** 2 + (columns - (7 * i) % width) ** 2 < (height / 4) ** 2
        frames[i][disc] = (230, 40, 40)
    return frames


def encode(frame):
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(frame), quality=90, colorspace="RGB", colorsubsampling="420"
    )


def video_record(video_id, num_frames, size):
    return VideoRecord(
        video_id=video_id,
        source_sha256="0" * 64,
        source=None,
        title=None,
        channel=None,
        license_claimed=None,
        license_observed=None,
        frame_rate="1/1",
        width=size[1],
        height=size[0],
        last_pts_us=(num_frames - 1) * 1_000_000,
        segments=1,
        frames=num_frames,
        holes=0,
        corrupt_frames=0,
    )


TINY = (
    "model.backbone=vit_tiny_patch16_224",
    "model.patch_size=8",
    "model.depth=2",
    "model.embed_dim=48",
    "model.num_heads=3",
    "model.drop_path_rate=0",
    "model.num_prototypes=64",
    "model.head_hidden_dim=64",
    "data.clip_length=3",
    "data.num_workers=0",
    "data.frame_crop_pixels=40",
    "data.global_crop_pixels=32",
    "data.local_crops=3",
    "data.local_crop_pixels=16",
    "optim.global_batch_size=4",
    "optim.lr_clips=null",
    "optim.lr=1e-3",
    "optim.epochs=4",
    "optim.steps=12",
    "optim.warmup_epochs=1",
    "checkpoint.every_steps=4",
)
"""Overrides of the preset `official` that make a step take some 20 ms and a checkpoint 1.6 MB."""
