"""What every benchmark prints and writes: a table, and `benchmarks/out/NAME.json`."""

import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

OUT = Path(__file__).parent / "out"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured value; `holds` is None only with a reason."""

    name: str
    value: float | None
    """None: not measured, and `reason` says why."""
    unit: str
    """What the value is a ratio of, or its unit."""
    goal: str = ""
    holds: bool | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        if self.holds is None and not self.reason:
            raise ValueError(f"row {self.name!r}: say why it neither holds nor fails")


def publish_rows(name: str, rows: list[Row]) -> int:
    """Print the rows, write `benchmarks/out/NAME.json`; return 1 if a row fails, else 0."""
    table = Table(title=f"bench-{name} on {_machine()['cpu']}, {_machine()['cores']} cores")
    for column in ("what", "value", "unit", "goal", "holds"):
        table.add_column(column)
    for row in rows:
        verdict = row.reason if row.holds is None else ("yes" if row.holds else "NO")
        table.add_row(
            row.name, "-" if row.value is None else f"{row.value:.4g}", row.unit, row.goal, verdict
        )
    Console().print(table)
    OUT.mkdir(exist_ok=True)
    document = {"machine": _machine(), "rows": [asdict(row) for row in rows]}
    (OUT / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")
    return int(any(row.holds is False for row in rows))


def _machine() -> dict[str, str | int]:
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        pairs = (line.partition(":") for line in info.read_text().split("\n\n")[0].splitlines())
        facts = {key.strip(): value.strip() for key, _, value in pairs}
        cpu = facts.get("model name", cpu)
        if "cpu family" in facts:  # a virtual machine may hide the generation behind "AMD EPYC"
            cpu += f" (family {facts['cpu family']}, model {facts.get('model')})"
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
