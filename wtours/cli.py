"""The command line: parse, build values, one library call, print, exit code.

Exit codes: 0 everything asked for is done; 1 stopped by an error; 2 usage; 3 finished, with a list
of what failed; 130 and 143 for Ctrl-C and SIGTERM. Heavy modules are imported inside the commands,
so that `wtours --help` answers at once. The commands that need no torch are in `wtours.commands`;
those that do are here, since no other module may import `training`.
"""

import errno
import logging
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from wtours import console
from wtours.commands import acquire, measure, sharding
from wtours.commands.options import ROOT, AsJson, Root, named_or_folder
from wtours.errors import MissingPackageError, WtoursError
from wtours.layout import Layout

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
shards_app = typer.Typer(no_args_is_help=True, help="Look into a shard set.")
app.add_typer(shards_app, name="shards")
presets_app = typer.Typer(no_args_is_help=True, help="Compare the presets of training.")
app.add_typer(presets_app, name="presets")

for name, command in (
    ("list", acquire.list_videos),
    ("render", acquire.render),
    ("download", acquire.download),
    ("add", acquire.add),
    ("pin", acquire.pin),
    ("doctor", acquire.doctor),
    ("analyze", measure.analyze),
    ("report", measure.report),
    ("shard", sharding.shard),
    ("verify", sharding.verify),
):
    app.command(name)(command)
shards_app.command("info")(sharding.info_of_shards)
shards_app.command("sample")(sharding.sample_of_shards)


class Resume(StrEnum):
    """What `wtours pretrain` does with a run that has begun."""

    AUTO = "auto"
    NEVER = "never"
    FORCE = "force"


class ExportTarget(StrEnum):
    """What `wtours export` writes for."""

    TIMM = "timm"
    HF = "hf"
    OFFICIAL = "official"


@app.callback()
def _common(
    verbose: Annotated[bool, typer.Option("--verbose", help="Log what happens to stderr.")] = False,
) -> None:
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s", force=True)


@app.command()
def pretrain(
    shards: Annotated[str, typer.Argument(help="A shard set's name, or its folder.")] = "default",
    run: Annotated[
        str | None, typer.Option("--run", help="Name of the run.", show_default="the shard set's")
    ] = None,
    preset: Annotated[
        str,
        typer.Option(
            "--preset",
            "-p",
            help="official (the released code), paper, dino or demo (a CPU); see `wtours presets`.",
        ),
    ] = "official",
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="A YAML file over the preset.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", help="key=value over both, e.g. optim.steps=500; repeatable."),
    ] = None,
    resume: Annotated[
        Resume,
        typer.Option(
            help="auto: go on if the config is the same; never: refuse a run that has begun; "
            "force: go on with another config or other data."
        ),
    ] = Resume.AUTO,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the whole config as YAML and stop.")
    ] = False,
    root: Root = ROOT,
) -> None:
    """Pretrain a ViT with DORA on shards; run it again to go on from the last checkpoint.

    On several GPUs: torchrun --nproc-per-node 8 -m training.pretrain … (docs/training.md).
    Examples:

    wtours pretrain --preset demo

    wtours pretrain venice_30 --set optim.global_batch_size=32 --set optim.epochs=50
    """
    _require_torch("pretraining")
    from training.config import to_yaml
    from training.presets import resolve_config
    from training.pretrain import run_pretraining

    resolved = resolve_config(preset, config, overrides or [])
    if print_config:
        console.say(to_yaml(resolved))
        return
    layout = Layout(root)
    run_dir = layout.run_dir(run or Path(shards).name)
    with console.progress_bars("pretrain", "steps") as on_progress:
        result = run_pretraining(
            resolved,
            shards_dir=named_or_folder(shards, layout.shards_dir),
            run_dir=run_dir,
            resume=resume.value,
            on_progress=on_progress,
        )
    console.say(f"{run_dir}: {result.describe()}")


@presets_app.command("diff")
def diff_presets(
    one: Annotated[str, typer.Argument(help="A preset.")],
    other: Annotated[str, typer.Argument(help="The preset it is compared with.")] = "official",
    as_json: AsJson = False,
) -> None:
    """Print the fields in which two presets differ, with both values.

    Example: wtours presets diff paper official
    """
    from training.presets import differing_fields

    fields = differing_fields(one, other)
    if as_json:
        console.print_json({key: {one: ours, other: its} for key, (ours, its) in fields.items()})
        return
    console.print_table(
        f"{len(fields)} fields differ",
        ("field", one, other),
        [
            (key, *("null" if value is None else str(value) for value in pair))
            for key, pair in fields.items()
        ],
    )


