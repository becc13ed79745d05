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
from wtours.cli import (
    acquire,
    analyze,
    console,
    own,
    presets,
    runs,
    shard,
    status,
    train,
)
from wtours.cli.command import Command, Group, Quiet, Verbose, as_command
from wtours.cli.evaluation import classification, dense, reproduce, tables
from wtours.cli.next_command import none_said
from wtours.cli.options import Root
from wtours.cli.sets import (
    copy,
    divide,
    export,
    hub,
    inspect,
    layers,
    lockfile,
    missing,
    prepare,
    verify,
)
from wtours.cli.sets.places import with_scratch
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


COMMANDS: tuple[tuple[typer.Typer, str | None, str, Callable[..., None]], ...] = (
    (app, DATA, "download", acquire.download),
    (app, DATA, "add", own.add),
    (app, DATA, "pin", own.pin),
    (app, DATA, "list", status.list_videos),
    (app, DATA, "analyze", analyze.analyze),
    (app, DATA, "report", analyze.report),
    (app, DATA, "prepare", prepare.prepare),
    (app, SHARDS, "shard", shard.shard),
    (app, SHARDS, "verify", verify.verify),
    (app, SHARDS, "copy", copy.copy),
    (app, SHARDS, "push", hub.push),
    (app, SHARDS, "pull", hub.pull),
    (app, SHARDS, "lock", lockfile.lock),
    (app, SHARDS, "sync", lockfile.sync),
    (app, SHARDS, "attest", lockfile.attest),
    (shards_app, None, "list", inspect.list_of_shards),
    (shards_app, None, "info", inspect.info_of_shards),
    (shards_app, None, "sample", inspect.sample_of_shards),
    (shards_app, None, "export", export.export_of_shards),
    (shards_app, None, "card", hub.card_of_shards),
    (shards_app, None, "split", divide.split),
    (shards_app, None, "overlap", divide.overlap),
    (shards_app, None, "missing", missing.missing_of_shards),
    (shards_app, None, "finalize", shard.finalize),
    (layer_app, None, "make", layers.make_of_layer),
    (layer_app, None, "list", layers.list_of_layers),
    (layer_app, None, "verify", layers.verify_of_layer),
    (layer_app, None, "drop", layers.drop_of_layer),
    (app, TRAINING, "pretrain", train.pretrain),
    (app, TRAINING, "estimate", train.estimate),
    (app, TRAINING, "replay", runs.replay),
    (app, TRAINING, "rewind", runs.rewind),
    (app, TRAINING, "export", runs.export),
    (app, TRAINING, "import", runs.import_weights),
    (presets_app, None, "list", presets.list_presets),
    (presets_app, None, "show", presets.show_preset),
    (presets_app, None, "diff", presets.diff_presets),
    (eval_app, None, "knn", classification.eval_knn),
    (eval_app, None, "linear", classification.eval_linear),
    (eval_app, None, "discover", dense.eval_discover),
    (eval_app, None, "segment", dense.eval_segment),
    (eval_app, None, "vos", dense.eval_vos),
    (eval_app, None, "table", tables.eval_table),
    (app, EVALUATION, "visualize", runs.visualize),
    (app, EVALUATION, "runs", runs.show_runs),
    (app, EVALUATION, "reproduce", reproduce.reproduce),
    (app, TOOLS, "doctor", status.doctor),
    (cluster_app, None, "doctor", status.cluster_doctor),
    (app, TOOLS, "demo", demo),
    (app, TOOLS, "render", acquire.render),
)
"""Each command with what it belongs to, its panel of the help and its name."""

PAGES = {
    acquire.download: "reference/acquisition",
    own.add: "tutorials/own_walk",
    own.pin: "howto/compare",
    status.list_videos: "howto/resume",
    analyze.analyze: "howto/detectors",
    analyze.report: "reference/tables",
    prepare.prepare: "howto/scaling",
    shard.shard: "reference/shards",
    verify.verify: "explanation/reliability",
    copy.copy: "howto/object-stores",
    lockfile.lock: "howto/same_pixels",
    lockfile.sync: "howto/same_pixels",
    lockfile.attest: "howto/same_pixels",
    hub.push: "howto/upload",
    hub.pull: "howto/upload",
    hub.card_of_shards: "howto/upload",
    shard.finalize: "reference/shards",
    missing.missing_of_shards: "howto/scaling",
    inspect.list_of_shards: "reference/shards",
    inspect.info_of_shards: "reference/shards",
    inspect.sample_of_shards: "reference/shards",
    export.export_of_shards: "howto/other_layouts",
    divide.split: "howto/clip_settings",
    divide.overlap: "howto/clip_settings",
    layers.make_of_layer: "howto/layers",
    layers.list_of_layers: "howto/layers",
    layers.verify_of_layer: "howto/layers",
    layers.drop_of_layer: "howto/layers",
    train.pretrain: "reference/training",
    train.estimate: "howto/gpus",
    runs.replay: "reference/training",
    runs.rewind: "howto/rewind",
    runs.export: "howto/export",
    runs.import_weights: "howto/export",
    runs.visualize: "reference/evaluation",
    runs.show_runs: "reference/evaluation",
    presets.list_presets: "reference/presets",
    presets.show_preset: "reference/settings",
    presets.diff_presets: "reference/presets",
    classification.eval_knn: "reference/evaluation",
    classification.eval_linear: "reference/evaluation",
    dense.eval_discover: "reference/evaluation",
    dense.eval_segment: "reference/evaluation",
    dense.eval_vos: "reference/evaluation",
    tables.eval_table: "reference/evaluation",
    reproduce.reproduce: "howto/reproduce",
    status.cluster_doctor: "howto/scaling",
    status.doctor: "reference/acquisition",
    demo: "tutorials/demo",
    acquire.render: "tutorials/demo",
}
"""The page of the documentation that says more of a command."""

for owner, panel, name, command in COMMANDS:
    owner.command(
        name,
        cls=Command,
        rich_help_panel=panel,
        epilog=f"More: {docs_page(PAGES[command])}",
    )(as_command(with_scratch(command)))
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
