"""Single frames: an autoencoder, with plain `webdataset` and nothing of wtours.

    pip install webdataset
    python docs/examples/single_frames.py demo-data/shards/default

The shards are WebDataset tars, so any program that reads those can train on the frames.
"""

# ruff: noqa: T201
import itertools
import sys
from pathlib import Path

import simplejpeg
import torch
import torch.nn.functional as F
import webdataset
from torch import Tensor, nn

SIDE = 32


def to_tensor(jpeg: bytes) -> Tensor:
    """Return (3, SIDE, SIDE) float32, 0 to 1."""
    frame = torch.from_numpy(simplejpeg.decode_jpeg(jpeg, min_height=SIDE, min_width=SIDE))
    return F.adaptive_avg_pool2d(frame.movedim(-1, 0) / 255, SIDE)


def train(shards: Path, *, steps: int = 60) -> list[float]:
    """Return the loss of each step."""
    torch.manual_seed(0)
    urls = sorted(str(path) for path in shards.glob("*.tar"))
    frames = (
        webdataset.WebDataset(urls, shardshuffle=100, seed=0)
        .repeat()
        .shuffle(300)
        .to_tuple("jpg")
        .map_tuple(to_tensor)
        .batched(32)
    )
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 64), nn.ReLU(), nn.Linear(64, 3 * SIDE * SIDE)
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses = []
    for (batch,) in itertools.islice(frames, steps):
        loss = F.mse_loss(network(batch), batch.flatten(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    losses = train(Path(sys.argv[1]))
    print(f"loss {losses[0]:.4f} at first, {losses[-1]:.4f} after {len(losses)} steps")
