"""The commands on a run: replay, rewind, export, import."""

import dataclasses
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from wtours.cli import console
from wtours.cli.options import (
    ROOT,
    AsJson,
    Root,
    Shards,
    existing_run,
    require_training,
    run_folder,
)
from wtours.cli.sets.places import shard_set
from wtours.workspace.layout import Layout

_SPIKES = 10


class ExportTarget(StrEnum):
    """What `wtours export` writes for."""

    TIMM = "timm"
    HF = "hf"
    ONNX = "onnx"
    OFFICIAL = "official"
    DETECTRON2 = "detectron2"
    SEQTRACK = "seqtrack"


ExistingRun = Annotated[
    str,
    typer.Argument(metavar="RUN", help="A run's name, its folder, or a checkpoint's folder."),
]


def export(
    run: ExistingRun,
    to: Annotated[
        ExportTarget,
        typer.Option(
            metavar="FORMAT",
            help="timm: a folder for timm.create_model; hf: for transformers; onnx: "
            "for ONNX Runtime and others; official: a .pth as "
            "the released code reads it; detectron2, seqtrack: a .pth for these.",
        ),
    ] = ExportTarget.TIMM,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="PATH", help="Where to.", show_default="in the run's exports"
        ),
    ] = None,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Write a run's teacher as a file that other programs load, with a model card; print how.

    Example: wtours export default --to timm
    """
    require_training("exporting")
    run_dir = existing_run(run, Layout(root).run_dir)
    from training.weights.export import export_run

    exported = export_run(run_dir, to=to.value, out=out)
    if as_json:
        content = {"path": exported.path, "card": exported.card}
        shown = {name: str(path) for name, path in content.items()}
        console.print_json(shown | {"how_to_load": exported.how_to_load})
        return
    console.say(f"{exported.path}\n{exported.how_to_load}")


def import_weights(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A .pth of DINO's or DORA's authors.")
    ],
    run: Annotated[str, typer.Option("--run", metavar="NAME|DIR", help="The run to make of it.")],
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Make a run of released weights, for eval, visualize and export; runs no code of the file.

    Example: wtours import dino_deitsmall16_pretrain.pth --run dino
    """
    require_training("importing")
    from training.weights.official import import_released

    made = str(import_released(file, run_folder(run, Layout(root))))
    if as_json:
        console.print_json({"run": made})
        return
    console.say(made)


def replay(
    listing: Annotated[
        Path, typer.Argument(metavar="FILE", help="A run's nonfinite-step-N.json.", dir_okay=False)
    ],
    shards: Shards = "default",
    as_json: AsJson = False,
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
        result = compute(listing, shard_set(shards, root), world)
    if as_json:
        console.print_json(dataclasses.asdict(result))
        return
    console.say(result.describe())


def rewind(
    run: ExistingRun,
    step: Annotated[
        int | None,
        typer.Option("--step", metavar="N", help="Show this step; else the largest spikes."),
    ] = None,
    shards: Annotated[
        str, typer.Option("--shards", metavar="NAME|DIR", help="The run's shard set.")
    ] = "default",
    clips: Annotated[
        int, typer.Option("--clips", min=1, metavar="N", help="At most so many of its clips.")
    ] = 8,
    rank: Annotated[
        bool,
        typer.Option("--rank", help="Compute each clip's loss by that checkpoint; highest first."),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="FILE", help="The page.", show_default="in the run's folder"
        ),
    ] = None,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Show a past step: its clips, crops and metrics, masks by the nearest checkpoint.

    All of it follows from the seed and the step. Without --step: the steps whose loss rose most.

    Examples:

    wtours rewind default

    wtours rewind default --step 137 --rank
    """
    require_training("rewinding a run")
    run_dir = existing_run(run, Layout(root).run_dir)
    from training.rewind import largest_spikes

    spikes = largest_spikes(run_dir, _SPIKES)
    rows = [(one.step, one.loss, one.before, one.jump) for one in spikes]
    if step is None:
        if as_json:
            named = ("step", "loss", "before", "jump")
            console.print_json({"spikes": [dict(zip(named, row, strict=True)) for row in rows]})
            return
        console.print_table(
            f"{run_dir}: steps whose loss rose most",
            ("step", "loss", "before", "rise"),
            [(str(at), *(f"{value:.4g}" for value in values)) for at, *values in rows],
        )
        return
    from training.distributed.launch import joined_world
    from training.rewind import rewind as rewound
    from wtours.report.runs.rewind import ShownClip, write_rewind_page

    with joined_world() as world:
        found = rewound(
            run_dir,
            shard_set(shards, root),
            step,
            num_clips=clips,
            rank_clips=rank,
            world=world,
        )
    page = out or run_dir / f"rewind-step-{step:08d}.html"
    write_rewind_page(
        page,
        run=run_dir.name,
        step=step,
        metrics=found.metrics,
        checkpoint=found.checkpoint.name,
        clips=[ShownClip(clip.facts, clip.crops, clip.masks) for clip in found.clips],
        num_clips=found.num_clips,
        spikes=rows,
    )
    if as_json:
        console.print_json(
            {
                "run": str(run_dir),
                "step": step,
                "page": str(page),
                "metrics": found.metrics,
                "checkpoint": str(found.checkpoint),
                "clips_of_step": found.num_clips,
                "clips": [clip.facts for clip in found.clips],
            }
        )
        return
    loss = (found.metrics or {}).get("loss", "not logged")
    console.say(f"step {step}: loss {loss}; {found.num_clips} clips, masks of {found.checkpoint}")
    for clip in found.clips:
        of_clip = f", loss {clip.facts['loss']:.4f}" if rank else ""
        name = clip.facts.get("video_id") or clip.facts.get("image")
        times = ", ".join(f"{pts / 1e6:.2f}" for pts in clip.facts.get("pts_us", ()))
        console.say(f"  {name} {times} s (position {clip.facts['position']}{of_clip})")
    console.say(str(page))
