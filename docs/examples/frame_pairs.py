"""Frame pairs 0.5 s apart: a small network learns to draw the second from the first.

    python docs/examples/frame_pairs.py demo-data/shards/default

Random access by the index (`ClipDataset`) under a PyTorch `DataLoader`. Any clip may come at any
time, the order is a permutation of all of them, and a run that stops at step s goes on there with
`first_step=s`, on any number of ranks and workers.
"""

# ruff: noqa: T201
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from wtours.shards import Clip, ClipBatches, ClipDataset, ClipSampler, ShardIndex

SIDE = 32


def collate(clips: list[Clip]) -> Tensor:
    """Decode on the worker; return (B, T, 3, SIDE, SIDE) float32, 0 to 1."""
    videos = []
    for clip in clips:
        # libjpeg decodes in 1/8 to 8/8 of the size: much cheaper than in full for small pictures.
        frames = [torch.from_numpy(frame) for frame in clip.decode(min_short_side=SIDE)]
        videos.append(F.adaptive_avg_pool2d(torch.stack(frames).movedim(-1, 1) / 255, SIDE))
    return torch.stack(videos)


def train(shards: Path, *, steps: int = 60, num_workers: int = 2) -> list[float]:
    """Return the loss of each step."""
    torch.manual_seed(0)
    dataset = ClipDataset(ShardIndex.open(shards), clip_length=2, frame_interval_seconds=0.5)
    sampler = ClipSampler(len(dataset), seed=0)
    loader: DataLoader[Clip] = DataLoader(
        dataset,  # type: ignore[arg-type]  # map-style, and free of torch
        batch_sampler=ClipBatches(sampler, global_batch_size=16, num_steps=steps),
        num_workers=num_workers,
        collate_fn=collate,
    )
    network = nn.Sequential(
        nn.Conv2d(3, 32, 5, padding=2), nn.ReLU(),
        nn.Conv2d(32, 32, 5, padding=2), nn.ReLU(),
        nn.Conv2d(32, 3, 5, padding=2),
    )  # fmt: skip
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses = []
    for pairs in loader:
        loss = F.mse_loss(network(pairs[:, 0]), pairs[:, 1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    losses = train(Path(sys.argv[1]))
    print(f"loss {losses[0]:.4f} at first, {losses[-1]:.4f} after {len(losses)} steps")
