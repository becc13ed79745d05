"""The commands on a trained run: visualize, export, import."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from wtours.cli import console
from wtours.cli.options import (
    ROOT,
    Root,
    existing_run,
    named_or_folder,
    require_training,
    run_folder,
)
from wtours.workspace.layout import Layout


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

    console.say(str(import_released(file, run_folder(run, Layout(root)))))
