"""The commands that print what was measured beside the paper's tables: eval table, reproduce."""

import shlex
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from wtours.cli import console
from wtours.cli.command import offer_runs
from wtours.cli.next_command import none_said
from wtours.cli.options import (
    FINISHED_WITH_FAILURES,
    ROOT,
    AsJson,
    Root,
    at_root,
    existing_run,
    require_training,
)
from wtours.errors import UsageError
from wtours.text import bytes_text, counted

if TYPE_CHECKING:
    from training.reproduce.cost import Cost
    from training.reproduce.plan import Plan
    from training.reproduce.progress import StepState

PlanName = Literal["paper", "tiny"]
"""What `wtours reproduce` runs."""


def eval_table(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN", autocompletion=offer_runs, help="Runs, or their folders."),
    ],
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """The paper's Tables 2, 3, 4, 5, 7 and 8, with what was measured of runs beside its figures.

    Tables of which nothing was measured are left out.

    Example: wtours eval table default walk30 --markdown > tables.md
    """
    require_training("evaluation", packages=["yaml"])
    from training.evaluation import paper_tables as tables
    from training.evaluation.measured import collect

    measured = collect(existing_run(run, root) for run in runs)
    if as_json:
        console.print_json(tables.as_json(measured))
    if not tables.measured_tables(measured):
        of_run = shlex.join(("wtours", "eval", "knn", runs[0], *at_root(root)))
        evaluation = f"{of_run} --train … --val …"
        console.warn(f"error: nothing is measured of {', '.join(runs)}: run `{evaluation}` first")
        raise typer.Exit(FINISHED_WITH_FAILURES)
    if as_json:
        return
    if markdown:
        console.say(tables.as_markdown(measured))
        return
    for table in tables.measured_tables(measured):
        console.print_table(
            f"Table {table.number}: {table.title}",
            (*table.labels, *table.measures),
            tables.table_rows(table, measured),
        )
    for note in tables.footnotes(measured):
        console.say(note)


def _folder(what: str) -> Any:
    return typer.Option(help=what, metavar="DIR", show_default=False)


