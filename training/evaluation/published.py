"""What the paper reports in its tables: `published.toml`."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LINEAR, KNN = "LP", "k-NN"
JACCARD, CORLOC = "Jacc.", "CorLoc"
MIOU, MACC = "seg. mIoU", "seg. Acc_m"
BOX_MAP, MASK_MAP = "det. mAP", "inst. mIoU"
JF, J, F = "(J&F)_m", "J_m", "F_m"
AO, SR50, SR75 = "mAO", "SR_0.5", "SR_0.75"

Row = tuple[tuple[str, ...], tuple[float | None, ...]]


@dataclass(frozen=True)
class PaperTable:
    """One table of the paper."""

    number: str
    """As the paper counts, "2a"."""
    title: str
    labels: tuple[str, ...]
    """Names of the columns that say what a row is of."""
    measures: tuple[str, ...]
    """Names of the columns of figures, in percent."""
    rows: tuple[Row, ...]
    """Labels and figures; None: the paper has no figure."""


def _read_tables() -> tuple[PaperTable, ...]:
    content = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
    tables = []
    for table in content["table"]:
        count = len(table["labels"])
        rows = tuple(
            (tuple(row[:count]), tuple(None if cell == "-" else cell for cell in row[count:]))
            for row in table.pop("rows")
        )
        texts: dict[str, Any] = {key: tuple(table.pop(key)) for key in ("labels", "measures")}
        tables.append(PaperTable(**table, **texts, rows=rows))
    return tuple(tables)


TABLES = _read_tables()
