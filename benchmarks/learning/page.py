"""The table in docs/explanation/learning.md and its figure, as bench_learning found them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

DOCS = Path(__file__).parents[2] / "docs" / "explanation"
PAGE, FIGURE = DOCS / "learning.md", DOCS / "learning.png"
_BEGIN, _END = "<!-- bench-learning: begin -->\n", "<!-- bench-learning: end -->\n"

Seeds = Sequence[dict[str, Any]]
_COLUMNS: tuple[tuple[str, Callable[[dict[str, Any]], float | None]], ...] = (
    ("mIoU", lambda of: of["segment"]["linear"]["mean_iou_percent"]),
    ("mean accuracy", lambda of: of["segment"]["linear"]["mean_accuracy_percent"]),
    ("pixel accuracy", lambda of: of["segment"]["linear"]["pixel_accuracy_percent"]),
    ("mIoU with position", lambda of: of["segment"]["linear_with_position"]["mean_iou_percent"]),
    ("mIoU, dense k-NN", lambda of: of["segment"]["dense_knn"]["mean_iou_percent"]),
    ("mIoU, short side 96", lambda of: of["segment_small"]["linear"]["mean_iou_percent"]),
    (
        "pixel accuracy, short side 96",
        lambda of: of["segment_small"]["linear"]["pixel_accuracy_percent"],
    ),
    ("CIFAR k-NN, k = 20", lambda of: of.get("cifar_knn", {}).get("20")),
    ("mask to instance, IoU", lambda of: of["masks"]["instance_iou"]),
    ("mask overlap, IoU", lambda of: of["masks"]["overlap"]),
    ("local loss", lambda of: of.get("training", {}).get("loss_local")),
    ("teacher's mean entropy", lambda of: of.get("training", {}).get("teacher_mean_entropy")),
)


def write_table(measured: Mapping[str, Seeds], *, what: str, num_clips: int) -> None:
    """Put the table between its two marks in docs/explanation/learning.md."""
    text = PAGE.read_text()
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    PAGE.write_text(
        before + _BEGIN + table(measured, what=what, num_clips=num_clips) + _END + after
    )


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


def write_figure(
    measured: Mapping[str, Seeds], metrics: Mapping[str, Sequence[dict[str, Any]]]
) -> None:
    """Draw every seed's linear mIoU, and what the local crops learned in the runs of seed 0."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained", dpi=110)
    for row, seeds in enumerate(measured.values()):
        values = [of["segment"]["linear"]["mean_iou_percent"] for of in seeds]
        left.plot(values, [row] * len(values), "o", color="tab:blue", alpha=0.6)
        left.plot([np.mean(values)], [row], "|", color="black", markersize=22)
    left.set_yticks(range(len(measured)), list(measured))
    left.invert_yaxis()
    left.set_xlabel("linear segmentation, mIoU; a dot a seed, the bar their mean")
    for name, rows in metrics.items():
        learned = [row["teacher_mean_entropy"] - row["loss_local"] for row in rows]
        smooth = np.convolve(learned, np.ones(20) / 20, mode="valid")
        right.plot(np.arange(len(smooth)) + 20, smooth, label=f"{name.upper()}, seed 0")
    right.axhline(0, color="gray", linewidth=0.8)
    right.set_xlabel("step of 4 clips (mean of 20 steps)")
    right.set_ylabel("mean entropy - local loss, nats")
    right.legend()
    figure.savefig(FIGURE, metadata={"Software": None})
    plt.close(figure)


def _cell(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    digits = 3 if max(known) < 1.5 or 5 < min(known) < 7 else 2
    mean = f"{np.mean(known):.{digits}f}"
    return f"{mean} ± {np.std(known, ddof=1):.{digits}f}" if len(known) > 1 else mean
