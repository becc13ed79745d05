"""64-frame ordered sequences: a recurrent network learns to foretell each next frame.

    python docs/examples/ordered_sequences.py demo-data/shards/default
    python docs/examples/ordered_sequences.py https://example.org/shards/default

A stream (`stream_clips`): each tar is read once, in order, from a disk, a web server or an object
store, no index needed. Clips follow each other in time, several videos taking turns; each worker of
the `DataLoader` reads shards of its own.
"""

# ruff: noqa: T201
import itertools
import sys
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from wtours.shards import StreamOrder, stream_clips

SIDE = 16


class Sequences(IterableDataset[Tensor]):
    """Sequences of (64, 3 * SIDE * SIDE) float32, 0 to 1, without end."""

    def __init__(self, source: str, frame_interval_seconds: float) -> None:
        self.source = source
        self.frame_interval_seconds = frame_interval_seconds

    def __iter__(self) -> Iterator[Tensor]:
        """Yield the sequences of this worker's part."""
        worker = get_worker_info()
        order = StreamOrder(
            passes=None,
            start_stride=10,
            part=worker.id if worker else 0,
            num_parts=worker.num_workers if worker else 1,
        )
        for clip in stream_clips(
            self.source,
            clip_length=64,
            frame_interval_seconds=self.frame_interval_seconds,
            order=order,
        ):
            frames = [torch.from_numpy(frame) for frame in clip.decode(min_short_side=SIDE)]
            pixels = torch.stack(frames).movedim(-1, 1) / 255
            yield F.adaptive_avg_pool2d(pixels, SIDE).flatten(1)


class Foreteller(nn.Module):
    """From the frames so far to the change that comes next."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.memory = nn.GRU(size, 128, batch_first=True)
        self.change = nn.Linear(128, size)

    def forward(self, frames: Tensor) -> Tensor:
        """Return (B, T, size), the foretold next frame of each of (B, T, size)."""
        foretold: Tensor = self.change(self.memory(frames)[0])
        return foretold


def train(
    source: str, *, steps: int = 15, num_workers: int = 2, frame_interval_seconds: float = 0.1
) -> list[float]:
    """Return the loss of each step."""
    torch.manual_seed(0)
    dataset = Sequences(source, frame_interval_seconds)
    loader = DataLoader(dataset, batch_size=4, num_workers=num_workers)
    network = Foreteller(3 * SIDE * SIDE)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses = []
    for sequences in itertools.islice(loader, steps):
        loss = F.mse_loss(network(sequences[:, :-1]), sequences[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    losses = train(sys.argv[1])
    print(f"loss {losses[0]:.4f} at first, {losses[-1]:.4f} after {len(losses)} steps")
