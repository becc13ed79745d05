"""The commands that classify images by frozen features: eval knn, eval linear."""

from typing import Annotated

import typer

from wtours.cli.evaluation.spine import Named, opened, print_result
from wtours.cli.options import ROOT, AsJson, Root

Train = Annotated[
    str,
    typer.Option(
        metavar="DIR|TAR",
        help="Images, a folder a class: DIR, TAR or TAR:prefix/inside; or a dataset saved on disk.",
    ),
]
Val = Annotated[str, typer.Option(metavar="DIR|TAR", help="The same, for the test images.")]


def eval_knn(
    run: Named,
    train: Train,
    val: Val,
    random_baseline: Annotated[
        bool,
        typer.Option("--random-baseline", help="Also measure the same network untrained."),
    ] = False,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Weighted k-nearest-neighbor accuracy of the frozen teacher (k 10, 20, 100, 200).

    Example: wtours eval knn default --train images.tar:train --val images.tar:val
    """
    with opened(run, root, train, val) as (backbone, _, on_progress):
        from training.evaluation.knn import evaluate_knn

        result = evaluate_knn(
            backbone, train, val, random_baseline=random_baseline, on_progress=on_progress
        )
    networks = result.content["results"]
    print_result(
        result,
        f"k-NN top-1 accuracy, %, of {run}",
        ("network", *(f"k = {score['k']}" for score in networks["teacher"])),
        [
            (network.replace("_", " "), *(f"{score['top1_percent']:.1f}" for score in scores))
            for network, scores in networks.items()
        ],
        as_json=as_json,
    )


def eval_linear(
    run: Named,
    train: Train,
    val: Val,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training images.")] = 100,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Images of a step, over all processes.")
    ] = 1024,
    rates: Annotated[
        list[float] | None,
        typer.Option(
            "--lr",
            metavar="RATE",
            help="Learning rate for 256 images; repeatable, all are trained at once. Default: "
            "0.001 (DINO's, the paper's), 0.003, 0.01 (the released DoRA's), 0.03, 0.1.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Decoders for each process.")] = 4,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Train linear classifiers on the frozen features, as DINO does; resumes where it stopped.

    On several GPUs: torchrun --no-python --nproc-per-node 8 -- wtours eval linear …

    Example: wtours eval linear default --train imagenet/train --val imagenet/val
    """
    with opened(run, root, train, val, on_ranks=True) as (backbone, world, on_progress):
        from training.evaluation.linear_probe import evaluate_linear
        from training.evaluation.linear_protocol import SWEEP, LinearProbeConfig

        config = LinearProbeConfig(
            epochs=epochs,
            batch_size=batch_size,
            rates=tuple(rates) if rates else SWEEP,
            num_workers=workers,
        )
        result = evaluate_linear(
            backbone, train, val, config=config, world=world, on_progress=on_progress
        )
    if result is None:  # the first process wrote it
        return
    print_result(
        result,
        f"Linear classification, top-1 accuracy, %, of {run}",
        ("learning rate x batch / 256", "best epoch", "best", "last"),
        [
            (
                f"{head['learning_rate_for_256']:g}",
                str(head["best_epoch"]),
                f"{head['best_top1_percent']:.1f}",
                f"{head['last_top1_percent']:.1f}",
            )
            for head in result.content["results"]["heads"]
        ],
        as_json=as_json,
    )
