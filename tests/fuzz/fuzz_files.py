"""Change small sets of files and read them as the commands do; a process of its own.

    python -m tests.fuzz.fuzz_files FOLDER RUNS SEED TARGET…

Prints a line of JSON for each fault that is found, and for each target the memory that its worst
mutant took. A mutant that ends the process, or takes too long, stays in FOLDER/TARGET.
"""

import contextlib
import faulthandler
import io
import json
import random
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.fuzz.mutation import mutate_file
from tests.fuzz.targets import Target, refused

MAX_SECONDS = 20
"""Of a processor, for one mutant in all its readers."""
_HANG_SECONDS = 300
"""By the clock, on a machine that is busy."""
_TABLES = {"targets": "LIGHT", "web_targets": "WEB", "torch_targets": "TORCH", "hub_targets": "HUB"}


def say(**found: Any) -> None:
    """Print one line of JSON."""
    sys.__stdout__.write(json.dumps(found) + "\n")  # type: ignore[union-attr]
    sys.__stdout__.flush()  # type: ignore[union-attr]


def peak_memory() -> int:
    """Return the most bytes that this process has had since the peak was reset."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def reset_peak() -> None:
    """Begin to measure the peak anew."""
    Path("/proc/self/clear_refs").write_text("5")


def read_all(target: Target, folder: Path) -> list[str]:
    """Run every reader; return the tracebacks of those that neither read nor refused."""
    found = []
    for step in target.steps(folder):
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                refused(step)
        except (Exception, SystemExit):
            found.append(traceback.format_exc())
    return found


def restore(folder: Path, intact: dict[Path, bytes]) -> None:
    """Put every file back, and remove what was added."""
    for path in folder.rglob("*"):
        if path.is_file() and path not in intact:
            path.unlink()
    for path, data in intact.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_bytes() != data:
            path.write_bytes(data)


def fuzz(name: str, target: Target, folder: Path, runs: int, seed: int) -> None:
    """Read so many mutants of a target's files, half of them vouched for by receipts."""
    folder.mkdir()
    target.make(folder)
    intact = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for problem in read_all(target, folder):
        say(target=name, run=-1, file="intact", problem=problem)
    restore(folder, intact)
    files = sorted({path for pattern in target.files for path in folder.glob(pattern)})
    rng = random.Random(f"{seed}/{name}")
    reset_peak()
    before = peak_memory()
    for run in range(runs):
        path = files[run % len(files)]
        path.write_bytes(mutate_file(path.name, intact[path], rng))
        if rng.random() < 0.5:
            target.resign(folder)
        (folder.parent / "now").write_text(f"{name} {seed} {run} {path}")
        faulthandler.dump_traceback_later(_HANG_SECONDS, exit=True)
        begun = time.process_time()
        problems = read_all(target, folder)
        faulthandler.cancel_dump_traceback_later()
        if (seconds := time.process_time() - begun) > MAX_SECONDS:
            problems.append(f"it took {seconds:.0f} s")
        for problem in problems:
            say(target=name, run=run, file=str(path.relative_to(folder)), problem=problem)
        restore(folder, intact)
    say(target=name, runs=runs, bytes=peak_memory() - before)


def find_target(name: str) -> Target:
    """Return a target; no more is imported for it than its own readers need."""
    for module, table in _TABLES.items():
        targets: dict[str, Target] = getattr(import_module(f"tests.fuzz.{module}"), table)
        if name in targets:
            return targets[name]
    raise SystemExit(f"no target {name}")


def main() -> None:
    """Fuzz the targets that are named."""
    folder, runs, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    for name in sys.argv[4:]:
        fuzz(name, find_target(name), folder / name, runs, seed)


if __name__ == "__main__":
    main()
