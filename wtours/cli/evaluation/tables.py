"""The command that prints what was measured beside what was published: eval table."""

import shlex
from typing import Annotated

import typer

from wtours.cli import console
from wtours.cli.command import offer_runs
from wtours.cli.options import (
    FINISHED_WITH_FAILURES,
    ROOT,
    AsJson,
    Root,
    at_root,
    existing_run,
    require_training,
)
from wtours.workspace.layout import Layout


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

    measured = collect(existing_run(run, Layout(root).run_dir) for run in runs)
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
