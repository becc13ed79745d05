"""The page of runs: loss, entropy, spread, mask overlap and k-NN over steps, side by side.

One HTML file like the report of videos; `wtours runs` writes it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from wtours.errors import UsageError
from wtours.report.page import color_key, render
from wtours.report.runs.data import RunData, load_run
from wtours.report.thumbnails import reduced_webp, spread
from wtours.storage.atomic import sweep, write_bytes
from wtours.storage.locks import lock
from wtours.text import plain, seconds_text
from wtours.workspace.layout import Layout

MEASURES = {
    "loss": "Loss",
    "teacher_mean_entropy": "Entropy of the teacher's mean output, nats",
    "teacher_entropy": "Entropy of the teacher's outputs, nats",
    "embedding_spread": "Spread of the embeddings",
    "effective_rank": "Effective rank of the embeddings",
    "mask_overlap": "Mask overlap, IoU: 0 apart, 1 the same",
    "knn_top1_percent": "k-NN while training, top-1 %",
    "lr": "Learning rate",
}
"""The charts that stand open, in this order; what else a run has stands below them."""
_MORE = {
    "clips_per_second": "Clips per second",
    "data_wait_fraction": "Waiting for data, share of a step",
    "gradient_norm": "Norm of the gradient",
    "loss_local": "Loss of local crops",
    "loss_masked": "Loss of masked frames",
    "mask_coverage": "Mask coverage, share of the patches",
    "mfu": "MFU, share of what the device could do",
    "momentum": "Momentum of the teacher",
    "peak_memory_bytes": "Peak memory, GB",
    "seconds": "Seconds per step",
    "teacher_temp": "Temperature of the teacher",
    "tflop_per_second": "TFLOP/s of one process",
}
"""Titles of those; of others, their names."""
_SCALES = {"peak_memory_bytes": 1e-9}
_CELLS = {
    "loss": ("loss", 3),
    "mask_overlap": ("mask overlap", 2),
    "knn_top1_percent": ("k-NN, %", 1),
}
"""Of the summary: metrics, their headings and their decimals. One that no run has is left out."""
_SET_DIGITS = 8
_MAX_STRIPS = 6


@dataclass(frozen=True, slots=True)
class RunsReport:
    """What was published."""

    page: Path
    runs: tuple[RunData, ...]
    problems: dict[str, str]
    """What could not be read, by run."""

    def summary(self) -> list[tuple[str, ...]]:
        """Return the headings and a row a run: name, method, steps, measures, set hash."""
        shown = _shown_cells(self.runs)
        rows = map(_summary, self.runs, range(len(self.runs)))
        return [
            ("run", "method", "steps", *(_CELLS[name][0] for name in shown), "shard set"),
            *(
                (
                    *(row["name"], row["method"], f"{row['steps']:,}"),
                    *(row["cells"][name]["text"] for name in shown),
                    row["set_digits"],
                )
                for row in rows
            ),
        ]

    def as_dicts(self) -> list[dict[str, Any]]:
        """Return the same as numbers, null where nothing was measured."""
        return [
            {
                "run": row["name"],
                "folder": str(run.folder),
                "method": row["method"],
                "steps": row["steps"],
                "set_sha256": run.set_sha256,
                "resumed_from": list(run.resumed_from),
                **{name: cell["value"] for name, cell in row["cells"].items()},
            }
            for run in self.runs
            for row in [_summary(run, 0)]
        ]


def build_runs_page(
    layout: Layout,
    folders: Sequence[Path],
    *,
    tables: Sequence[dict[str, Any]] = (),
    notes: Sequence[str] = (),
) -> RunsReport:
    """Publish <root>/reports/runs.html of these runs.

    Tables ("title", "columns", "rows") are those of the paper's that `wtours reproduce` measured;
    notes stand below them.

    Raises:
        UsageError: no runs, or a folder that is none.
    """
    if not folders:
        raise UsageError("there are no runs yet; `wtours pretrain` makes one")
    names = _names(folders)
    runs = [load_run(folder, name=name) for folder, name in zip(folders, names, strict=True)]
    page = layout.reports_dir / "runs.html"
    problems = {run.name: list(run.problems) for run in runs}
    with lock(layout.lock("report"), what="the report"):
        sweep(layout.reports_dir)
        strips = {run.name: _strips(run, problems[run.name]) for run in runs}
        html = _render(runs, strips, problems, tables, notes)
        write_bytes(page, html.encode())
    said = {name: "; ".join(lines) for name, lines in problems.items() if lines}
    return RunsReport(page, tuple(runs), said)


def _names(folders: Sequence[Path]) -> list[str]:
    """Return a name for each folder: its own, with its parents' where two would be the same."""
    names = [folder.name or str(folder) for folder in folders]
    return [
        name if names.count(name) == 1 else str(folder)
        for name, folder in zip(names, folders, strict=True)
    ]


