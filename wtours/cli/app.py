"""The command line: parse, build values, one library call, print, exit code.

Exit codes: 0 everything asked for is done; 1 stopped by an error; 2 usage; 3 finished, with a list
of what failed; 130 and 143 for Ctrl-C and SIGTERM. Heavy modules are imported inside the commands,
so that `wtours --help` answers at once. The commands are in `wtours.cli`, which alone may
import `training`.
"""

import errno
import io
import logging
import signal
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from wtours.cli import acquire, analyze, console, evaluate, shard, status, train
from wtours.cli.options import Root
from wtours.errors import WtoursError
from wtours.workspace.layout import Layout

app = typer.Typer(
    name="wtours",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Long first-person videos, from a list of URLs to a trained encoder.\n\n"
    "The road: [bold]download[/] → [bold]analyze[/] → [bold]report[/], and "
    "[bold]shard[/] → [bold]pretrain[/] → [bold]eval[/]. Every command works with no argument on "
    "the ten Walking Tours, goes on where it was stopped, and does only what is missing.",
)
eval_app = typer.Typer(no_args_is_help=True, help="Measure a trained encoder.")
app.add_typer(eval_app, name="eval")
shards_app = typer.Typer(no_args_is_help=True, help="Finalize a shard set, or look into it.")
app.add_typer(shards_app, name="shards")
presets_app = typer.Typer(no_args_is_help=True, help="Compare the presets of training.")
app.add_typer(presets_app, name="presets")

for name, command in (
    ("list", status.list_videos),
    ("render", acquire.render),
    ("download", acquire.download),
    ("add", acquire.add),
    ("pin", acquire.pin),
    ("doctor", status.doctor),
    ("analyze", analyze.analyze),
    ("report", analyze.report),
    ("shard", shard.shard),
    ("verify", shard.verify),
    ("pretrain", train.pretrain),
    ("visualize", train.visualize),
    ("export", train.export),
    ("import", train.import_weights),
):
    app.command(name)(command)
shards_app.command("finalize")(shard.finalize)
shards_app.command("info")(shard.info_of_shards)
shards_app.command("sample")(shard.sample_of_shards)
presets_app.command("diff")(train.diff_presets)
eval_app.command("knn")(evaluate.eval_knn)
eval_app.command("linear")(evaluate.eval_linear)
eval_app.command("discover")(evaluate.eval_discover)
eval_app.command("segment")(evaluate.eval_segment)
eval_app.command("vos")(evaluate.eval_vos)
eval_app.command("table")(evaluate.eval_table)


@app.callback()
def _common(
    verbose: Annotated[bool, typer.Option("--verbose", help="Log what happens to stderr.")] = False,
) -> None:
    level = logging.INFO if verbose else logging.WARNING
    handler = logging.StreamHandler()
    handler.setFormatter(console.PlainFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)


@app.command()
def demo(root: Root = Path("demo-data")) -> None:
    """Walk the whole road on two rendered walks: offline, on a CPU, in minutes.

    Prints each command as you would type it, and at the end what to look at.
    """
    from wtours.synthetic.demo import cuts_beside_drawn

    layout, common = Layout(root), ("--manifest", "demo", "--root", str(root))
    rendered, run = str(layout.rendered_dir), layout.run_dir("default")
    images = ("--train", f"{rendered}/crops/train", "--val", f"{rendered}/crops/val")
    for step in (
        ("render", *common),
        ("download", *common, "--from-dir", rendered),
        ("analyze", *common, "--detector", f"file:{rendered}/detections"),
        ("shard", *common, "--fps", "10", "--short-side", "240"),
        ("verify", "--root", str(root)),
        ("pretrain", "--root", str(root), "--preset", "demo", "--set", "optim.steps=100"),
        ("eval", "knn", "default", "--root", str(root), "--random-baseline", *images),
        ("visualize", "default", "--root", str(root), "--video", "demo_day", "--clips", "2"),
        ("report", *common),
    ):
        console.say(f"\n$ wtours {' '.join(step)}")
        exit_code = app(step, standalone_mode=False)
        if exit_code:
            raise typer.Exit(exit_code)
    rows = cuts_beside_drawn(layout, ("demo_day", "demo_cuts"))
    console.print_table("Cuts", ("video", "drawn", "measured"), rows)
    console.say(
        "The objects above are the rendered truth, given as detections made elsewhere.\n\n"
        "Look at:\n"
        f"  {layout.reports_dir / 'report.html'}   the report, in a browser\n"
        f"  {layout.reports_dir / 'figure2.png'}   lightness, objects and cuts over time\n"
        f"  {run / 'figures'}   what the encoder tracks, frame by frame\n"
        f"  {run / 'metrics.jsonl'}   the training, a line a step"
    )
    if any(drawn != measured for _, drawn, measured in rows):
        raise WtoursError("the cuts measured are not the cuts drawn; please report it")


def main() -> NoReturn:
    """Run the command line; every error ends as one line on stderr and an exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None where the shell has closed it
            stream.reconfigure(errors="replace")  # titles need more than a Latin-1 terminal has
    try:
        app()
    except WtoursError as error:
        console.warn(f"error: {error}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        console.warn(f"error: disk full ({error}); free some space and run the command again")
        sys.exit(1)
    sys.exit(0)
