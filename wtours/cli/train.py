"""The commands that train: pretrain, estimate."""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn

from wtours.cli import console
from wtours.cli.command import offer_runs
from wtours.cli.next_command import is_said, note_next
from wtours.cli.options import (
    ROOT,
    AsJson,
    Root,
    Shards,
    require_package,
    require_training,
    run_folder,
)
from wtours.cli.presets import ConfigFile, Overrides, Preset, show_preset
from wtours.cli.sets.places import shard_set
from wtours.text import bytes_text, counted, docs_page, plain, seconds_text
from wtours.workspace.layout import Layout

if TYPE_CHECKING:
    from training.config.presets import GpuMemory
    from training.config.train import TrainConfig
    from training.engine.metrics import StepStatus

_WIDE = 110
"""Characters of a terminal in which there is room for a bar beside the numbers."""

Resume = Literal["auto", "never", "force"]
"""What `wtours pretrain` does with a run that has begun."""

GpuMemoryOption = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Choose bfloat16, then micro-batches, then activation checkpointing, as far as "
        "the same batch needs to fit a GPU of so much, for example 24GB.",
        show_default=False,
    ),
]


def pretrain(
    shards: Shards = "default",
    run: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|DIR",
            autocompletion=offer_runs,
            help="The run's name, or its folder (with a /).",
            show_default="the shard set's",
        ),
    ] = None,
    preset: Preset = "official",
    config: ConfigFile = None,
    overrides: Overrides = None,
    gpu_memory: GpuMemoryOption = None,
    resume: Annotated[
        Resume,
        typer.Option(
            metavar="WHEN",
            help="auto: resume if the config is the same; never: refuse a run that has begun; "
            "force: resume with another config or other data.",
        ),
    ] = "auto",
    print_config: Annotated[bool, typer.Option(hidden=True)] = False,
    replayed: Annotated[Path | None, typer.Option("--replay", hidden=True)] = None,
    estimated: Annotated[bool, typer.Option("--estimate", hidden=True)] = False,
    processes: Annotated[int, typer.Option(min=1, hidden=True)] = 1,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Pretrain a ViT with DORA on shards; rerun the command to resume at the last checkpoint.

    On several GPUs: torchrun --no-python --nproc-per-node 8 -- wtours pretrain venice_30

    Examples:

    wtours pretrain --preset demo

    wtours pretrain venice_30 --set optim.global_batch_size=32 --set optim.epochs=50

    wtours pretrain s3://bucket/walks/shards/venice_30 --scratch /mnt/nvme
    """
    if print_config:  # the old spellings of three commands
        show_preset(preset, config, overrides)
        return
    if replayed is not None:
        from wtours.cli.runs import replay

        replay(replayed, shards, as_json, root)
        return
    if estimated:
        estimate(shards, preset, config, overrides, gpu_memory, processes, as_json, root)
        return
    run_dir = run_folder(run or default_run_name(shards), Layout(root))  # runs stay on a disk
    resolved, shards_dir, memory = _checked(shards, preset, config, overrides, gpu_memory, root)
    with console.loading_torch(f"pretrain {run_dir}"):
        from training.pretrain import run_pretraining

    with training_bar() as on_step:
        result = run_pretraining(
            resolved,
            shards_dir=shards_dir,
            run_dir=run_dir,
            resume=resume,
            gpu_memory=memory,
            on_step=on_step,
        )
    if as_json:
        console.print_json({"run": str(run_dir), **result.to_json()})
    else:
        console.say(f"{run_dir}: {result.describe()}")
        if result.stopped_by is None and is_said():
            _note_next(run_dir, shards, shards_dir, root, resolved)
    if result.stopped_by is not None:
        raise typer.Exit(128 + result.stopped_by)


@contextlib.contextmanager
def training_bar() -> Iterator[Callable[["StepStatus"], None]]:
    """Show loss, clips a second, data wait, memory and time left; yield what updates them."""
    if not console.is_live():
        lines = console.Lines()
        with lines.never_silent("pretrain"):
            yield _training_lines(lines)
        return
    columns: list[ProgressColumn] = [
        TextColumn("{task.description}", markup=False),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}", markup=False),
    ]
    if console.err.width >= _WIDE:
        columns.insert(1, BarColumn(bar_width=20))
    bar = Progress(*columns, console=console.err)
    task = bar.add_task("pretrain", total=None, status="starting")

    def on_step(now: "StepStatus") -> None:
        run, status = plain(now.run), _status(now)
        bar.update(task, description=run, completed=now.step, total=now.steps, status=status)

    with bar:
        yield on_step


def _training_lines(lines: console.Lines) -> Callable[["StepStatus"], None]:
    def on_step(now: "StepStatus") -> None:
        text = f"{plain(now.run)}: step {now.step:,} of {now.steps:,} · {_status(now)}"
        lines.say(now.run, text, is_last=now.step == now.steps)

    return on_step


def _status(now: "StepStatus") -> str:
    return f"{now.describe()} · {seconds_text(now.seconds_left)} left"


def _note_next(
    run_dir: Path, shards: str, place: Path | str, root: Path, config: "TrainConfig"
) -> None:
    """Say what can be done with a trained run, as commands to copy."""
    from training.data.clips import open_clips
    from wtours.shards.schema import DATASET_FILE

    run = run_dir.name if run_dir == Layout(root).run_dir(run_dir.name) else str(run_dir)
    commands: list[tuple[str, ...]] = [("runs", run), ("export", run)]
    if isinstance(place, str) or (place / DATASET_FILE).is_file():
        is_found = isinstance(place, Path) and place.parent == Layout(root).root / "shards"
        of_set = () if is_found else ("--shards", shards)
        clips = open_clips(place, config.data).num_clips  # a short video may have none
        video = max(clips, key=clips.__getitem__)
        commands.insert(1, ("visualize", run, *of_set, "--video", video))
    for words in commands:
        note_next(*words, root=root)
    console.note(f"To measure it, with labels or without: {docs_page('howto/measure')}")


def _checked(
    shards: str,
    preset: str,
    config: Path | None,
    overrides: list[str] | None,
    gpu_memory: str | None,
    root: Path,
) -> tuple["TrainConfig", Path | str, "GpuMemory | None"]:
    """Return the config, the place of the shards and --gpu-memory, before torch loads."""
    require_training("pretraining")
    from training.config.presets import GpuMemory, chosen_keys, parse_memory, resolve_config
    from wtours.shards.range_reads.remote import dataset_at
    from wtours.shards.schema import DATASET_FILE

    resolved = resolve_config(preset, config, overrides or [])
    for logger in resolved.watch.loggers:
        extra = "train" if logger == "tensorboard" else logger
        require_package(logger, extra, f"watch.loggers={logger}")
    place = shard_set(shards, root)
    is_images = isinstance(place, Path) and not (place / DATASET_FILE).is_file()
    if resolved.data.clip_length == 1 and is_images:
        place = Path(shards)  # images: a clip of one frame each
    else:
        dataset_at(place)
    if gpu_memory is None:
        return resolved, place, None
    return (
        resolved,
        place,
        GpuMemory(parse_memory(gpu_memory), chosen_keys(config, overrides or [])),
    )


def default_run_name(shards: str) -> str:
    """Return the name of the shard set or tar, as far as a run's can have its characters."""
    name = Path(shards).absolute().name.removesuffix(".tar")
    return re.sub("[^A-Za-z0-9_-]+", "-", name).strip("-_")[:64]


