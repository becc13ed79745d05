"""The commands that measure a trained encoder."""

from typing import Annotated

import typer

from wtours import console
from wtours.commands.options import ROOT, AsJson, Root, named_or_folder, require_torch
from wtours.layout import Layout


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
    require_torch("evaluation")
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
