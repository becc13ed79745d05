"""How far LARS and AdamW move the weights of preset `paper` at its learning rate.

`python -m benchmarks.lars SHARDS [--steps 60] [--set key=value ...]` trains with each, without
warm-up, and prints for weight matrices and for vectors (biases, norms) the median relative change.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from training.config.presets import PRESETS, resolve_config
from training.distributed.world import World
from training.engine.checkpoint import load_network
from training.engine.setup import build_state
from training.pretrain import pretrain

ALONE = World(0, 1, 0, torch.device("cpu"))
SMALL = [
    f"{key}={value}"
    for key, value in PRESETS["demo"].items()
    if key.startswith(("model.", "data."))
]
LENGTH = ["optim.warmup_epochs=0", "optim.freeze_last_layer_epochs=0", "optim.min_lr=5e-4"]


def relative_changes(name: str, shards: Path, overrides: list[str]) -> tuple[float, float]:
    """Return the median of |change| / |weight| after a run, of matrices and of vectors."""
    config = resolve_config("paper", None, [*overrides, f"optim.name={name}"])
    before = build_state(config, ALONE).method.student.state_dict()
    with tempfile.TemporaryDirectory() as folder:
        report = pretrain(config, shards_dir=shards, run_dir=Path(folder) / "run", world=ALONE)
        after = load_network(report.checkpoint, "student")[1].state_dict()
    matrices: list[Tensor] = []
    vectors: list[Tensor] = []
    for key, weight in before.items():
        if weight.is_floating_point() and float(weight.norm()) > 0:
            change = (after[key] - weight).norm() / weight.norm()
            (matrices if weight.ndim > 1 else vectors).append(change)
    return _median(matrices), _median(vectors)


def _median(values: list[Tensor]) -> float:
    return float(torch.stack(values).median())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.lars")
    parser.add_argument("shards", type=Path)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--full-size", action="store_true", help="ViT-S/16, 65,536 prototypes")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    options = parser.parse_args()
    size = [] if options.full_size else [*SMALL, "data.global_crops=2"]
    for name in ("lars", "adamw"):
        overrides = [*size, *LENGTH, f"optim.steps={options.steps}", *options.overrides]
        matrices, vectors = relative_changes(name, options.shards, overrides)
        print(f"| {name} | {options.steps} | {matrices:.1e} | {vectors:.1e} |")


if __name__ == "__main__":
    main()
