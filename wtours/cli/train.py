"""The commands around training: pretrain, presets, visualize, export, import."""

import dataclasses
import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wtours.cli import console
from wtours.cli.options import ROOT, AsJson, Root, named_or_folder, require_torch
from wtours.cli.training_progress import training_bar
from wtours.text import bytes_text
from wtours.workspace.layout import Layout

if TYPE_CHECKING:
    from training.config.train import TrainConfig


class Resume(StrEnum):
    """What `wtours pretrain` does with a run that has begun."""

    AUTO = "auto"
    NEVER = "never"
    FORCE = "force"


class Palette(StrEnum):
    """The colors of `wtours visualize`."""

    RGB = "rgb"
    COLOURBLIND = "colourblind"


class ExportTarget(StrEnum):
    """What `wtours export` writes for."""

    TIMM = "timm"
    HF = "hf"
    OFFICIAL = "official"
    DETECTRON2 = "detectron2"
    SEQTRACK = "seqtrack"


def pretrain(
    shards: Annotated[
        str,
        typer.Argument(
            help="A shard set's name or folder; for the preset images a folder or tar of them."
        ),
    ] = "default",
    run: Annotated[
        str | None, typer.Option("--run", help="Name of the run.", show_default="the shard set's")
    ] = None,
    preset: Annotated[
        str,
        typer.Option(
            "--preset",
            "-p",
            help="official (the released code), paper, dino, images or demo (a CPU); "
            "see `wtours presets`.",
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
    replay: Annotated[
        Path | None,
        typer.Option(
            "--replay", help="Compute the step of a run's nonfinite-step-N.json again, and stop."
        ),
    ] = None,
    estimate: Annotated[
        bool,
        typer.Option(
            "--estimate", help="Measure a few steps and say what the run will take; writes nothing."
        ),
    ] = False,
    processes: Annotated[
        int, typer.Option(min=1, help="For --estimate: the processes that share the batch.")
    ] = 1,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Pretrain a ViT with DORA on shards; run it again to go on from the last checkpoint.

    On several GPUs: torchrun --nproc-per-node 8 -m training.pretrain … (docs/training.md).
    Examples:

    wtours pretrain --preset demo

    wtours pretrain venice_30 --set optim.global_batch_size=32 --set optim.epochs=50

    wtours pretrain venice_30 --estimate --processes 8
    """
    require_torch("pretraining")
    from training.config.presets import resolve_config
    from training.config.train import to_yaml
    from training.pretrain import run_pretraining

    resolved = resolve_config(preset, config, overrides or [])
    if print_config:
        console.say(to_yaml(resolved))
        return
    layout = Layout(root)
    images = resolved.method == "dora_images"
    shards_dir = Path(shards) if images else named_or_folder(shards, layout.shards_dir)
    if replay is not None:
        _replay(replay, shards_dir)
        return
    if estimate:
        _estimate(resolved, shards_dir, processes, as_json=as_json)
        return
    run_dir = layout.run_dir(run or default_run_name(shards))
    with training_bar() as on_step:
        result = run_pretraining(
            resolved,
            shards_dir=shards_dir,
            run_dir=run_dir,
            resume=resume.value,
            on_step=on_step,
        )
    console.say(f"{run_dir}: {result.describe()}")


def default_run_name(shards: str) -> str:
    """Return the name of the shard set or tar, as far as a run's can have its characters."""
    name = Path(shards).absolute().name.removesuffix(".tar")
    return re.sub("[^A-Za-z0-9_-]+", "-", name).strip("-_")[:64]


def _estimate(config: "TrainConfig", shards_dir: Path, processes: int, *, as_json: bool) -> None:
    from training.distributed.launch import joined_world
    from training.estimate import estimate

    with joined_world() as world:
        found = estimate(config, shards_dir=shards_dir, world=world, processes=processes)
    if as_json:
        console.print_json(dataclasses.asdict(found) | {"notes": found.notes})
        return
    rows = (
        ("parameters of the student", f"{found.parameters / 1e6:.1f} M"),
        ("weights, gradients, moments", bytes_text(found.state_bytes)),
        (
            f"activations of {found.clips_per_process} clips",
            bytes_text(found.activation_bytes),
        ),
        ("peak memory as measured", bytes_text(found.measured_peak_bytes)),
        ("time of a step", f"{found.step_seconds:.2f} s"),
        ("decoding a clip, one worker", f"{found.decode_seconds_per_clip * 1000:.0f} ms"),
        ("workers that keep up", str(found.workers_needed)),
        ("read from the shards", f"{bytes_text(found.read_bytes_per_second)}/s"),
        ("clips", f"{found.clips_per_second:.3g}/s"),
        ("steps", f"{found.steps:,}"),
        ("whole schedule", f"{found.hours:,.1f} hours"),
    )
    console.print_table(f"Estimate for {found.processes} process(es)", ("", "each"), rows)
    for note in found.notes:
        console.say(note)


def _replay(listing: Path, shards_dir: Path) -> None:
    from training.distributed.launch import joined_world
    from training.nan_replay import replay

    with joined_world() as world:
        console.say(replay(listing, shards_dir, world).describe())


def diff_presets(
    one: Annotated[str, typer.Argument(help="A preset.")],
    other: Annotated[str, typer.Argument(help="The preset it is compared with.")] = "official",
    as_json: AsJson = False,
) -> None:
    """Print the fields in which two presets differ, with both values.

    Example: wtours presets diff paper official
    """
    from training.config.presets import differing_fields

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


def visualize(
    run: Annotated[str, typer.Argument(help="A run's name, its folder, or a checkpoint's.")],
    video: Annotated[str, typer.Option("--video", "-v", help="The video to show.")],
    shards: Annotated[str, typer.Option("--shards", help="The shard set it is in.")] = "default",
    clips: Annotated[int, typer.Option("--clips", min=1, help="How many clips.")] = 4,
    palette: Annotated[
        Palette,
        typer.Option(help="Colors of the objects: red, green and blue; or for all eyes."),
    ] = Palette.RGB,
    root: Root = ROOT,
) -> None:
    """Draw the tracked objects' attention over a clip's frames (the paper's Figures 4 to 6).

    A picture and a film (MP4) for each clip.
    Example: wtours visualize default --video venice --palette colourblind
    """
    require_torch("visualizing")
    from training.visualization.clips import visualize_clips

    layout = Layout(root)
    for path in visualize_clips(
        named_or_folder(run, layout.run_dir),
        named_or_folder(shards, layout.shards_dir),
        video,
        num_clips=clips,
        palette=palette.value,
    ):
        console.say(str(path))


def export(
    run: Annotated[str, typer.Argument(help="A run's name, its folder, or a checkpoint's.")],
    to: Annotated[
        ExportTarget,
        typer.Option(
            help="timm: a folder for timm.create_model; hf: for transformers; official: a .pth as "
            "the released code reads it; detectron2, seqtrack: a .pth for these."
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
    require_torch("exporting")
    from training.weights.export import export_run

    exported = export_run(named_or_folder(run, Layout(root).run_dir), to=to.value, out=out)
    console.say(f"{exported.path}\n{exported.how_to_load}")


def import_weights(
    file: Annotated[Path, typer.Argument(help="A .pth of DINO's or DORA's authors.")],
    run: Annotated[str, typer.Option("--run", help="Name of the run to make of it.")],
    root: Root = ROOT,
) -> None:
    """Make a run of released weights, for eval, visualize and export; runs no code of the file.

    Example: wtours import dino_deitsmall16_pretrain.pth --run dino
    """
    require_torch("importing")
    from training.weights.official import import_released

    console.say(str(import_released(file, Layout(root).run_dir(run))))