@eval_app.command("knn")
def eval_knn(
    run: Annotated[str, typer.Argument(help="A run's name, its folder, or a checkpoint's.")],
    train: Annotated[
        str, typer.Option("--train", help="Class folders: DIR, TAR or TAR:prefix/inside.")
    ],
    val: Annotated[str, typer.Option("--val", help="The same, for the test images.")],
    random_baseline: Annotated[
        bool,
        typer.Option("--random-baseline", help="Also measure the same network untrained."),
    ] = False,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Weighted k-nearest-neighbour accuracy of the frozen teacher (k 10, 20, 100, 200).

    Example: wtours eval knn default --train images.tar:train --val images.tar:val
    """
    _require_torch("evaluation")
    from training.evaluate import evaluate_knn

    run_path = named_or_folder(run, Layout(root).run_dir)
    with console.progress_bars("eval", "steps") as on_progress:
        result = evaluate_knn(
            run_path, train, val, random_baseline=random_baseline, on_progress=on_progress
        )
    if as_json:
        console.print_json(result.content)
        return
    networks = {"teacher": result.scores, "random weights": result.random_scores or ()}
    console.print_table(
        f"k-NN top-1 accuracy, %, of {run_path}",
        ("network", *(f"k = {score.k}" for score in result.scores)),
        [
            (name, *(f"{score.top1_percent:.1f}" for score in scores))
            for name, scores in networks.items()
            if scores
        ],
    )
    for note in result.notes:
        console.say(note)
    console.say(str(result.path))


@app.command()
def visualize(
    run: Annotated[str, typer.Argument(help="A run's name, its folder, or a checkpoint's.")],
    video: Annotated[str, typer.Option("--video", "-v", help="The video to show.")],
    shards: Annotated[str, typer.Option("--shards", help="The shard set it is in.")] = "default",
    clips: Annotated[int, typer.Option("--clips", min=1, help="How many clips.")] = 4,
    root: Root = ROOT,
) -> None:
    """Draw the tracked objects' attention over a clip's frames (the paper's Figures 4 to 6).

    Example: wtours visualize default --video venice
    """
    _require_torch("visualizing")
    from training.visualize import visualize_clips

    layout = Layout(root)
    for path in visualize_clips(
        named_or_folder(run, layout.run_dir),
        named_or_folder(shards, layout.shards_dir),
        video,
        num_clips=clips,
    ):
        console.say(str(path))


@app.command()
def export(
    run: Annotated[str, typer.Argument(help="A run's name, its folder, or a checkpoint's.")],
    to: Annotated[
        ExportTarget,
        typer.Option(
            help="timm: a folder for timm.create_model; hf: for transformers; official: a .pth as "
            "the released code reads it."
        ),
    ] = ExportTarget.TIMM,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", show_default="in the run's folder exports")
    ] = None,
    root: Root = ROOT,
) -> None:
    """Write a run's teacher as a file that other programs load, and print how.

    Example: wtours export default --to timm
    """
    _require_torch("exporting")
    from training.export import export_run

    exported = export_run(named_or_folder(run, Layout(root).run_dir), to=to.value, out=out)
    console.say(f"{exported.path}\n{exported.how_to_load}")


@app.command("import")
def import_weights(
    file: Annotated[Path, typer.Argument(help="A .pth of DINO's or DORA's authors.")],
    run: Annotated[str, typer.Option("--run", help="Name of the run to make of it.")],
    root: Root = ROOT,
) -> None:
    """Make a run of released weights, for eval, visualize and export; runs no code of the file.

    Example: wtours import dino_deitsmall16_pretrain.pth --run dino
    """
    _require_torch("importing")
    from training.released import import_released

    console.say(str(import_released(file, Layout(root).run_dir(run))))


@app.command()
def demo(root: Root = Path("demo-data")) -> None:
    """Walk the whole road on two rendered walks: offline, on a CPU, in minutes.

    Prints each command as you would type it, and at the end what to look at.
    """
    from wtours.rendering import cuts_beside_drawn

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


def _require_torch(purpose: str) -> None:
    from importlib.util import find_spec

    for package in ("torch", "timm", "safetensors"):
        if find_spec(package) is None:
            raise MissingPackageError(package, "train", purpose)
