"""The commands, put together: parse, build values, one library call, print, exit code.

Heavy modules are imported inside the commands, so that `wtours --help` answers at once. The
commands are in `wtours.cli`, which alone may import `training`.
"""

import gc
import io
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from wtours import __version__
from wtours.cli import acquire, analyze, console, own, presets, runs, shard, status, train
from wtours.cli.command import Command, Group, Quiet, Verbose, as_command
from wtours.cli.evaluation import measure, reproduce
from wtours.cli.next_command import none_said
from wtours.cli.options import Root
from wtours.cli.sets import divide, inspect, layers, lockfile, prepare, transfer, verify
from wtours.errors import TrainingError, WtoursError
from wtours.storage.os_errors import explain_os_error
from wtours.text import docs_page
from wtours.workspace.layout import Layout

EXIT_CODES = (
    "Exit codes: 0 everything asked for is done; 1 stopped by an error; 2 wrong usage; "
    "3 finished, with a list of what failed; 130 and 143 stopped by Ctrl-C and SIGTERM."
)

app = typer.Typer(
    name="wtours",
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Long first-person videos, from a list of URLs to a trained encoder.\n\n"
    "The pipeline: [bold]download[/] → [bold]analyze[/] → [bold]report[/], and "
    "[bold]shard[/] → [bold]pretrain[/] → [bold]eval[/]. Without arguments a command takes the "
    "ten Walking Tours; it resumes where it was stopped and does only what is missing.",
    epilog=EXIT_CODES,
)


def _group(about: str) -> typer.Typer:
    return typer.Typer(cls=Group, no_args_is_help=True, help=about)


shards_app = _group("List, inspect, divide and export shard sets.")
layer_app = _group("Make and inspect side data of the frames.")
cluster_app = _group("Inspect a Ray cluster.")
presets_app = _group("Inspect the presets of training.")
eval_app = _group("Evaluate a trained encoder.")

DATA, SHARDS, TRAINING = "Data", "Shards", "Training"
EVALUATION, TOOLS = "Evaluation", "Tools"


# Without centered patches the masks of so short a run lie on each other (see learning.md).
_DEMO_SETTINGS = ("--set", "optim.steps=200", "--set", "tracking.patch_center=true")


