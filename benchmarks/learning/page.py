"""The table in docs/explanation/learning.md and its figure, as bench_learning found them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.learning.data import CAMVID
from benchmarks.learning.runs import RANDOM

DOCS = Path(__file__).parents[2] / "docs" / "explanation"
PAGE, FIGURE = DOCS / "learning.md", DOCS / "learning.png"
_END = "<!-- bench-learning: end -->\n"

Seeds = Sequence[dict[str, Any]]
Cells = list[tuple[float, float | None] | None]
"""(mean, spread of the seeds or None) a method; None: not measured."""
_PROPAGATION = "label propagation on CamVid, J&F"
_COLUMNS: tuple[tuple[str, Callable[[dict[str, Any]], float | None]], ...] = (
    ("mIoU", lambda of: of["segment"]["linear"]["mean_iou_percent"]),
    ("mean accuracy", lambda of: of["segment"]["linear"]["mean_accuracy_percent"]),
    ("pixel accuracy", lambda of: of["segment"]["linear"]["pixel_accuracy_percent"]),
    ("mIoU with position", lambda of: of["segment"]["linear_with_position"]["mean_iou_percent"]),
    ("mIoU, dense k-NN", lambda of: of["segment"]["dense_knn"]["mean_iou_percent"]),
    ("CIFAR k-NN, k = 20", lambda of: of.get("cifar_knn", {}).get("20")),
    (_PROPAGATION, lambda of: of.get("vos_camvid")),
    ("label propagation on a walk, J&F", lambda of: of["vos_walk"]),
    ("mask to instance, IoU", lambda of: of["masks"]["instance_iou"]),
    ("mask overlap, IoU", lambda of: of["masks"]["overlap"]),
    ("effective rank of CLS", lambda of: of.get("training", {}).get("effective_rank")),
    ("local loss", lambda of: of.get("training", {}).get("loss_local")),
    ("teacher's mean entropy", lambda of: of.get("training", {}).get("teacher_mean_entropy")),
)


def write_table(measured: Mapping[str, Seeds], *, what: str, num_clips: int) -> None:
    """Put the table between the two marks of `what` in docs/explanation/learning.md."""
    before, begin, rest = PAGE.read_text().partition(_begin(what))
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"{PAGE} has no marks of a table for {what}")
    PAGE.write_text(before + begin + table(measured, what=what, num_clips=num_clips) + end + after)


def _begin(what: str) -> str:
    return f"<!-- bench-learning, {what}: begin -->\n"


def table(measured: Mapping[str, Seeds], *, what: str, num_clips: int) -> str:
    """Return a Markdown table: a line a measure, a column a method; mean and spread of seeds."""
    heads = [f"{label} ({len(seeds)})" for label, seeds in measured.items()]
    lines = [
        f"Pretrained on {what}, {num_clips:,} clips a run; in brackets the number of seeds.",
        "",
        f"| | {' | '.join(heads)} |",
        f"|---|{'---|' * len(heads)}",
    ]
    for name, value_of in _COLUMNS:
        cells = [_cell([value_of(of) for of in seeds]) for seeds in measured.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    alone = next(iter(measured.values()))[0]["segment"]["position_alone"]
    whole = next(iter(measured.values()))[0]["masks"]["whole_frame_iou"]
    lines += [
        "",
        f"The place of a patch alone: mIoU {alone['mean_iou_percent']:.2f}, pixel accuracy "
        f"{alone['pixel_accuracy_percent']:.1f}. A mask that hides nothing: IoU {whole:.3f} "
        f"with the best instance.",
    ]
    return "\n".join(lines) + "\n"


def write_figure() -> None:
    """Draw docs/explanation/learning.png from the table that stands in the page beside it.

    So figure and table cannot differ, and `python -m benchmarks.learning.page` draws it again
    without the runs.
    """
    from matplotlib.figure import Figure
    from matplotlib.patheffects import withStroke

    from wtours.report.style import LIGHT, drawing_style

    methods, rows = read_table(PAGE.read_text())
    all_panels = (
        ("Linear segmentation, mIoU", "mIoU", "higher is better; line: random weights"),
        ("Label propagation on CamVid, J&F", _PROPAGATION, "higher is better"),
        ("Overlap of two masks, IoU", "mask overlap, IoU", "0 apart, 1 the same"),
    )
    panels = [  # an earlier table has no label propagation
        (f"({letter}) {title}", rows[key], below)
        for letter, (title, key, below) in zip(
            "abc", (panel for panel in all_panels if panel[1] in rows), strict=False
        )
    ]
    halo = [withStroke(linewidth=3, foreground=LIGHT.paper)]  # the line does not cross a number
    with drawing_style():
        figure = Figure(figsize=(13, 0.36 * len(methods) + 1.3), dpi=110, layout="constrained")
        axes = figure.subplots(1, len(panels), sharey=True)
        for strip, (title, cells, below) in zip(axes, panels, strict=True):
            for row, cell in enumerate(cells):
                if cell is None:
                    strip.text(0.02, row, "-", transform=strip.get_yaxis_transform(), va="center")
                    continue
                color = LIGHT.color(row)
                strip.errorbar(cell[0], row, xerr=cell[1], fmt="o", color=color, capsize=4, ms=6)
                place: Any = {"xytext": (0, 7), "textcoords": "offset points", "ha": "center"}
                text = f"{cell[0]:.{2 if cell[0] > 1 else 3}f}"  # as in the table
                strip.annotate(text, (cell[0], row), path_effects=halo, **place)
            strip.set_title(title, loc="left", weight="bold", fontsize=10, pad=14)
            strip.set_xlabel(below)
            strip.grid(axis="x")
            strip.tick_params(length=0)
            strip.margins(x=0.12)
            if cells[0] is not None and methods[0].startswith(RANDOM.label):
                strip.axvline(cells[0][0], color=LIGHT.faint, linewidth=0.9, zorder=0)
        axes[0].set_yticks(range(len(methods)), methods)
        axes[0].set_ylim(len(methods) - 0.4, -0.7)
        figure.savefig(FIGURE, metadata={"Software": None})


def read_table(text: str, what: str = CAMVID) -> tuple[list[str], dict[str, Cells]]:
    """Return the methods and the rows of the table between the two marks of `what`."""
    _, _, rest = text.partition(_begin(what))
    inside, _, _ = rest.partition(_END)
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in inside.splitlines()
        if line.startswith("|")
    ]
    (_, *methods), _, *rows = lines
    return methods, {name: [_number(cell) for cell in cells] for name, *cells in rows}


def _number(cell: str) -> tuple[float, float | None] | None:
    if cell == "-":
        return None
    mean, _, spread = cell.partition(" ± ")
    return float(mean), float(spread) if spread else None


def _cell(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    digits = 3 if max(known) < 1.5 or 5 < min(known) < 7 else 2
    mean = f"{np.mean(known):.{digits}f}"
    return f"{mean} ± {np.std(known, ddof=1):.{digits}f}" if len(known) > 1 else mean


if __name__ == "__main__":
    write_figure()
