"""What the commands of an evaluation share.

One spine: open the backbone, measure it under a progress bar, print the result that was written.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wtours.cli import console
from wtours.cli.command import offer_runs
from wtours.cli.options import existing_run, require_path, require_training
from wtours.errors import UsageError
from wtours.progress import Progress, no_progress
from wtours.workspace.layout import Layout

if TYPE_CHECKING:
    from training.distributed.world import World
    from training.evaluation.results import EvalResult
    from training.weights.backbones import Backbone

Named = Annotated[
    str,
    typer.Argument(
        metavar="BACKBONE",
        autocompletion=offer_runs,
        help="A run's name or folder, a checkpoint's, RUN,random; a .pth of DINO's or DORA's "
        "authors; timm:NAME, timm:NAME,FILE, timm:NAME,random; or hf:NAME.",
    ),
]


@contextmanager
def opened(
    run: str, root: Path, *data: str | Path, on_ranks: bool = False
) -> Iterator[tuple["Backbone", "World", Progress]]:
    """Yield the backbone on its device, this process among those of torchrun, and a progress bar.

    While entered, float32 is multiplied as the backbone's run has it, or as runs do by default.
    Refuses at once what is not there of `data`: files or folders, or TAR:prefix. With `on_ranks`
    the work is shared by the processes of torchrun.
    """
    _require_backbone(run, root)
    for place in map(str, data):
        tar = place.rpartition(":")[0]
        require_path(Path(tar if tar and Path(tar).is_file() else place))
    with console.loading_torch(f"eval {run}"):
        from training.config.sections import OptimConfig
        from training.distributed.launch import joined_world
        from training.engine.precision import numerics
        from training.weights.backbones import open_backbone

    backbone = open_backbone(run, Layout(root).run_dir)
    optim = OptimConfig() if backbone.config is None else backbone.config.optim
    with joined_world() as world, numerics(optim, world.device):
        if world.world_size > 1 and not on_ranks:
            raise UsageError("this evaluation runs in one process: leave out torchrun")
        backbone.network.to(world.device)
        bars = console.progress_bars("eval", "steps") if world.is_main else nullcontext(no_progress)
        with bars as on_progress:
            yield backbone, world, on_progress


def print_result(
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
    from training.engine.checkpoint_files import RANDOM

    bare = name.removesuffix(RANDOM)
    of_others = bare.startswith(("timm:", "hf:"))
    file = bare.partition(",")[2] if of_others else bare
    if file and (of_others or Path(file).suffix in (".pth", ".pt")):
        require_path(Path(file))
    elif not of_others and not Path(file).is_file():
        existing_run(file, root)
