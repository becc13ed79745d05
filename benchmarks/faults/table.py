"""The table of docs/explanation/reliability.md: each fault, by wtours and by its peers.

python -m benchmarks.faults.table [WORD ...]   (only the faults whose name has one of the words)
"""

import importlib.metadata
import os
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.faults.cases import FAULTS
from benchmarks.faults.systems import REPOSITORY, VIDEO2DATASET, System, systems
from benchmarks.faults.trial import Bodies, Fault, Trial
from wtours.storage.atomic import write_bytes

DOCUMENT = REPOSITORY / "docs" / "explanation" / "reliability.md"
BEGIN, END = "<!-- fault table: begin -->", "<!-- fault table: end -->"


def main(words: list[str]) -> int:
    """Run every fault on every system; return 1 if one of ours fails, else 0."""
    # In the background a shell ignores Ctrl-C, and the systems would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    faults = [f for f in FAULTS if not words or any(word in f.injected for word in words)]
    tried = systems()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(len(tried)) as pool:
        bodies = Bodies(Path(folder))
        columns = list(pool.map(lambda system: _column(system, faults, bodies), tried))
    lines = [
        "| fault | right is | " + " | ".join(system.name for system in tried) + " |",
        "| --- | --- |" + " --- |" * len(tried),
    ]
    for index, fault in enumerate(faults):
        cells = " | ".join(column[index] for column in columns)
        lines.append(f"| {fault.injected} | {fault.right} | {cells} |")
    lines += ["", _versions()]
    table = "\n".join(lines)
    print(table)
    if not words:
        text = DOCUMENT.read_text(encoding="utf-8")
        before, after = text.split(BEGIN)[0], text.split(END)[1]
        write_bytes(DOCUMENT, f"{before}{BEGIN}\n{table}\n{END}{after}".encode())
    return int(any(cell.startswith("FAIL") for cell in columns[0]))


def _column(system: System, faults: list[Fault], bodies: Bodies) -> list[str]:
    return [_cell(system, fault, bodies, number) for number, fault in enumerate(faults)]


def _cell(system: System, fault: Fault, bodies: Bodies, number: int) -> str:
    if fault.needs_site and not system.knows_site:
        return "not run: cannot be given the stand-in site"
    if fault.needs_root and os.geteuid() != 0:
        return "not run: needs root"
    folder = bodies.folder / f"{system.name.split()[0].replace('-', '')}_{number}"
    trial = Trial(system, folder, bodies)
    fault.run(trial)
    left = trial.left or trial.look()
    verdict = f"FAIL ({'; '.join(dict.fromkeys(trial.problems))})" if trial.problems else "pass"
    print(f"{system.name}: {fault.injected}: {verdict}", file=sys.stderr)
    return f"{verdict}: exit {', '.join(trial.exits)}; {left}"


def _versions() -> str:
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("wtours", "yt-dlp")]
    program = os.environ.get(VIDEO2DATASET)
    if program is None:
        versions.append(f"video2dataset not run (give its program in {VIDEO2DATASET})")
    else:
        call = "import importlib.metadata as m; print(m.version('video2dataset'))"
        python = Path(program).with_name("python")
        versions.append("video2dataset " + subprocess.check_output([python, "-c", call], text=True))
    return "Versions: " + ", ".join(version.strip() for version in versions) + "."


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