def estimate(
    shards: Shards = "default",
    preset: Preset = "official",
    config: ConfigFile = None,
    overrides: Overrides = None,
    gpu_memory: GpuMemoryOption = None,
    processes: Annotated[
        int, typer.Option(min=1, help="The processes that will share the batch.")
    ] = 1,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Measure a few training steps and print the memory, the speed and the hours of the run.

    Nothing is written.

    Example: wtours estimate venice_30 --processes 8
    """
    resolved, shards_dir, memory = _checked(shards, preset, config, overrides, gpu_memory, root)
    with console.loading_torch(f"estimate {shards}"):
        from training.distributed.launch import joined_world
        from training.estimate import estimate as measure
        from training.gpu_memory import fit_memory

    with joined_world() as world:
        if memory is not None:
            fit = fit_memory(
                resolved, memory, shards_dir=shards_dir, world=world, processes=processes
            )
            console.note(fit.describe())
            resolved = fit.config
        console.note("measuring a few steps, which may take minutes on a CPU")
        found = measure(resolved, shards_dir=shards_dir, world=world, processes=processes)
    if as_json:
        console.print_json(dataclasses.asdict(found) | {"notes": found.notes})
        return
    rows = (
        ("parameters of the student", f"{found.parameters / 1e6:.1f} M"),
        ("weights, gradients, moments", bytes_text(found.state_bytes)),
        (
            f"activations of {counted(found.clips_per_part, 'clip')}",
            bytes_text(found.activation_bytes),
        ),
        ("peak memory as measured", bytes_text(found.measured_peak_bytes)),
        ("time of a step", f"{found.step_seconds:.2f} s"),
        ("decoding a clip, one worker", f"{found.decode_seconds_per_clip * 1000:.0f} ms"),
        ("workers that keep up", str(found.workers_needed)),
        ("read from the shards, all processes", f"{bytes_text(found.read_bytes_per_second)}/s"),
        ("clips, all processes", f"{found.clips_per_second:.3g}/s"),
        ("steps", f"{found.steps:,}"),
        ("whole schedule", f"{found.hours:,.1f} hours"),
    )
    count = counted(found.processes, "process", "processes")
    console.print_table(f"Estimate for {count}", ("", "each"), rows)
    for note in found.notes:
        console.say(note)
