"""LightlyTrain: self-supervised pretraining on frames of the set, one a second.

    pip install lightly-train
    python docs/examples/lightly_train_frames.py demo-data/shards/default frames lightly

LightlyTrain reads folders of images. The shards hold JPEGs, so a folder of them is a copy of bytes:
nothing is decoded or encoded again.
"""

# ruff: noqa: T201
import sys
from pathlib import Path
from typing import Any

from wtours.shards import ShardIndex


def write_images(shards: Path, folder: Path, *, every_seconds: float = 1.0) -> int:
    """Write a frame of each `every_seconds` of each video as a JPEG; return how many."""
    index = ShardIndex.open(shards)
    written = 0
    for video in index.videos:
        (folder / video.video_id).mkdir(parents=True, exist_ok=True)
        next_us = 0.0
        for row in range(video.start, video.stop):
            pts_us = int(index.pts_us[row])
            if pts_us >= next_us:
                (jpeg,) = index.read_jpegs([row])
                (folder / video.video_id / f"{pts_us:012d}.jpg").write_bytes(jpeg)
                next_us, written = pts_us + every_seconds * 1e6, written + 1
    return written


def train(shards: Path, folder: Path, out: Path, **settings: Any) -> Path:
    """Pretrain on the frames; return the file with the trained backbone."""
    import lightly_train

    print(f"{write_images(shards, folder):,} images")
    defaults: dict[str, Any] = {"model": "timm/vit_tiny_patch16_224", "method": "dino"}
    lightly_train.pretrain(out=str(out), data=str(folder), **(defaults | settings))
    return out / "exported_models" / "exported_last.pt"


if __name__ == "__main__":
    print(train(*(Path(argument) for argument in sys.argv[1:4])))
