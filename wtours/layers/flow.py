"""Optical flow by torchvision's RAFT, from each frame to the one an interval later."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wtours.analyze.detectors.torch_base import best_device, inference, require_torch
from wtours.analyze.detectors.torchvision import download_weights, fill_model
from wtours.errors import ShardError, UsageError
from wtours.exporting.units import Unit
from wtours.layers.source import LayerSource, frame_pixels
from wtours.shards.clip_starts import clip_starts, nearest_rows
from wtours.shards.index import ShardIndex
from wtours.storage.hashing import sha256_bytes, sha256_file, unchanged

MIN_SIDE = 128
"""Of RAFT: its coarsest correlation needs 16 cells of 8 pixels."""
_MULTIPLE = 8
_BATCH = 4
"""Always, on every machine: another number may round differently."""
_US = 1_000_000


class FlowSource(LayerSource):
    """Optical flow of the pairs of frames that clips with this interval have.

    Args:
        index: The frames.
        interval_seconds: From a frame to the one that its flow leads to.
        short_side: Frames are scaled to it, in pixels, before RAFT sees them.
        weights: A state dict of torchvision's raft_small; None: its own, downloaded once.

    Raises:
        UsageError: the interval or the side makes no sense.
        ShardError: no frame of the set has another at this interval.
        MissingPackageError: torch or torchvision is not installed.
        AnalysisError: the weights are not there, or do not fit.
    """

    packages = ("torch", "torchvision")

    def __init__(
        self,
        index: ShardIndex,
        *,
        interval_seconds: float,
        short_side: int = 256,
        weights: Path | None = None,
    ) -> None:
        if not MIN_SIDE <= short_side <= 2048 or short_side % _MULTIPLE:
            raise UsageError(
                f"--short-side ({short_side}) must be a multiple of {_MULTIPLE} from {MIN_SIDE} to "
                f"2048"
            )
        require_torch("the layer flow", "torchvision")
        from torchvision.models.optical_flow import Raft_Small_Weights, raft_small

        self._index, self._short_side = index, short_side
        self._partner = later_rows(index, interval_seconds)
        self._shards = {shard.shard: shard.sha256 for shard in index.dataset.shards}
        path = weights or download_weights(Raft_Small_Weights.DEFAULT.url)
        self._model = raft_small()
        with unchanged(path):
            fill_model(self._model, path)
            weights_sha256 = sha256_file(path)
        self._model.eval().to(best_device())
        self.about = (
            f"optical flow to the frame {interval_seconds:g} s later: (2, h, w) float16, x to the "
            f"right and y downwards, in pixels of the h x w grid that lies over the whole frame "
            f"(short side {short_side})"
        )
        self.params = {
            "kind": "flow",
            "model": "torchvision raft_small",
            "weights_sha256": weights_sha256,
            "interval_seconds": interval_seconds,
            "short_side": short_side,
        }

    def inputs(self, unit: Unit) -> dict[str, str]:
        """Return the sha256 of the pairs, which an analysis changes, and of their shards."""
        rows = np.arange(unit.rows.start, unit.rows.stop)
        partners = self._partner[unit.rows.start : unit.rows.stop]
        later = {self._index.frame(row).shard for row in partners[partners >= 0].tolist()}
        frames = {f"frames {name}": self._shards[name] for name in sorted(later | {unit.name})}
        apart = np.where(partners >= 0, partners - rows, 0)  # the same after other videos
        return {**frames, "pairs": sha256_bytes(apart.tobytes())}

    def values(self, unit: Unit) -> Iterator[NDArray[np.float16] | None]:
        """Yield each frame's flow; None where it has no frame an interval later in its shot."""
        pairs = [(row, int(self._partner[row])) for row in unit.rows if self._partner[row] >= 0]
        flows = self._flows(pairs)
        for row in unit.rows:
            yield None if self._partner[row] < 0 else next(flows)

    def _flows(self, pairs: list[tuple[int, int]]) -> Iterator[NDArray[np.float16]]:
        import torch

        for first in range(0, len(pairs), _BATCH):
            batch = pairs[first : first + _BATCH]
            filled = batch + batch[-1:] * (_BATCH - len(batch))
            frames = {row: self._frame(row) for row in {row for pair in batch for row in pair}}
            one, other = (torch.cat([frames[pair[side]] for pair in filled]) for side in (0, 1))
            with inference():
                flow = self._model(one, other)[-1].half().cpu().numpy()
            yield from flow[: len(batch)]

    def _frame(self, row: int) -> Any:
        """Return a frame as (1, 3, h, w) float32, -1 to 1, on the model's device."""
        import torch
        from torch.nn.functional import interpolate

        pixels = frame_pixels(self._index, row)
        scale = self._short_side / min(pixels.shape[:2])
        size = [max(MIN_SIDE, round(n * scale / _MULTIPLE) * _MULTIPLE) for n in pixels.shape[:2]]
        image = torch.from_numpy(pixels).to(best_device()).permute(2, 0, 1)[None].float()
        scaled = interpolate(image, size, mode="bilinear", antialias=True)
        return scaled / 127.5 - 1


def later_rows(index: ShardIndex, interval_seconds: float) -> NDArray[np.int64]:
    """Return (N,) the row that each row's flow leads to, as clips have them, or -1.

    Raises:
        UsageError: the interval makes no sense.
        ShardError: no frame of the set has another at this interval.
    """
    if not 1e-6 <= interval_seconds < 1e6:
        raise UsageError(f"--interval ({interval_seconds:g}) must be above 0 seconds")
    interval_us = round(interval_seconds * _US)
    later = np.full(len(index), -1, np.int64)
    for video in index.videos:
        rows = slice(video.start, video.stop)
        pts_us = index.pts_us[rows]
        starts = clip_starts(
            pts_us,
            index.shot[rows],
            offsets_us=(0, interval_us),
            tolerance_us=video.tolerance_us,
        )
        if len(starts):
            nearest = nearest_rows(pts_us, pts_us[starts] + interval_us)
            later[video.start + starts] = video.start + nearest
    if not (later >= 0).any():
        raise ShardError(
            f"{index.directory} has no frames {interval_seconds:g} s apart in one shot: choose "
            f"--interval among the intervals of its clips"
        )
    return later