def _render(
    runs: Sequence[RunData],
    strips: dict[str, list[dict[str, Any]]],
    problems: dict[str, list[str]],
    tables: Sequence[dict[str, Any]],
    notes: Sequence[str],
) -> str:
    found = dict.fromkeys(name for run in runs for name in run.metrics)
    main = [name for name in MEASURES if name in found]
    more = [name for name in found if name not in MEASURES]
    return render(
        "runs",
        runs=[
            _summary(run, number) | {"strips": strips[run.name], "problems": problems[run.name]}
            for number, run in enumerate(runs)
        ],
        charts=[(name, MEASURES[name]) for name in main],
        more_charts=[
            (name, plain(_MORE.get(name) or name.replace("_", " ").capitalize())) for name in more
        ],
        columns=[(name, _CELLS[name][0].capitalize()) for name in _shown_cells(runs)],
        has_resumed=any(run.resumed_from for run in runs),
        differing=_differing(runs),
        evaluations=[
            (plain(run.name), plain(e.evaluation), plain(e.checkpoint), plain(e.measure), e.value)
            for run in runs
            for e in run.evaluations
        ],
        tables=tables,
        notes=notes,
        data={
            "runs": [
                {
                    "name": plain(run.name),
                    "color": color_key(number),
                    "resumed": run.resumed_from,
                    "metrics": {
                        name: [
                            line.steps.round(1).tolist(),
                            [
                                float(f"{value * _SCALES.get(name, 1):.5g}")
                                for value in line.values.tolist()
                            ],
                        ]
                        for name, line in run.metrics.items()
                    },
                }
                for number, run in enumerate(runs)
            ],
            "steps": max(run.steps for run in runs),
        },
    )


def _summary(run: RunData, number: int) -> dict[str, Any]:
    cells = {}
    for name, (_, digits) in _CELLS.items():
        line = run.metrics.get(name)
        value = None
        if line is not None:
            value = line.last if name == "knn_top1_percent" else line.recent
        cells[name] = {
            "value": value,
            "text": "not measured" if value is None else f"{value:.{digits}f}",
        }
    seconds = run.metrics.get("seconds")
    length = None if seconds is None else seconds.mean * run.steps
    return {
        "name": plain(run.name),
        "color": color_key(number),
        "method": plain(run.config.get("method", "unknown")),
        "steps": run.steps,
        "set_sha256": plain(run.set_sha256 or ""),
        "set_digits": plain((run.set_sha256 or "")[:_SET_DIGITS]) or "not known",
        "planned": run.config.get("optim.steps"),
        "cells": cells,
        "seconds": length,
        "time": "" if length is None else seconds_text(length),
        "resumed": ", ".join(f"{step:,}" for step in run.resumed_from),
    }


def _shown_cells(runs: Sequence[RunData]) -> list[str]:
    return [name for name in _CELLS if any(name in run.metrics for run in runs)]


def _differing(runs: Sequence[RunData]) -> list[tuple[str, list[str]]]:
    """Return the settings in which the runs differ: (name, a value a run)."""
    known = [run.config for run in runs]
    keys = dict.fromkeys(key for config in known for key in config)
    rows = []
    for key in keys:
        values = [plain(config.get(key, "-")) for config in known]
        if len(set(values)) > 1:
            rows.append((plain(key), values))
    return rows


def _strips(run: RunData, problems: list[str]) -> list[dict[str, Any]]:
    """Return the attention figures to show, reduced; one that cannot be read is a problem."""
    strips = []
    for path in spread(run.figures, _MAX_STRIPS):
        try:
            with Image.open(path) as image:
                picture = image.convert("RGB")
        except (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError):
            problems.append(f"figures/{path.name} cannot be read; left out")
            continue
        step = re.match(r"step-0*(\d+)-(.*)", path.stem)
        caption = f"step {int(step[1]):,}, {step[2]}" if step else path.stem
        strips.append({**reduced_webp(picture), "caption": plain(caption)})
    return strips