def reproduce(
    tables: Annotated[
        list[str] | None,
        typer.Option(
            "--table",
            "-t",
            metavar="TABLE",
            help="2a, 2b, 2c, 3, 4, 5, 7a, 7b or 8; repeatable. Default: all.",
        ),
    ] = None,
    plan: Annotated[
        PlanName,
        typer.Option(
            help="paper: the 39 runs as published; tiny: the same rows on rendered walks, "
            "a test of the machinery in minutes."
        ),
    ] = "paper",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print runs, steps, GPU hours, disk; run nothing.")
    ] = False,
    array: Annotated[
        bool,
        typer.Option(
            "--array", help="Print the missing commands, a line for each task of a Slurm array."
        ),
    ] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Print the tables, measured beside published.")
    ] = False,
    tflops: Annotated[
        float,
        typer.Option(
            min=0.001,
            metavar="TFLOPS",
            help="Effective TFLOP/s of your GPU, for --dry-run; 40: an A100.",
        ),
    ] = 40.0,
    imagenet: Annotated[
        Path | None, _folder("ImageNet-1k: train and val, a folder a class.")
    ] = None,
    voc: Annotated[Path | None, _folder("Pascal VOC 2012.")] = None,
    davis: Annotated[Path | None, _folder("DAVIS 2017.")] = None,
    ade20k: Annotated[Path | None, _folder("ADE20k scene parsing.")] = None,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Reproduce the paper's Tables 2 to 5, 7 and 8: pretrain, evaluate, print.

    Runs what is missing, a command after the other, and prints each as you would type it; run it
    again to go on. What lacks its data is listed, and the rest is done.
    Examples:

    wtours reproduce --dry-run

    wtours reproduce --table 7b --imagenet /data/imagenet --voc /data/VOC2012

    wtours reproduce --plan tiny --root tiny-data
    """
    require_training("reproducing the tables")
    from training.reproduce.plan import load_plan
    from training.reproduce.progress import command, in_a_process, states
    from training.reproduce.progress import reproduce as run_plan

    folders = {"imagenet": imagenet, "voc": voc, "davis": davis, "ade20k": ade20k}
    given = {option: folder for option, folder in folders.items() if folder is not None}
    for option, folder in given.items():
        if not folder.is_dir():
            raise UsageError(f"--{option} {folder} is no folder")
    chosen = load_plan(plan, root=root, tables=tables or (), folders=given)
    if report:
        _print_tables(chosen, as_json=as_json)
    elif array:
        missing = [command(s.step) for s in states(chosen) if s.state in ("to do", "failed")]
        if as_json:
            console.print_json(missing)
            return
        for line in missing:
            console.say(line)
    elif dry_run:
        _print_plan(chosen, states(chosen), tflops, as_json=as_json)
    else:
        # Of JSON nothing else may be on stdout: the commands, and what they print, go to stderr.
        with none_said():  # it follows
            ended = run_plan(
                chosen,
                say=console.warn if as_json else console.say,
                run=partial(in_a_process, stdout=sys.stderr if as_json else None),
            )
        _print_tables(chosen, as_json=as_json)
        _finish(ended, as_json=as_json)


def _print_plan(plan: "Plan", steps: "list[StepState]", tflops: float, *, as_json: bool) -> None:
    from training.reproduce.cost import run_cost
    from training.reproduce.progress import command

    costs: dict[str, Cost] = {
        name: run_cost(plan.config(run), clips=plan.file.data[run.data].clips, tflops=tflops)
        for name, run in plan.runs.items()
    }
    if as_json:
        console.print_json(
            [
                {"step": each.step.name, "state": each.state, "why": each.why or None}
                | {"command": command(each.step) if each.step.words else None}
                | _cost_json(plan, each, costs)
                for each in steps
            ]
        )
        return
    state_of = {each.step.name: each for each in steps}
    rows = [
        (
            name,
            plan.file.runs[name].data,
            f"{cost.steps:,}",
            f"{cost.gpu_hours:,.1f}",
            bytes_text(cost.disk_bytes),
            state_of[name].state,
        )
        for name, cost in costs.items()
    ]
    console.print_table(
        plan.file.title, ("run", "data", "steps", "GPU hours", "disk", "state"), rows
    )
    hours = sum(cost.gpu_hours for cost in costs.values())
    disk = sum(cost.disk_bytes for cost in costs.values())
    evaluations = [each for each in steps if each.step.evaluation]
    of_evaluations = sum(plan.file.evaluations[e.step.evaluation].hours for e in evaluations)
    console.say(
        f"{counted(len(costs), 'run')}: {_work_text(hours)} of a GPU at {tflops:g} effective "
        f"TFLOP/s (an assumption; `wtours estimate` measures), {bytes_text(disk)} of checkpoints; "
        f"{counted(len(evaluations), 'evaluation')}: about {_work_text(of_evaluations)} of an A100"
    )
    _print_lacking(steps)


def _cost_json(plan: "Plan", each: "StepState", costs: "dict[str, Cost]") -> dict[str, object]:
    if each.step.evaluation:
        return {"gpu_hours": plan.file.evaluations[each.step.evaluation].hours}
    cost = costs.get(each.step.name)
    if cost is None:
        return {}
    return {
        "data": plan.file.runs[each.step.name].data,
        "steps": cost.steps,
        "gpu_hours": cost.gpu_hours,
        "disk_bytes": cost.disk_bytes,
    }


def _work_text(hours: float) -> str:
    """Return an estimate of work as people say it: a tiny plan takes no hours."""
    if hours >= 2:
        return counted(round(hours), "hour")
    return counted(round(hours * 60), "minute") if hours * 60 >= 1 else "less than a minute"


def _print_lacking(steps: "list[StepState]") -> None:
    lacking = Counter(need for each in steps if each.state == "lacks" for need in each.step.lacks)
    if lacking:
        rows = [(need, str(count)) for need, count in lacking.items()]
        console.print_table("What is lacking", ("what provides it", "steps"), rows)


def _print_tables(plan: "Plan", *, as_json: bool) -> None:
    from training.evaluation.paper_tables import footnotes
    from training.reproduce.progress import CONTRADICTIONS, measured_of, table_cells

    content = []
    for table, runs in plan.rows:
        columns = [word for m in table.measures for word in (m, "measured")]
        rows = table_cells(plan, table, runs)
        if as_json:
            content.append(
                {"table": table.number, "columns": [*table.labels, *columns], "rows": rows}
            )
            continue
        console.print_table(f"Table {table.number}: {table.title}", (*table.labels, *columns), rows)
    if as_json:
        console.print_json(content)
        return
    if plan.name != "paper":
        console.say(plan.file.title)
    measured = filter(None, (measured_of(plan, network) for network in plan.columns))
    for line in (*dict.fromkeys(footnotes(list(measured))), *CONTRADICTIONS):
        console.say(line)


def _finish(ended: "list[StepState]", *, as_json: bool) -> None:
    failed = [each for each in ended if each.state == "failed"]
    lacking = [each for each in ended if each.state == "lacks"]
    for each in failed:
        console.warn(f"error: {each.step.name}: {each.why}")
    if as_json:
        for each in lacking:
            console.warn(f"lacks: {each.step.name}: {each.why}")
    else:
        _print_lacking(ended)
    if failed or lacking:
        console.warn(
            f"{counted(len(failed), 'step')} failed, {len(lacking)} lack something: fix or provide "
            f"what is named above and rerun the command"
        )
        raise typer.Exit(FINISHED_WITH_FAILURES)
