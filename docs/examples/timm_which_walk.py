"""timm: a vision transformer learns which video of the set a frame is from.

    pip install timm
    python docs/examples/timm_which_walk.py demo-data/shards/default

Random access by the index (`ShardIndex`): a row is a frame, and `read_jpegs` fetches its bytes.
Model, augmentation, optimizer and schedule are timm's.
"""

# ruff: noqa: T201
import io
import random
import sys
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data import create_transform  # type: ignore[attr-defined]
from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]
from timm.scheduler import CosineLRScheduler  # type: ignore[attr-defined]
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from wtours.shards import ShardIndex

SIDE = 64


class Frames(Dataset[tuple[Tensor, int]]):
    """(3, SIDE, SIDE) float32, normalized, and the number of the video: one item for each frame."""

    def __init__(self, shards: Path) -> None:
        self.index = ShardIndex.open(shards)
        self.video_ids = [video.video_id for video in self.index.videos]
        self.transform = create_transform(SIDE, is_training=True, scale=(0.4, 1.0))

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.index)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        """Return a frame, decoded and augmented, and its label."""
        (jpeg,) = self.index.read_jpegs([row])
        image = Image.open(io.BytesIO(jpeg)).convert("RGB")
        return self.transform(image), self.video_ids.index(self.index.video_of(row).video_id)


def train(shards: Path, *, steps: int = 60, num_workers: int = 2) -> list[float]:
    """Return the loss of each step."""
    torch.manual_seed(0)
    random.seed(0)  # timm's augmentations draw from it
    frames = Frames(shards)
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=SIDE, depth=4, num_classes=len(frames.video_ids)
    )
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05)
    schedule = CosineLRScheduler(optimizer, t_initial=steps, warmup_t=5, warmup_lr_init=1e-5)
    loader = DataLoader(frames, batch_size=16, shuffle=True, num_workers=num_workers)
    losses: list[float] = []
    while len(losses) < steps:
        for images, labels in loader:
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            schedule.step(len(losses))
            if len(losses) == steps:
                break
    return losses


if __name__ == "__main__":
    losses = train(Path(sys.argv[1]))
    print(f"loss {losses[0]:.4f} at first, {losses[-1]:.4f} after {len(losses)} steps")
