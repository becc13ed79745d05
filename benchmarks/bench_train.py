"""A step of the paper's configuration: written plainly, and as the trainer does it.

On one thread, as every rank of `torchrun` has, and on two. Each way runs in a process of its own,
in turn with the others, twice; the fastest step counts. The rate of the machine's matrix products
is measured between the rounds.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.rows import Row, publish_rows
from benchmarks.train.step import StepCost, measure
from tests.support.shard_set import write_shard_set
from training.engine.metrics import read_metrics

WAYS: dict[str, tuple[str, ...]] = {
    "plain": ("plain", "float32"),
    "float32": ("official", "float32"),
    "bfloat16": ("official", "bfloat16"),
}
DROPPED: dict[str, tuple[str, ...]] = {
    "float32, dropped": ("fast", "float32"),
    "bfloat16, dropped": ("fast", "bfloat16"),
}
"""`dropped`: the student does not compute the patches that its masks hide."""
METHODS = ("dino", "simclr", "swav", "vicreg", "ibot", "attmask")
_THREADS = (1, 2)
_FLOAT32 = ("torch's float32", "oneDNN's float32")
_SHARE_OF_DORA = 0.85
"""Of DORA's share of the CPU's rate: what each other method should reach at least."""
_DROPPED = 1.3
"""How much faster a step without the hidden patches should be, at least."""
_RATE_SECONDS = 2.0
_PAPER_CLIPS = 6
_FRAME = (512, 910)  # 16:9 at the shards' usual height


def main() -> int:
    """Measure everything and print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.bench_train", description=__doc__)
    parser.add_argument("--clips", type=int, default=1, help="clips in a step")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    rows: list[Row] = []
    for threads in _THREADS:
        best, rates = fastest(
            WAYS if threads < _THREADS[-1] else WAYS | DROPPED,
            threads,
            options.rounds,
            options.clips,
        )
        of = f"{threads} thread{'s' if threads > 1 else ''}"
        measured = [*rate_rows(rates), *step_rows(best), *share_rows(best, rates)]
        rows += [replace(row, name=f"{of}: {row.name}") for row in measured]
    rows += dropped_rows(best)
    one_more = measure("official", "bfloat16", threads=threads, clips=options.clips + 1, steps=1)
    rows += memory_rows(best, one_more)
    methods = {
        name: measure(name, "float32", threads=threads, clips=options.clips) for name in METHODS
    }
    rows += method_rows(methods, best["float32"], rates["oneDNN's float32"])
    with tempfile.TemporaryDirectory() as folder:
        shards = write_shard_set(Path(folder) / "shards", num_frames=24, size=_FRAME)
        rows.append(wait_row(shards, Path(folder) / "waiting"))
        rows.append(two_processes_row(shards, Path(folder)))
    return publish_rows("train", rows)


def fastest(
    ways: dict[str, tuple[str, ...]], threads: int, rounds: int, clips: int
) -> tuple[dict[str, StepCost], dict[str, float]]:
    """Return each way's fastest step, and the fastest matrix products beside them."""
    torch.set_num_threads(threads)
    rates, costs = [], []
    for _ in range(rounds):
        rates.append({name: rate(product) for name, product in products().items()})
        costs.append(
            {name: measure(*way, threads=threads, clips=clips) for name, way in ways.items()}
        )
    best = {
        name: min((measured[name] for measured in costs), key=lambda cost: cost.seconds)
        for name in ways
    }
    return best, {name: max(measured[name] for measured in rates) for name in rates[0]}


def products() -> dict[str, Callable[[], Tensor]]:
    """Return products of 2048 x 2048 matrices, by the name of how they are computed."""
    one, other = torch.randn(2, 2048, 2048)
    image = one[None, None].permute(0, 3, 1, 2)  # of one row; its product is a 1 x 1 convolution
    half, other_half = one.bfloat16(), other.bfloat16()
    return {
        _FLOAT32[0]: lambda: one @ other,
        _FLOAT32[1]: lambda: torch.mkldnn_convolution(
            image, other[:, :, None, None], None, (0, 0), (1, 1), (1, 1), 1
        ),
        "bfloat16": lambda: half @ other_half,
    }


