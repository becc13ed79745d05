"""A step of `official` on a GPU: time, MFU, memory beside the estimate, and whether data keep up.

    python -m benchmarks.bench_gpu                  # minutes on one GPU, no internet
    python -m benchmarks.bench_gpu --device cpu     # the same rows of a tiny network

Each row is of real runs of `wtours pretrain` on rendered frames, by their metrics.jsonl.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.bench_train import train
from benchmarks.rows import OUT, Row, publish_rows
from tests.support.shard_set import TINY, write_shard_set

_FRAME = (512, 910)  # 16:9 at the shards' usual height
_STEPS = 8
_MFU, _WAIT, _MEMORY = 0.4, 0.02, 0.15
WAYS = {
    "float32 (TF32)": ("optim.precision=float32",),
    "bfloat16": ("optim.precision=bfloat16",),
    "bfloat16, compiled": ("optim.precision=bfloat16", "model.compile=true"),
}


def main() -> int:
    """Measure, print the table, write benchmarks/out/gpu.json."""
    parser = argparse.ArgumentParser(prog="benchmarks.bench_gpu", description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--clips", type=int, default=8, help="in a step")
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1))
    parser.add_argument("--peak-tflops", type=float, help="of a GPU that is not known, or a CPU")
    options = parser.parse_args()
    on_gpu = options.device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        parser.error("no CUDA device; --device cpu measures a tiny network on the CPU")
    if not on_gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    settings = [
        *(() if on_gpu else TINY),
        f"optim.global_batch_size={options.clips if on_gpu else 4}",
        f"data.num_workers={options.workers if on_gpu else 1}",
        f"watch.peak_tflops={options.peak_tflops or 'null'}",
    ]
    with tempfile.TemporaryDirectory() as folder:
        shards = write_shard_set(
            Path(folder) / "shards", num_frames=64 if on_gpu else 24, size=_FRAME
        )
        rows = [Row(name="device", value=None, unit=_device(on_gpu), reason="what was measured")]
        for number, (name, overrides) in enumerate(WAYS.items()):
            if "model.compile=true" in overrides and not on_gpu:
                continue  # minutes of g++ for a network of no interest
            some = [*settings, *overrides]
            lines = train(shards, Path(folder) / f"run-{number}", *some, steps=_STEPS)
            rows += _rows(name, lines, _estimate(shards, some), on_gpu=on_gpu)
    failed = publish_rows("gpu", rows)
    print(OUT / "gpu.json")
    return failed


def _device(on_gpu: bool) -> str:
    return torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.get_num_threads()} threads"


def _estimate(shards: Path, settings: list[str]) -> dict[str, Any]:
    words = [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, "-m", "wtours", "estimate", str(shards), "--json", *words]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _rows(
    name: str, lines: list[dict[str, Any]], estimated: dict[str, Any], *, on_gpu: bool
) -> list[Row]:
    """Return the rows of a way to train, of its steps after the second."""
    times = [line["time"] for line in lines]

    def median(field: str) -> float:
        return float(statistics.median(time[field] for time in times))

    def row(what: str, value: float | None, unit: str, goal: str, holds: bool | None) -> Row:
        reason = "" if on_gpu else "a tiny network on a CPU: no goal"
        if value is None:
            reason = "the peak of the device is not known: --peak-tflops"
        judged = holds if on_gpu and value is not None else None
        return Row(
            name=f"{name}: {what}", value=value, unit=unit, goal=goal, holds=judged, reason=reason
        )

    counted = estimated["state_bytes"] + estimated["activation_bytes"]
    peak = max(time["peak_memory_bytes"] for time in times) / counted
    mfu = median("mfu") if "mfu" in times[0] else None
    wait = median("data_wait_fraction")
    return [
        Row(
            name=f"{name}: a step",
            value=median("seconds"),
            unit=f"s ({median('clips_per_second'):.3g} clips/s, "
            f"{median('tflop_per_second'):.3g} TFLOP/s)",
            reason="see the MFU",
        ),
        row("MFU", mfu, "of the peak in bfloat16", f">= {_MFU}", mfu is not None and mfu >= _MFU),
        row(
            "peak memory",
            peak,
            "of what `wtours estimate` counts",
            f"within {_MEMORY:.0%}",
            abs(peak - 1) <= _MEMORY,
        ),
        row("waiting for data", wait, "of a step", f"<= {_WAIT}", wait <= _WAIT),
    ]


if __name__ == "__main__":
    sys.exit(main())
