"""Does a short pretraining teach anything? `make bench-learning`, at most 90 minutes on 2 cores.

Pretrains one small ViT with every method of the paper, and with DORA on centered patches, on
CamVid's drives (without them: on rendered walks), three seeds each, two processes of one thread at
a time, and measures each beside the random weights that it started from. Every run, every
checkpoint of it and every measurement is published, and a second call does only what is missing.
Writes the table in docs/explanation/learning.md and its figure.

The recipe is for short runs and not the paper's: see `benchmarks.learning.runs`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.learning.data import WALKS, BenchData, prepare
from benchmarks.learning.measures import means_of_last
from benchmarks.learning.page import table, write_figure, write_table
from benchmarks.learning.runs import (
    CENTERED,
    CLIPS,
    DINO,
    DORA,
    ENVIRONMENT,
    METHODS,
    RANDOM,
    VARIANTS,
    Method,
    runs_of,
    train_all,
)
from benchmarks.rows import Row, publish_rows

FOLDERS = {
    False: Path(tempfile.gettempdir()) / "wtours-bench" / "learning",
    True: Path(tempfile.gettempdir()) / "wtours-bench" / "learning-rendered",
}
_METRICS = ("loss_local", "teacher_mean_entropy", "teacher_entropy", "effective_rank")

Measured = dict[str, list[dict[str, Any]]]
"""By method: what `learning_measures` found, a seed each; trained ones also have `training`."""


def main() -> int:
    """Train, measure, print and write the rows, the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="one seed of each: a look, the docs stay as they are"
    )
    parser.add_argument(
        "--variants",
        nargs="+",
        default=[],
        choices=[method.name for method in VARIANTS],
        metavar="NAME",
        help=f"of DORA, as well: {', '.join(method.name for method in VARIANTS)}; the table is "
        "printed only",
    )
    parser.add_argument(
        "--rendered", action="store_true", help="DINO and DORA on walks of moving objects"
    )
    parser.add_argument(
        "--clips", type=int, default=CLIPS, help="of a run; another, another folder"
    )
    parser.add_argument("--folder", type=Path, help="where everything is kept")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    options = parser.parse_args()
    methods = [*METHODS, *(method for method in VARIANTS if method.name in options.variants)]
    if options.rendered:
        methods = [RANDOM, DINO, DORA, CENTERED]
    if options.quick:
        methods = [replace(method, seeds=method.seeds[:1]) for method in methods]
    start = time.monotonic()
    folder = options.folder or FOLDERS[options.rendered]
    data = prepare(folder, rendered=options.rendered)
    runs = runs_of(methods, folder / "runs", num_clips=options.clips)
    for run in train_all(runs, data.shards, jobs=options.jobs):
        print(f"{(time.monotonic() - start) / 60:5.1f} min  trained {run.run_dir.name}", flush=True)
    measured = measure_all(methods, data, folder, options.jobs)
    print(f"{(time.monotonic() - start) / 60:5.1f} min  all measured", flush=True)
    print(table(measured, what=data.what, num_clips=options.clips))
    if not options.quick and not options.variants:  # one seed is no result
        write_table(measured, what=data.what, num_clips=options.clips)
        write_figure()
    return publish_rows("learning", learning_rows(measured))


def measure_all(methods: Sequence[Method], data: BenchData, folder: Path, jobs: int) -> Measured:
    """Return what is measured of every method and seed; what is published is not measured again."""
    wanted = [(method, seed) for method in methods for seed in method.seeds]
    with ThreadPoolExecutor(jobs) as pool:
        found = list(pool.map(lambda item: _measure(item[0], item[1], data, folder), wanted))
    measured: Measured = {}
    for (method, _), content in zip(wanted, found, strict=True):
        measured.setdefault(method.label, []).append(content)
    return measured


def _measure(method: Method, seed: int, data: BenchData, folder: Path) -> dict[str, Any]:
    """Return one backbone's measures, from a process of its own."""
    trained = folder / "runs" / f"{method.name}-{seed}"
    name = str(trained)
    if method.overrides is None:  # the weights that the run of this seed started from
        name = f"{folder / 'runs' / f'{DORA.name}-{seed}'},random"
    out = folder / "measures" / f"{method.name}-{seed}.json"
    if not out.exists():
        words = [sys.executable, "-m", "benchmarks.learning.measures", name, str(folder), str(out)]
        words += ["--rendered"] if data.what == WALKS else []
        subprocess.run(words, check=True, env=os.environ | ENVIRONMENT, stdout=subprocess.DEVNULL)
    content: dict[str, Any] = json.loads(out.read_text())
    if method.overrides is not None:
        content["training"] = means_of_last(_metrics(trained), _METRICS)
    return content


def _metrics(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def learning_rows(measured: Measured) -> list[Row]:
    """Return the rows with a goal, on means of seeds, and for each method what it reached."""
    dora, dino, random = measured[DORA.label], measured[DINO.label], measured[RANDOM.label]
    iou, accuracy = "mean_iou_percent", "pixel_accuracy_percent"
    learned = float(
        np.mean(
            [of["training"]["teacher_mean_entropy"] - of["training"]["loss_local"] for of in dora]
        )
    )
    rows = [
        _at_least(
            "DORA over random weights, linear", linear(dora, iou) - linear(random, iou), 2, "mIoU"
        ),
        _at_least(
            "DORA over random weights, linear",
            linear(dora, accuracy) - linear(random, accuracy),
            3,
            "points of pixel accuracy",
        ),
        _at_least("DORA: teacher's mean entropy over the local loss", learned, 0.1, "nat"),
        _at_least("DORA over DINO, linear", linear(dora, iou) - linear(dino, iou), -1, "mIoU"),
    ]
    for label, seeds in measured.items():
        for key, unit in ((iou, "mIoU"), (accuracy, "% of pixels")):
            reason = f"{len(seeds)} seeds" if len(seeds) > 1 else "one seed"
            rows.append(
                Row(name=f"{label}, linear", value=linear(seeds, key), unit=unit, reason=reason)
            )
    return rows


def linear(seeds: Sequence[dict[str, Any]], key: str) -> float:
    """Return the mean over seeds of a score of the linear head."""
    return float(np.mean([of["segment"]["linear"][key] for of in seeds]))


def _at_least(name: str, value: float, goal: float, unit: str) -> Row:
    return Row(name=name, value=value, unit=unit, goal=f">= {goal:g}", holds=value >= goal)


if __name__ == "__main__":
    sys.exit(main())