def rate(product: Callable[[], Tensor]) -> float:
    """Return the operations a second of a product, 1e9, the fastest of many."""
    fastest, end = float("inf"), time.perf_counter() + _RATE_SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        product()
        fastest = min(fastest, time.perf_counter() - start)
    return 2 * 2048**3 / fastest / 1e9


def has_half_precision() -> bool:
    """Return whether the CPU multiplies matrices of bfloat16 in hardware."""
    cpu = Path("/proc/cpuinfo")
    flags = cpu.read_text().split() if cpu.exists() else []
    return "avx512_bf16" in flags or "amx_bf16" in flags


def rate_rows(rates: dict[str, float]) -> list[Row]:
    """Return what the machine's matrix products reach."""
    return [
        Row(
            name=f"matrix products, {name}",
            value=value,
            unit="GFLOP/s",
            reason="for reading the rows below",
        )
        for name, value in rates.items()
    ]


def step_rows(costs: dict[str, StepCost]) -> list[Row]:
    """Return the times and the peak memories of a step, plain against ours."""
    rows = [
        Row(
            name=f"a step, {name}",
            value=cost.seconds,
            unit=f"s ({cost.peak_gib:.2f} GiB above the imported libraries)",
            reason="see the ratios",
        )
        for name, cost in costs.items()
    ]
    plain = costs["plain"]
    for name, faster, stretch, smaller in (
        ("float32", 2.1, 2.7, 0.45),
        ("bfloat16", 3.8, 4.9, 0.4),
    ):
        ours = costs[name]
        needs_hardware = name == "bfloat16" and not has_half_precision()
        speed = plain.seconds / ours.seconds
        rows.append(
            Row(
                name=f"speed, {name}",
                value=speed,
                unit="x the plain step",
                goal=f">= {faster} (stretch {stretch})",
                holds=None if needs_hardware else speed >= faster,
                reason="this CPU has no bfloat16 products" if needs_hardware else "",
            )
        )
        memory = ours.peak_gib / plain.peak_gib
        rows.append(
            Row(
                name=f"peak memory, {name}",
                value=memory,
                unit="of the plain step's",
                goal=f"<= {smaller}",
                holds=memory <= smaller,
            )
        )
    return rows


def dropped_rows(costs: dict[str, StepCost]) -> list[Row]:
    """Return what it saves that the student does not compute hidden patches."""

    def row(name: str) -> Row:
        usual, ours = costs[name], costs[f"{name}, dropped"]
        speed, memory = usual.seconds / ours.seconds, ours.peak_gib / usual.peak_gib
        return Row(
            name=f"hidden patches dropped, {name}: {ours.visible_share:.0%} are left, "
            f"{memory:.2f} of the memory",
            value=speed,
            unit="x the step that computes them",
            goal=f">= {_DROPPED}",
            holds=speed >= _DROPPED,
        )

    return [row("float32"), row("bfloat16")]


def share_rows(costs: dict[str, StepCost], rates: dict[str, float]) -> list[Row]:
    """Return how much of the rate of matrix products each way reaches."""
    # torch counts no fused attention on a CPU; in bfloat16 ours is written out.
    tflop = {"plain": costs["plain"].tflop} | dict.fromkeys(
        ("float32", "bfloat16"), costs["bfloat16"].tflop
    )

    def row(name: str, product: str, goal: float | None = None) -> Row:
        share = tflop[name] * 1e3 / costs[name].seconds / rates[product]
        return Row(
            name=f"{name}: {tflop[name]:.2f} TFLOP a step",
            value=share,
            unit=f"of the rate of {product}",
            goal="" if goal is None else f">= {goal}",
            holds=None if goal is None else share >= goal,
            reason="" if goal else "no goal",
        )

    return [
        row("plain", "torch's float32"),
        row("float32", max(_FLOAT32, key=lambda name: rates[name]), 0.8),
        row("bfloat16", "bfloat16", 0.68),
        *part_rows(costs, "float32"),
        *part_rows(costs, "bfloat16"),
    ]


