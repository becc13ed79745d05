"""The commands that show runs: visualize, runs."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wtours.cli import console
from wtours.cli.options import ROOT, AsJson, Root, existing_run, finish, require_training
from wtours.cli.runs import ExistingRun
from wtours.cli.sets.places import shard_set
from wtours.workspace.layout import Layout

if TYPE_CHECKING:
    from wtours.report.runs.page import PaperTable


class Palette(StrEnum):
    """The colors of `wtours visualize`."""

    RGB = "rgb"
    COLORBLIND = "colorblind"


def visualize(
    run: ExistingRun,
    video: Annotated[str, typer.Option("--video", metavar="ID", help="The video to show.")],
    shards: Annotated[
        str,
        typer.Option("--shards", metavar="NAME|DIR", help="The shard set of the video."),
    ] = "default",
    clips: Annotated[int, typer.Option("--clips", min=1, metavar="N", help="Clips to draw.")] = 4,
    palette: Annotated[
        Palette,
        typer.Option(
            metavar="NAME",
            help="Colors of the objects: rgb (red, green and blue), or colorblind (for all eyes).",
        ),
    ] = Palette.RGB,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Draw the tracked objects' attention over a clip's frames (the paper's Figures 4 to 6).

    Writes an image and a video (MP4) for each clip.

    Example: wtours visualize default --video venice --palette colorblind
    """
    require_training("visualizing")
    layout = Layout(root)
    run_dir = existing_run(run, layout.run_dir)
    from training.visualization.clips import visualize_clips

    paths = visualize_clips(
        run_dir,
        shard_set(shards, root),
        video,
        num_clips=clips,
        palette=palette.value,
    )
    if as_json:
        console.print_json({"files": [str(path) for path in paths]})
        return
    for path in paths:
        console.say(str(path))


def show_runs(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN", help="Names or folders of runs.", show_default="all of the root"
        ),
    ] = None,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Write one HTML page of training runs side by side, and print their summary.

    Loss, entropy, spread, mask overlap and k-NN over steps, attention figures, evaluations, the
    settings that differ, and the tables of `wtours reproduce`. While a run trains, run it again.

    Example: wtours runs dora dino
    """
    from wtours.report.runs.page import build_runs_page

    layout = Layout(root)
    folders = [existing_run(name, layout.run_dir) for name in runs or ()]
    if not runs:
        folders = sorted(path.parent for path in (root / "runs").glob("*/config.yaml"))
    tables, notes = _reproduced_tables(root)
    report = build_runs_page(layout, folders, tables=tables, notes=notes)
    if as_json:
        console.print_json({"page": str(report.page), "runs": report.as_dicts()})
    else:
        columns, *rows = report.summary()
        console.print_table("Runs", columns, rows)
        console.say(str(report.page))
    finish(report.problems, "shown in part", "the rest of the page is whole; it shows what it can")


def _reproduced_tables(root: Path) -> "tuple[list[PaperTable], list[str]]":
    """Return the tables of the plans that were begun under this root, and their notes."""
    from wtours.report.runs.page import PaperTable

    tables, notes = [], dict[str, None]()
    for folder in sorted((root / "reproduce").glob("*/")):
        require_training("showing the tables of `wtours reproduce`")
        from training.reproduce.plan import load_plan
        from training.reproduce.progress import CONTRADICTIONS, table_cells

        plan = load_plan(folder.name, root=root, tables=(), folders={})
        for table, networks in plan.rows:
            columns = [word for m in table.measures for word in (m, "measured")]
            title = f"Table {table.number}: {table.title}"
            if plan.name != "paper":
                title += f" ({plan.file.title})"
            rows = table_cells(plan, table, networks)
            tables.append(PaperTable(title, (*table.labels, *columns), rows))
        notes |= dict.fromkeys(CONTRADICTIONS)
    return tables, list(notes)
