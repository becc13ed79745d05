"""The commands that measure a trained encoder."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wtours import console
from wtours.commands.options import (
    ROOT,
    AsJson,
    Root,
    named_or_folder,
    require_scipy,
    require_torch,
)
from wtours.layout import Layout
from wtours.progress import no_progress

if TYPE_CHECKING:
    from training.results import Published

_STATISTICS = ("mean", "recall", "decay")


class Discovery(StrEnum):
    """How `wtours eval discover` finds objects."""

    ATTENTION = "attention"
    LOST = "lost"


Named = Annotated[
    str,
    typer.Argument(
        metavar="BACKBONE",
        help="A run's name or folder, a checkpoint's, RUN,random; a .pth of DINO's or DORA's "
        "authors; timm:NAME, timm:NAME,FILE, timm:NAME,random; or hf:NAME (docs/evaluation.md).",
    ),
]

Train = Annotated[
    str,
    typer.Option(
        "--train", help="Class folders: DIR, TAR or TAR:prefix/inside; or a dataset saved on disk."
    ),
]
Val = Annotated[str, typer.Option("--val", help="The same, for the test images.")]


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
    measured = result.content["results"]
    say_result(
        result,
        f"k-NN top-1 accuracy, %, of {run}",
        ("network", *(f"k = {score['k']}" for score in measured["teacher"])),
        [
            (network.replace("_", " "), *(f"{score['top1_percent']:.1f}" for score in scores))
            for network, scores in measured.items()
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
    """Train linear classifiers on the frozen features, as DINO does; goes on where it stopped.

    On several GPUs: torchrun --nproc-per-node 8 -m wtours eval linear …

    Example: wtours eval linear default --train imagenet/train --val imagenet/val
    """
    require_torch("evaluation")
    from training.backbones import open_backbone
    from training.distributed import joined_world
    from training.linear import evaluate_linear
    from training.linear_protocol import SWEEP, LinearSettings

    settings = LinearSettings(
        epochs=epochs,
        batch_size=batch_size,
        rates=tuple(rates) if rates else SWEEP,
        num_workers=workers,
    )
    backbone = open_backbone(run, Layout(root).run_dir)
    with joined_world() as world, _bars(world.is_main) as on_progress:
        result = evaluate_linear(
            backbone, train, val, settings=settings, world=world, on_progress=on_progress
        )
    if result is None:
        return
    say_result(
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
    require_torch("evaluation")
    require_scipy("discovery")
    from training.backbones import open_backbone
    from training.discover import evaluate_discover

    backbone = open_backbone(run, Layout(root).run_dir)
    with console.progress_bars("eval", "steps") as on_progress:
        result = evaluate_discover(
            backbone,
            voc,
            split=split,
            method=method.value,
            pictures=pictures,
            on_progress=on_progress,
        )
    measured = result.content["results"]
    say_result(
        result,
        f"Object discovery on {split}, %, of {run}",
        ("method", "CorLoc", "Jaccard"),
        [
            (
                method.value,
                *(_percent(measured[key]) for key in ("corloc_percent", "jaccard_percent")),
            )
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
    """Masks carried through videos by frozen features: J and F on DAVIS 2017, as DINO does it.

    Example: wtours eval vos default --davis DAVIS
    """
    require_torch("evaluation")
    require_scipy("video object segmentation")
    from training.backbones import open_backbone
    from training.vos import evaluate_vos

    backbone = open_backbone(run, Layout(root).run_dir)
    with console.progress_bars("eval", "steps") as on_progress:
        result = evaluate_vos(
            backbone, davis, split=split, masks_dir=masks, on_progress=on_progress
        )
    measured = result.content["results"]
    say_result(
        result,
        f"Video object segmentation, %, of {run}; J&F {measured['jf_mean_percent']:.1f}",
        ("measure", "mean", "recall", "decay"),
        [
            (name, *(f"{measured[f'{key}_{part}_percent']:.1f}" for part in _STATISTICS))
            for name, key in (("J, regions", "j"), ("F, boundaries", "f"))
        ],
        as_json=as_json,
    )


def eval_table(
    runs: Annotated[list[str], typer.Argument(metavar="RUN…", help="Runs, or their folders.")],
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    as_json: AsJson = False,
    root: Root = ROOT,
) -> None:
    """The paper's Tables 2, 3, 4, 5, 7 and 8, with what was measured of runs beside its figures.

    Example: wtours eval table default walk30 --markdown > tables.md
    """
    from training import tables
    from training.published import TABLES

    measured = tables.collect(named_or_folder(run, Layout(root).run_dir) for run in runs)
    if as_json:
        console.print_json(tables.as_json(measured))
        return
    if markdown:
        console.say(tables.as_markdown(measured))
        return
    for table in TABLES:
        console.print_table(
            f"Table {table.number}: {table.title}",
            (*table.labels, *table.measures),
            tables.table_rows(table, measured),
        )
    for note in tables.footnotes(measured):
        console.say(note)


def _percent(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.1f}"


def _bars(shown: bool) -> AbstractContextManager[Callable[[str, float, float | None], None]]:
    """Return the bars of an evaluation; of several processes one shows them."""
    return console.progress_bars("eval", "steps") if shown else nullcontext(no_progress)


def say_result(
    result: "Published",
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    as_json: bool,
) -> None:
    """Print a result as JSON, or as a table, its notes and where it lies."""
    if as_json:
        console.print_json(result.content)
        return
    console.print_table(title, columns, rows)
    for note in result.notes:
        console.say(note)
    console.say(str(result.path))