def part_rows(costs: dict[str, StepCost], name: str) -> list[Row]:
    """Return the seconds of the parts of a step, and the rate that each reaches."""
    return [
        Row(
            name=f"{name}, of it {part}: {tflop * 1e3:,.0f} GFLOP, {tflop * 1e3 / seconds:,.0f} a "
            "second",
            value=seconds,
            unit="s",
            reason="part of a step",
        )
        for part, (seconds, tflop) in costs[name].parts.items()
    ]


def method_rows(costs: dict[str, StepCost], dora: StepCost, rate: float) -> list[Row]:
    """Return the cost of a step of each method, and its use of the CPU beside DORA's.

    In float32, whose fused attention torch does not count, of DORA as little as of the others.
    """

    def row(name: str, cost: StepCost) -> Row:
        share = cost.tflop * 1e3 / cost.seconds / rate
        of_dora = share / (dora.tflop * 1e3 / dora.seconds / rate)
        return Row(
            name=f"{name}, a step: {cost.seconds:.1f} s, {cost.tflop * 1e3:,.0f} GFLOP in matrix "
            f"products, {share:.2f} of the rate, {cost.peak_gib:.2f} GiB",
            value=of_dora,
            unit="x DORA's share of the rate",
            goal=f">= {_SHARE_OF_DORA}",
            holds=of_dora >= _SHARE_OF_DORA,
        )

    return [row(name, cost) for name, cost in costs.items()]


def memory_rows(costs: dict[str, StepCost], one_more: StepCost) -> list[Row]:
    """Return what the paper's clips a device would need, from this and one clip more."""
    each = one_more.peak_gib - costs["bfloat16"].peak_gib
    return [
        Row(
            name=f"{_PAPER_CLIPS} clips on a device, bfloat16, estimated",
            value=costs["bfloat16"].peak_gib + (_PAPER_CLIPS - 1) * each,
            unit=f"GiB ({each:.2f} a clip)",
            reason="no GPU here to measure on; from a clip more on this CPU",
        )
    ]


def wait_row(shards: Path, run_dir: Path) -> Row:
    """Return the share of a step that the trainer waits for two decoding workers."""
    lines = train(shards, run_dir, "data.num_workers=2", "optim.precision=bfloat16", steps=10)
    wait = statistics.median(line["time"]["data_wait_fraction"] for line in lines)
    return Row(
        name="waiting for data, 2 workers, bfloat16",
        value=wait * 100,
        unit="% of a step",
        goal="< 2",
        holds=wait < 0.02,
    )


def two_processes_row(shards: Path, folder: Path) -> Row:
    """Return the clips of two processes of one thread against one process of one thread."""
    rates = []
    for processes in (1, 2):
        lines = train(shards, folder / f"of-{processes}", processes=processes, steps=5)
        rates.append(statistics.median(line["time"]["clips_per_second"] for line in lines))
    return Row(
        name="two processes of a thread, float32",
        value=rates[1] / rates[0],
        unit="x the clips of one",
        goal=">= 1.8",
        holds=rates[1] >= 1.8 * rates[0],
    )


def train(
    shards: Path, run_dir: Path, *overrides: str, processes: int | None = None, steps: int
) -> list[dict[str, dict[str, float]]]:
    """Return the metrics of the steps after the second, a clip a process."""
    settings = [
        f"optim.steps={steps}",
        f"optim.global_batch_size={processes or 1}",
        "optim.epochs=1",
        "optim.warmup_epochs=0",
        *overrides,
    ]
    command = [sys.executable, "-m", "wtours", "pretrain"]
    if processes is not None:
        count = ["--standalone", "--no-python", "--nproc-per-node", str(processes), "--"]
        command = [sys.executable, "-m", "torch.distributed.run", *count, *command]
    words = [word for setting in settings for word in ("--set", setting)]
    subprocess.run(
        [*command, str(shards), "--run", str(run_dir), *words],
        check=True,
        capture_output=True,
        env={**os.environ, **({"OMP_NUM_THREADS": "1"} if processes else {})},
    )
    return read_metrics(run_dir / "metrics.jsonl")[2:]


if __name__ == "__main__":
    sys.exit(main())
