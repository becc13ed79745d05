"""A training run for tests, small enough to make in a moment."""

from pathlib import Path

import torch

from training.config.presets import resolve_config
from training.config.train import TrainConfig
from training.data.source import DataIdentity
from training.distributed.world import World
from training.engine.checkpoint import save_checkpoint
from training.engine.setup import build_state

CPU = torch.device("cpu")
ONE_PROCESS = World(rank=0, world_size=1, local_rank=0, device=CPU)
STEP = 120


def tiny_config(*overrides: str) -> TrainConfig:
    """Return the preset `demo` with a ViT of 2 blocks and 3 heads on 32-pixel crops, patch 8."""
    small = [
        "model.depth=2",
        "model.embed_dim=48",
        "model.num_prototypes=16",
        "data.frame_crop_pixels=40",
        "data.global_crop_pixels=32",
        "data.local_crop_pixels=16",
    ]
    return resolve_config("demo", None, [*small, *overrides])


def make_run(run_dir: Path, config: TrainConfig, *, set_sha256: str | None = None) -> Path:
    """Write a run with a checkpoint of step 120; its teacher is not what it started from."""
    state = build_state(config, ONE_PROCESS)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in state.method.evaluated_network.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator), alpha=0.05)
    state.step = STEP
    data = DataIdentity("0" * 64, 1, set_sha256=set_sha256)
    save_checkpoint(run_dir, state, config=config, data=data, keep_last=1)
    return run_dir
