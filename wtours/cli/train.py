"""The commands around training: pretrain, estimate, replay, presets, visualize, export, import."""

import dataclasses
import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wtours.cli import console
from wtours.cli.options import (
    ROOT,
    AsJson,
    Root,
    existing_run,
    named_or_folder,
    require_training,
)
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


ExistingRun = Annotated[
    str,
    typer.Argument(metavar="RUN", help="A run's name, its folder, or a checkpoint's folder."),
]

Shards = Annotated[
    str,
    typer.Argument(
        metavar="NAME|DIR",
        help="A shard set's name or folder; for the preset images a folder or tar of images.",
    ),
]

Preset = Annotated[
    str,
    typer.Option(
        "--preset",
        "-p",
        metavar="NAME",
        help="official (the released code), paper, dino, images or demo (for a CPU); "
        "`wtours presets list` says more.",
    ),
]

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="FILE", help="A YAML file over the preset."),
]

Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        metavar="KEY=VALUE",
        help="Over both, for example optim.steps=500; repeatable.",
    ),
]

Processes = Annotated[
    int, typer.Option(min=1, metavar="N", help="The processes that will share the batch.")
]


def pretrain(
    shards: Shards = "default",
    run: Annotated[
        str | None,
        typer.Option(
            "--run",
            metavar="NAME|DIR",
            help="The run's name, or its folder (with a /).",
            show_default="the shard set's",
        ),
    ] = None,
    preset: Preset = "official",
    config: ConfigFile = None,
    overrides: Overrides = None,
    resume: Annotated[
        Resume,
        typer.Option(
            help="auto: resume if the config is the same; never: refuse a run that has begun; "
            "force: resume with another config or other data."
        ),
    ] = Resume.AUTO,
    print_config: Annotated[bool, typer.Option("--print-config", hidden=True)] = False,
    replayed: Annotated[Path | None, typer.Option("--replay", hidden=True)] = None,
    estimated: Annotated[bool, typer.Option("--estimate", hidden=True)] = False,
    processes: Annotated[int, typer.Option(min=1, hidden=True)] = 1,
    as_json: Annotated[bool, typer.Option("--json", hidden=True)] = False,
    root: Root = ROOT,
) -> None:
    """Pretrain a ViT with DORA on shards; rerun the command to resume at the last checkpoint.

    On several GPUs: torchrun --no-python --nproc-per-node 8 -- wtours pretrain venice_30

    Examples:

    wtours pretrain --preset demo

    wtours pretrain venice_30 --set optim.global_batch_size=32 --set optim.epochs=50
    """
    if print_config:
        show_preset(preset, config, overrides)
        return
    if replayed is not None:
        replay(replayed, shards, root)
        return
    if estimated:
        estimate(shards, preset, config, overrides, processes, as_json, root)
        return
    resolved, shards_dir = _checked_config(shards, preset, config, overrides, root)
    run_dir = _run_folder(run or default_run_name(shards), Layout(root))
    from training.pretrain import run_pretraining

    with training_bar() as on_step:
        result = run_pretraining(
            resolved,
            shards_dir=shards_dir,
            run_dir=run_dir,
            resume=resume.value,
            on_step=on_step,
        )
    console.say(f"{run_dir}: {result.describe()}")
    if result.stopped_by is not None:
        raise typer.Exit(128 + result.stopped_by)


def _checked_config(
    shards: str, preset: str, config: Path | None, overrides: list[str] | None, root: Path
) -> tuple["TrainConfig", Path]:
    """Return the config and the folder of the shards; what is wrong is said before torch loads."""
    require_training("pretraining")
    from training.config.presets import resolve_config
    from wtours.shards.schema import read_dataset

    resolved = resolve_config(preset, config, overrides or [])
    if resolved.method == "dora_images":
        return resolved, Path(shards)
    folder = named_or_folder(shards, Layout(root).shards_dir)
    read_dataset(folder)
    return resolved, folder


def default_run_name(shards: str) -> str:
    """Return the name of the shard set or tar, as far as a run's can have its characters."""
    name = Path(shards).absolute().name.removesuffix(".tar")
    return re.sub("[^A-Za-z0-9_-]+", "-", name).strip("-_")[:64]


def _run_folder(run: str, layout: Layout) -> Path:
    """Return where a run is or will be: a folder beside of the same name is none of it."""
    return Path(run) if "/" in run else layout.run_dir(run)