def demo(root: Root = Path("demo-data")) -> None:
    """Run the whole pipeline on two rendered walks: offline, on a CPU, in minutes.

    Prints each command as you would type it, and at the end what to look at.

    Example: wtours demo
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
        ("pretrain", "--root", str(root), "--preset", "demo", *_DEMO_SETTINGS),
        ("eval", "knn", "default", "--root", str(root), "--random-baseline", *images),
        ("visualize", "default", "--root", str(root), "--video", "demo_day", "--clips", "2"),
        ("report", *common),
        ("runs", "--root", str(root)),
    ):
        console.say(f"\n$ wtours {' '.join(step)}")
        with none_said():  # it follows
            exit_code = app(step, standalone_mode=False)
        if exit_code:
            raise typer.Exit(exit_code)
    rows = cuts_beside_drawn(layout, ("demo_day", "demo_cuts"))
    console.print_table("Cuts", ("video", "drawn", "measured"), rows)
    console.say(
        "The objects above are the rendered ground truth, given as precomputed detections.\n"
        "The encoder has seen 800 clips: its masks tell the sky from the street and from much of "
        "what stands on it, but not one car from the next, and two of the three objects often "
        "share a region. That they separate at all so soon is due to tracking.patch_center=true, "
        "which is neither in the paper nor in the released code.\n\n"
        "Look at:\n"
        f"  {layout.reports_dir / 'report.html'}   the report, in a browser\n"
        f"  {layout.reports_dir / 'figure2.png'}   lightness, objects and cuts over time\n"
        f"  {run / 'figures'}   what the encoder tracks, frame by frame, as images and videos\n"
        f"  {layout.reports_dir / 'runs.html'}   the training, in a browser"
    )
    if any(drawn != measured for _, drawn, measured in rows):
        raise WtoursError("the measured cuts are not the cuts drawn; please report it")


COMMANDS: tuple[tuple[typer.Typer, str | None, str, Callable[..., None], str], ...] = (
    (app, DATA, "download", acquire.download, "reference/acquisition"),
    (app, DATA, "add", own.add, "tutorials/own_walk"),
    (app, DATA, "pin", own.pin, "howto/compare"),
    (app, DATA, "list", status.list_videos, "howto/resume"),
    (app, DATA, "analyze", analyze.analyze, "howto/detectors"),
    (app, DATA, "report", analyze.report, "reference/tables"),
    (app, DATA, "prepare", prepare.prepare, "howto/scaling"),
    (app, SHARDS, "shard", shard.shard, "reference/shards"),
    (app, SHARDS, "verify", verify.verify, "explanation/reliability"),
    (app, SHARDS, "copy", transfer.copy, "howto/object-stores"),
    (app, SHARDS, "push", transfer.push, "howto/upload"),
    (app, SHARDS, "pull", transfer.pull, "howto/upload"),
    (app, SHARDS, "lock", lockfile.lock, "howto/same_pixels"),
    (app, SHARDS, "sync", lockfile.sync, "howto/same_pixels"),
    (app, SHARDS, "attest", lockfile.attest, "howto/same_pixels"),
    (shards_app, None, "list", inspect.list_of_shards, "reference/shards"),
    (shards_app, None, "info", inspect.info_of_shards, "reference/shards"),
    (shards_app, None, "sample", inspect.sample_of_shards, "reference/shards"),
    (shards_app, None, "export", transfer.export_of_shards, "howto/other_layouts"),
    (shards_app, None, "card", transfer.card_of_shards, "howto/upload"),
    (shards_app, None, "split", divide.split, "howto/clip_settings"),
    (shards_app, None, "overlap", divide.overlap, "howto/clip_settings"),
    (shards_app, None, "missing", inspect.missing_of_shards, "howto/scaling"),
    (shards_app, None, "finalize", shard.finalize, "reference/shards"),
    (layer_app, None, "make", layers.make_of_layer, "howto/layers"),
    (layer_app, None, "list", layers.list_of_layers, "howto/layers"),
    (layer_app, None, "verify", layers.verify_of_layer, "howto/layers"),
    (layer_app, None, "drop", layers.drop_of_layer, "howto/layers"),
    (app, TRAINING, "pretrain", train.pretrain, "reference/training"),
    (app, TRAINING, "estimate", train.estimate, "howto/gpus"),
    (app, TRAINING, "replay", runs.replay, "reference/training"),
    (app, TRAINING, "rewind", runs.rewind, "howto/rewind"),
    (app, TRAINING, "export", runs.export, "howto/export"),
    (app, TRAINING, "import", runs.import_weights, "howto/export"),
    (presets_app, None, "list", presets.list_presets, "reference/presets"),
    (presets_app, None, "show", presets.show_preset, "reference/settings"),
    (presets_app, None, "diff", presets.diff_presets, "reference/presets"),
    (eval_app, None, "knn", measure.eval_knn, "reference/evaluation"),
    (eval_app, None, "linear", measure.eval_linear, "reference/evaluation"),
    (eval_app, None, "discover", measure.eval_discover, "reference/evaluation"),
    (eval_app, None, "segment", measure.eval_segment, "reference/evaluation"),
    (eval_app, None, "vos", measure.eval_vos, "reference/evaluation"),
    (eval_app, None, "table", reproduce.eval_table, "reference/evaluation"),
    (app, EVALUATION, "visualize", runs.visualize, "reference/evaluation"),
    (app, EVALUATION, "runs", runs.show_runs, "reference/evaluation"),
    (app, EVALUATION, "reproduce", reproduce.reproduce, "howto/reproduce"),
    (app, TOOLS, "doctor", status.doctor, "reference/acquisition"),
    (cluster_app, None, "doctor", status.cluster_doctor, "howto/scaling"),
    (app, TOOLS, "demo", demo, "tutorials/demo"),
    (app, TOOLS, "render", acquire.render, "tutorials/demo"),
)
"""What a command belongs to, its panel of the help, its name, and the page that says more of it."""

for owner, panel, name, command, page in COMMANDS:
    owner.command(
        name,
        cls=Command,
        rich_help_panel=panel,
        epilog=f"More: {docs_page(page)}",
    )(as_command(command))
app.add_typer(shards_app, name="shards", rich_help_panel=SHARDS)
app.add_typer(layer_app, name="layer", rich_help_panel=SHARDS)
app.add_typer(cluster_app, name="cluster", rich_help_panel=TOOLS)
app.add_typer(presets_app, name="presets", rich_help_panel=TRAINING)
app.add_typer(eval_app, name="eval", rich_help_panel=EVALUATION)


def _print_version(asked: bool) -> None:
    if asked:
        console.say(f"wtours {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    verbose: Verbose = False,
    quiet: Quiet = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    console.set_verbosity(verbose=verbose, quiet=quiet)


def _require_current_folder() -> None:
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise WtoursError("the current folder was removed; change to another one") from error


def main() -> NoReturn:
    """Run the command line; every error ends as one line on stderr and an exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # Before torch is loaded: OpenMP's threads wait for each other by spinning, which takes the core
    # from the very thread they wait for as soon as anything else runs on the machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # What a command imports stays: half a million objects with torch and timm. Python's default of
    # 700 looks through them for garbage so often that it is a tenth of the time of importing them.
    gc.set_threshold(10_000)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None where the shell has closed it
            stream.reconfigure(errors="replace")  # titles need more than a Latin-1 terminal has
    exit_code: str | int | None = 0
    try:
        _require_current_folder()
        app()
    except SystemExit as end:
        exit_code = end.code
    except WtoursError as error:
        console.fail(f"error: {error}", on_every_rank=isinstance(error, TrainingError))
        exit_code = error.exit_code
    except KeyboardInterrupt:
        exit_code = 130
    except OSError as error:
        explained = explain_os_error(error)
        if explained is None:  # a bug
            raise
        console.fail(f"error: {explained}")
        exit_code = 1
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:  # `| head` has read enough; Python would complain at its own flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(exit_code)
