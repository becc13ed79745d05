"""The commands that measure a trained encoder."""

from typing import TYPE_CHECKING, Annotated

import typer

from wtours import console
from wtours.commands.options import ROOT, AsJson, Root, require_torch
from wtours.layout import Layout

if TYPE_CHECKING:
    from training.results import Published

Named = Annotated[
    str,
    typer.Argument(
        metavar="BACKBONE",
        help="A run's name or folder, a checkpoint's, RUN,random; a .pth of DINO's or DORA's "
        "authors; timm:NAME, timm:NAME,FILE, timm:NAME,random; or hf:NAME (docs/evaluation.md).",
    ),
]


def eval_knn(
    run: Named,
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
    require_torch("evaluation")
    from training.backbones import open_backbone
    from training.evaluate import evaluate_knn

    backbone = open_backbone(run, Layout(root).run_dir)
    with console.progress_bars("eval", "steps") as on_progress:
        result = evaluate_knn(
            backbone, train, val, random_baseline=random_baseline, on_progress=on_progress
        )
    if as_json:
        console.print_json(result.content)
        return
    measured = result.content["results"]
    console.print_table(
        f"k-NN top-1 accuracy, %, of {run}",
        ("network", *(f"k = {score['k']}" for score in measured["teacher"])),
        [
            (network.replace("_", " "), *(f"{score['top1_percent']:.1f}" for score in scores))
            for network, scores in measured.items()
        ],
    )
    _say_where(result)


def _say_where(result: "Published") -> None:
    for note in result.notes:
        console.say(note)
    console.say(str(result.path))