def estimate(
    shards: Shards = "default",
    preset: Preset = "official",
    config: ConfigFile = None,
    overrides: Overrides = None,
    processes: Processes = 1,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Measure a few training steps and print the memory, the speed and the hours of the run.

    Nothing is written.

    Example: wtours estimate venice_30 --processes 8
    """
    resolved, shards_dir = _checked_config(shards, preset, config, overrides, root)
    from training.distributed.launch import joined_world
    from training.estimate import estimate as measure

    with joined_world() as world:
        found = measure(resolved, shards_dir=shards_dir, world=world, processes=processes)
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
    count = "1 process" if found.processes == 1 else f"{found.processes} processes"
    console.print_table(f"Estimate for {count}", ("", "each"), rows)
    for note in found.notes:
        console.say(note)


def replay(
    listing: Annotated[
        Path, typer.Argument(metavar="FILE", help="A run's nonfinite-step-N.json.", dir_okay=False)
    ],
    shards: Shards = "default",
    root: Root = ROOT,
) -> None:
    """Compute a step whose loss was not finite again, and name the first layer that is not.

    Start as many processes as the run had; nothing is written.

    Example: wtours replay data/runs/default/nonfinite-step-12.json
    """
    require_training("replaying a step")
    from training.distributed.launch import joined_world
    from training.nan_replay import replay as compute

    with joined_world() as world:
        result = compute(listing, named_or_folder(shards, Layout(root).shards_dir), world)
    console.say(result.describe())


def list_presets(as_json: AsJson = False) -> None:
    """List the presets of training, and in how many fields each differs from `official`.

    Example: wtours presets list
    """
    require_training("presets", packages=["yaml"])
    from training.config.presets import ABOUT, PRESETS, differing_fields

    counts = {name: len(differing_fields(name, "official")) for name in PRESETS}
    if as_json:
        console.print_json(
            {name: {"about": ABOUT[name], "fields": count} for name, count in counts.items()}
        )
        return
    console.print_table(
        f"{len(counts)} presets",
        ("preset", "what it is", "fields that differ"),
        [(name, ABOUT[name], str(count)) for name, count in counts.items()],
    )


def show_preset(
    preset: Annotated[str, typer.Argument(metavar="NAME", help="A preset.")] = "official",
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Print the whole config of a preset as YAML, with a file's and --set's changes.

    Example: wtours presets show demo --set optim.steps=500 > config.yaml
    """
    require_training("presets", packages=["yaml"])
    from training.config.presets import resolve_config
    from training.config.train import to_yaml

    console.say(to_yaml(resolve_config(preset, config, overrides or [])))


def diff_presets(
    one: Annotated[str, typer.Argument(metavar="NAME", help="A preset.")],
    other: Annotated[
        str, typer.Argument(metavar="NAME", help="The preset it is compared with.")
    ] = "official",
    as_json: AsJson = False,
) -> None:
    """Print the fields in which two presets differ, with both values.

    Example: wtours presets diff paper official
    """
    require_training("presets", packages=["yaml"])
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
    run: ExistingRun,
    video: Annotated[str, typer.Option("--video", metavar="ID", help="The video to show.")],
    shards: Annotated[
        str, typer.Option("--shards", metavar="NAME|DIR", help="The shard set it is in.")
    ] = "default",
    clips: Annotated[int, typer.Option("--clips", min=1, metavar="N", help="Clips to draw.")] = 4,
    palette: Annotated[
        Palette,
        typer.Option(help="Colors of the objects: red, green and blue; or for all eyes."),
    ] = Palette.RGB,
    root: Root = ROOT,
) -> None:
    """Draw the tracked objects' attention over a clip's frames (the paper's Figures 4 to 6).

    Writes an image and a video (MP4) for each clip.

    Example: wtours visualize default --video venice --palette colourblind
    """
    require_training("visualizing")
    layout = Layout(root)
    run_dir = existing_run(run, layout.run_dir)
    from training.visualization.clips import visualize_clips

    for path in visualize_clips(
        run_dir,
        named_or_folder(shards, layout.shards_dir),
        video,
        num_clips=clips,
        palette=palette.value,
    ):
        console.say(str(path))


def export(
    run: ExistingRun,
    to: Annotated[
        ExportTarget,
        typer.Option(
            help="timm: a folder for timm.create_model; hf: for transformers; official: a .pth as "
            "the released code reads it; detectron2, seqtrack: a .pth for these."
        ),
    ] = ExportTarget.TIMM,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="PATH", help="Where to.", show_default="in the run's exports"
        ),
    ] = None,
    root: Root = ROOT,
) -> None:
    """Write a run's teacher as a file that other programs load, and print how.

    Example: wtours export default --to timm
    """
    require_training("exporting")
    run_dir = existing_run(run, Layout(root).run_dir)
    from training.weights.export import export_run

    exported = export_run(run_dir, to=to.value, out=out)
    console.say(f"{exported.path}\n{exported.how_to_load}")


def import_weights(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A .pth of DINO's or DORA's authors.")
    ],
    run: Annotated[str, typer.Option("--run", metavar="NAME|DIR", help="The run to make of it.")],
    root: Root = ROOT,
) -> None:
    """Make a run of released weights, for eval, visualize and export; runs no code of the file.

    Example: wtours import dino_deitsmall16_pretrain.pth --run dino
    """
    require_training("importing")
    from training.weights.official import import_released

    console.say(str(import_released(file, _run_folder(run, Layout(root)))))
