"""What of a plan is done, doing the next step of it, and the tables of what came out."""

import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO

from training.engine.checkpoint_files import MODEL, RANDOM, RECEIPT, step_dirs
from training.evaluation.measured import Measured, Value, collect
from training.evaluation.paper_tables import measured_cell, published_cell
from training.evaluation.published import PaperTable
from training.reproduce.plan import MEAN, Plan, Step
from wtours.storage.atomic import read_json, sweep
from wtours.storage.locks import lock
from wtours.storage.receipts import Receipt, read_receipt, write_receipt

CONTRADICTIONS = (
    "The paper prints DORA's linear probe on WT_Venice as 44.5 in Tables 2a, 2b, 7a and 7b, and "
    "as 45.4 in Table 5.",
    "The paper prints DINO's detection on ImageNet-1k as 39.9 / 35.1 in Table 3 and as 37.1 / "
    "32.1 in Table 8, which are Table 3's figures of DINO on WT_Venice; 39.9 / 35.1 are those of "
    "DORA* in Table 8.",
)
"""Where the paper's figures contradict each other; printed below the tables, never decided."""
State = Literal["done", "to do", "failed", "lacks"]


@dataclass(frozen=True)
class StepState:
    """A step and how far it is."""

    step: Step
    state: State
    why: str = ""
    """What it lacks, or how it failed."""


def command(step: Step) -> str:
    """Return the step's command as it is typed."""
    return shlex.join(("wtours", *step.words))


def states(plan: Plan) -> list[StepState]:
    """Return how far each step of a plan is; nothing is run."""
    found: list[StepState] = []
    trained: set[str] = set()
    for step in plan.steps():
        receipt = read_receipt(_receipt_path(plan, step))
        current = receipt is not None and receipt.params == _params(step)
        is_there = _is_there(plan, step) and (not step.evaluation or step.run in trained)
        if receipt is not None and current and receipt.status == "done" and is_there:
            found.append(StepState(step, "done"))
            trained.add(step.run)
        elif step.lacks or not step.words:
            found.append(StepState(step, "lacks", "; ".join(step.lacks)))
        elif receipt is not None and current and receipt.status != "done":
            found.append(StepState(step, "failed", receipt.error or ""))
        else:
            found.append(StepState(step, "to do"))
    return found


def in_a_process(words: Sequence[str], stdout: TextIO | None = None) -> int:
    """Run a command of wtours in a process of its own; return its exit code."""
    command_line = [sys.executable, "-P", "-m", "wtours", *words]
    return subprocess.run(command_line, check=False, stdout=stdout).returncode


def reproduce(
    plan: Plan,
    *,
    say: Callable[[str], None],
    run: Callable[[Sequence[str]], int] = in_a_process,
) -> list[StepState]:
    """Do what is missing of a plan, a step after the other; a step that fails stops what needs it.

    Each step is an ordinary command, which `say` is told first, and then `run`. The commands are
    resumable, and a step that is done is recorded: running a plan again resumes it.

    Raises:
        WtoursError: another process works on the plan.
    """
    ended: dict[str, StepState] = {}
    with lock(_folder(plan) / ".lock", what=f"the plan {plan.name}"):
        sweep(_folder(plan))
        for now in states(plan):
            step = now.step
            if now.state in ("done", "lacks"):
                ended[step.name] = now
                continue
            blocked = next((b for b in _needed(step, ended) if ended[b].state != "done"), None)
            if blocked is not None:
                ended[step.name] = StepState(step, "lacks", f"{blocked} is not done")
                continue
            say(f"$ {command(step)}")
            _forget_evaluations(plan, step)
            code = run(step.words)
            if code in (130, 143) or code < 0:  # stopped, not failed
                raise KeyboardInterrupt
            ended[step.name] = _record(plan, step, code)
    return list(ended.values())


def _needed(step: Step, ended: dict[str, StepState]) -> Iterable[str]:
    """Return the steps that have to be done before this one: preparations, then its run."""
    yield from (name for name, each in ended.items() if not each.step.run and step.run)
    if step.evaluation and step.run in ended:
        yield step.run


def _forget_evaluations(plan: Plan, step: Step) -> None:
    """Before a run is trained: what was measured of its earlier weights is to be measured anew."""
    for each in plan.steps() if step.run and not step.evaluation else ():
        if each.evaluation and each.run == step.run:
            _receipt_path(plan, each).unlink(missing_ok=True)


def _record(plan: Plan, step: Step, code: int) -> StepState:
    # 3 of a preparation: finished with a list of what failed, which the later steps will say.
    error = None if code == 0 else f"`{command(step)}` ended with code {code}"
    receipt = Receipt(
        stage="reproduce",
        key=step.name,
        params=_params(step),
        status="done" if error is None else "failed_transient",
        error=error,
    )
    write_receipt(_receipt_path(plan, step), receipt)
    return StepState(step, "done" if error is None else "failed", error or "")


def _params(step: Step) -> dict[str, Any]:
    return {"command": list(step.words)}


def _is_there(plan: Plan, step: Step) -> bool:
    """Return whether what a recorded step made has not been removed since."""
    if not step.run:
        return True
    run_dir = plan.root / "runs" / plan.run_name(step.run)
    if step.evaluation:
        return any(run_dir.glob(f"eval/{step.evaluation}-*.json"))
    return bool(_receipts(run_dir))


def _folder(plan: Plan) -> Path:
    return plan.root / "reproduce" / plan.name


def _receipt_path(plan: Plan, step: Step) -> Path:
    return _folder(plan) / f"{step.name.replace(': ', '.').replace(RANDOM, '-random')}.json"


def table_cells(plan: Plan, table: PaperTable, runs: Sequence[str]) -> list[tuple[str, ...]]:
    """Return a table's rows: labels, then for each column what is published and what is measured.

    A hole is "-"; a figure that does not compare with the paper's has a * behind it.
    """
    rows, above = [], list[list[Value | None]]()
    for run, (labels, figures) in zip(runs, table.rows, strict=True):
        if run == MEAN:
            cells = [measured_cell(_mean(column)) for column in zip(*above, strict=True)]
        else:
            values = measured_of(plan, run)
            found = [values.values.get(m) if values else None for m in table.measures]
            above.append(found)
            cells = [measured_cell(value) for value in found]
        published = map(published_cell, figures)
        pairs = [cell for pair in zip(published, cells, strict=True) for cell in pair]
        rows.append((*labels, *pairs))
    return rows


def measured_of(plan: Plan, network: str) -> Measured | None:
    """Return what was measured of a network of the plan, "RUN" or "RUN,random"."""
    if not network:
        return None
    run_dir = plan.root / "runs" / plan.run_name(network.removesuffix(RANDOM))
    if not run_dir.is_dir():
        return None
    is_random = network.endswith(RANDOM)
    found = collect([run_dir])
    rows = [row for row in found if row.name.endswith("random weights") == is_random]
    if len(rows) > 1:  # a run that was trained again: what is measured of it now
        receipts = _receipts(run_dir)
        files = read_json(receipts[0])["files"] if receipts else []
        newest = next((file["sha256"] for file in files if file["path"] == MODEL), None)
        rows = [each for each in rows if newest in each.weights]
    return rows[0] if rows else None


def _receipts(run_dir: Path) -> list[Path]:
    """Return the receipts of a run's checkpoints, newest first."""
    return [path / RECEIPT for path in step_dirs(run_dir) if (path / RECEIPT).is_file()]


def _mean(column: Sequence[Value | None]) -> Value | None:
    """Return the mean of the figures above it; None: one of them is not measured."""
    known = [value for value in column if value is not None]
    if len(known) < len(column) or not known:
        return None
    mean = sum(value.percent for value in known) / len(known)
    # It compares with the paper's mean as far as each of them does.
    return Value(mean, "", "; ".join(dict.fromkeys(value.note for value in known if value.note)))
